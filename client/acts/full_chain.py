#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A full chain in ACTS with trackmill and, on the same events, with ACTS's own seeding and CKF.

    pip install ./client/python pyacts==48.1.0 pythia8mc==8.317.2 matplotlib
    full_chain.py --mu 40 --events 20 --broker tcp://127.0.0.1:5570 --out pu40.json
    full_chain.py --gun 13 --count 50 --picture muons.svg                  # no broker: the engine in this process
    full_chain.py --plot pu0.json pu40.json pu200.json --figure chain.svg  # the figure; and the table, in Markdown

Simulation (Pythia 8 or a particle gun, Fatras, geometric digitisation) -> space points ->
  trackmill -> start parameters -> Kalman fit, refit -> selection, and
  seeding -> combinatorial Kalman filter -> greedy ambiguity resolution ->
ACTS's truth matcher and performance writer for both, with double matching; and the figures of docs/metrics.md, with bins
and resolutions, which the writer does not have. The same cuts on tracks hold for both (CUTS in figures.py).

The sequencer has one thread, so that the processor time between two algorithms is theirs.
"""
import argparse
import csv
import json
import os
import tempfile
from pathlib import Path

import figures


def run(options):
    """Simulates, finds with both, scores: returns the figures."""
    import acts.examples as ex
    import chain
    finders = ["trackmill"] if options.no_ckf else ["trackmill", "ckf"]
    with tempfile.TemporaryDirectory() as directory:
        detector, geometry, field = chain.build(directory)
        s = ex.Sequencer(skip=options.first, events=options.events, numThreads=1, logLevel=chain.QUIET, trackFpes=False,
                         outputDir=directory, outputTimingFile="timing.csv")
        chain.add_simulation(s, chain.event_options(**vars(options)), directory, geometry, field)
        finder, (begin, found, fitted) = chain.add_trackmill(
            s, geometry, field, options.broker, options.model, ttl=options.ttl, minPt=options.min_pt,
            logLevel=chain.acts.logging.ERROR)
        if not options.no_ckf:
            ckf_begin, ckf_end = chain.add_ckf(s, directory, geometry, field)
        scorer = chain.Scorer(finders)
        s.addAlgorithm(scorer)
        if options.picture:
            first = chain.Keep()
            s.addAlgorithm(first)
        writers = {name: chain.add_acts_score(s, name) for name in finders}
        s.run()
        with open(os.path.join(directory, "timing.csv")) as file:
            walls = {row["identifier"]: float(row["time_perevent_s"]) for row in csv.DictReader(file)}
        del detector
    if options.picture:
        figures.picture(first.positions, first.lists, options.picture)
    steps, errors = {"find": begin.until(found), "fit": found.until(fitted)}, {}
    if not options.no_ckf:
        steps["ckf"] = ckf_begin.until(ckf_end)
        errors = {"paired_errors": figures.paired_errors(scorer.scores["trackmill"], scorer.scores["ckf"])}
    gun = f"{options.count} particles {options.gun}"
    return {"label": options.label or (f"PU{options.mu:g}" if options.gun is None else gun),
            "options": {name: value for name, value in vars(options).items() if name not in ("plot", "figure", "out", "picture")},
            "cuts": figures.CUTS, "wanted": figures.WANTED, "ckf": chain.CKF,
            "figures": {name: figures.total(scores) for name, scores in scorer.scores.items()},
            "acts": {name: {key: value for key, value in writer.stats().items() if isinstance(value, (int, float))}
                     for name, writer in writers.items()},
            "wall_s": {name: wall for name, (wall, _) in steps.items()},
            "cpu_s": {name: cpu for name, (_, cpu) in steps.items()},
            "wall_by_algorithm_s": walls, "summary": vars(finder.summary), **errors}


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", help="tcp://host:5570[,…]; without: the engine in this process")
    parser.add_argument("--model", help="name or name@version; embedded also a weight file")
    parser.add_argument("--ttl", type=float, default=300.0, help="seconds that an event may take")
    parser.add_argument("--min-pt", type=float, default=0.5, help="GeV: softer candidates of trackmill are not fitted")
    parser.add_argument("--events", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first event")
    parser.add_argument("--seed", type=int, default=71)
    parser.add_argument("--mu", type=float, default=40.0, help="mean number of pile-up collisions over one ttbar")
    parser.add_argument("--gun", type=int, choices=(11, 13, 211, 321, 2212), help="no collisions: this particle")
    parser.add_argument("--count", type=int, default=50, help="particles per event of --gun")
    parser.add_argument("--pt", type=float, nargs=2, default=(1.0, 100.0), help="pT range of --gun")
    parser.add_argument("--eta", type=float, default=2.5, help="|eta| limit of --gun")
    parser.add_argument("--no-ckf", action="store_true", help="trackmill alone")
    parser.add_argument("--label", help="name of the sample")
    parser.add_argument("--out", help="JSON file for the figures")
    parser.add_argument("--picture", help="SVG file: the first event with trackmill's tracks")
    parser.add_argument("--plot", nargs="+", metavar="JSON", help="no run: table and --figure of these results")
    parser.add_argument("--figure", help="SVG file for --plot")
    options = parser.parse_args()
    if options.plot:
        results = [json.loads(Path(path).read_text()) for path in options.plot]
        if options.figure:
            figures.plot(results, options.figure)
    else:
        results = [run(options)]
        if options.out:
            Path(options.out).write_text(json.dumps(results[0], indent=1) + "\n")
    print(figures.table(results))
    for result in results:
        if "ckf" in result["figures"]:
            bins = figures.worse_bins(result)
            print(f"{result['label']}: bins below the CKF: {'; '.join(bins) if bins else 'none'}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The figures of the model cards: a model on simulated events, in bins, on the pixels alone, and beside ACTS's CKF.

    evaluate.py ckf --mu 200 --seed 7701 --work W events/pu200        # ACTS's tracks of these events (pyacts, pythia8mc)
    evaluate.py table --trackmill T --work W --out docs/results events/pu200 events/pu40   # physics.csv, physics_bins.csv
    evaluate.py steps --trackmill T --work W --out docs/results events/pu200 events/pu40   # physics_steps.csv
    evaluate.py starts --work W --out docs/results events/pu200                            # physics_starts.csv
    evaluate.py stages --work W --out docs/results events/pu200                            # physics_stages.csv (PyTorch)
    evaluate.py compare docs/results                                  # model and CKF by bin, in Markdown, from the CSV

A folder holds the events of simulate.py (.npz.xz) and gives the sample its name. Tracks are found with the CPU engine and
kept in WORK, where `table`, `starts` and a second call find them; delete them for another model of the same name.
Definitions: docs/metrics.md; `trackmill score` takes the figures. numpy alone, where nothing else is said.

`ckf` simulates the events again, from the options they were made with, since ACTS's finding needs more than their files
hold, and refuses if the points are others than the files'. Its settings are those of client/acts/chain.py.
"""
import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import robust
from robust import Fault

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "weights" / "convert"))
import safetensors_io  # noqa: E402

MODELS = [ROOT / "weights" / f"{name}.safetensors" for name in ("standard", "small", "pixels")]
PIXELS_MODEL = "pixels"             # it knows nothing else: no rows of whole events
CKF = "ACTS seeding + CKF"
#   Which particles and tracks: name -> options of `trackmill score`. "tracks of 7" is what ACTS's finding gives.
SELECTIONS = {"0.9 GeV": [], "0.5 GeV": ["--pt", "0.5"], "tracks of 7": ["--min-track-hits", "7"],
              "tracks and particles of 7": ["--min-track-hits", "7", "--hits", "7"]}
COUNTS = {"wanted": "n_wanted", "found": "n_found", "tracks": "n_tracks", "impure_tracks": "n_impure", "hard": "n_hard",
          "hard_matched": "n_hard_matched", "hard_5": "n_hard_5", "hard_matched_5": "n_hard_matched_5"}
RATES = ("efficiency", "fakes", "fakes_5", "impure", "duplicates", "purity", "completeness", "edge_efficiency",
         "edge_purity", "trackml", "trackml_hard")
KEY = ("sample", "detector", "finder", "selection")
COLUMNS = (*KEY, "events", "points", *RATES, "lhc", "lhc_fakes", "perfect", *COUNTS)
BIN_COLUMNS = (*KEY, "axis", "from", "to", "wanted", "found", "efficiency")
RADII = (0, 1, 10, 30, "")          # mm: the bins of origin of `trackmill score`; the last is open
#   Steps behind the builder, as they are switched on one by one: label -> (cut, sections of "tracks" that stay)
STEPS = {"all": {"best edges, cut 0.2": (0.2, ()), "cut 0.4": (0.4, ()), "cut 0.7": (0.7, ()), "cut 0.2, join": (0.2, ("join",)),
                 "cut 0.7, join": (0.7, ("join",)), "cut 0.4, join": (0.4, ("join",)),
                 "cut 0.4, split, join": (0.4, ("split", "join")),
                 "cut 0.4, split, join, select": (0.4, ("split", "join", "select"))},
         "pixels": {"cut 0.4, split, join, select": (0.4, ("split", "join", "select")),
                    "cut 0.4, split, join": (0.4, ("split", "join")), "cut 0.1, split, join": (0.1, ("split", "join")),
                    "cut 0.1, join": (0.1, ("join",))}}
#   … of the model of the pixels
STEPS_PIXELS = {"pixels": {"best edges, cut 0.3": (0.3, ()), "cut 0.3, join": (0.3, ("join",)),
                           "cut 0.3, split, join": (0.3, ("split", "join")),
                           "cut 0.3, split, join, select": (0.3, ("split", "join", "select")),
                           "cut 0.2, split, join, select": (0.2, ("split", "join", "select")),
                           "cut 0.4, split, join, select": (0.4, ("split", "join", "select"))}}
#   Start values: rows of particles by pT (GeV) and |eta|; shares of the residuals that are smaller than what is given
START_ROWS = ((0.5, 0.9, 0, 4), (0.9, 1.5, 0, 4), (1.5, 3, 0, 4), (3, np.inf, 0, 4), (0.9, np.inf, 0, 1), (0.9, np.inf, 1, 2),
              (0.9, np.inf, 2, 4))
SHARES = (68, 95)
PROMPT_MM = 1.0


# ---- events and tracks ---------------------------------------------------------------------------------------------

def events_in(folder):
    """The event files of a folder, in order."""
    paths = sorted(folder.glob("*.npz.xz"))
    if not paths:
        raise Fault(f"{folder}: no event (.npz.xz) in it")
    return paths


def run_json(command):
    """What a run of trackmill prints with --json."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise Fault(f"{command[0]} {command[1]} failed: {done.stderr.strip() or done.stdout[-300:]}")
    return json.loads(done.stdout)


def find(options, model, paths, out, more=()):
    """Finds the tracks of these events into the folder `out`, unless they are there; what `find --json` printed."""
    note = out / "find.json"
    if not note.exists():
        if not options.trackmill:
            raise Fault(f"{out}: no tracks in it: run evaluate.py table first, or give --trackmill")
        out.mkdir(parents=True, exist_ok=True)
        answer = run_json([options.trackmill, "find", "--json", "--device", "cpu", "--threads", options.threads, "--deadline",
                           robust.DEADLINE, "--candidates", "--out", out, "--model", model, *more, *paths])
        note.write_text(json.dumps(answer))
    return json.loads(note.read_text())


def events_of(options, folder, detector):
    """The event files of a folder, whole ("all") or their pixels alone ("pixels")."""
    paths = events_in(folder)
    return robust.pixels_of(paths, options.work / folder.name / "pixels") if detector == "pixels" else paths


def detectors_of(model):
    """What a model file is judged on: whole events and their pixels, or the pixels alone."""
    return ("pixels",) if model.stem == PIXELS_MODEL else ("all", "pixels")


def tracks_of(options, model, folder, detector):
    """(name@version, event files, folder of tracks) of a model; events and tracks are made if need be."""
    paths = events_of(options, folder, detector)
    out = options.work / folder.name / f"{detector}-{model.stem}"
    return find(options, model, paths, out)["events"][0]["model"], paths, out


# ---- table ---------------------------------------------------------------------------------------------------------

def figures_of(total):
    """Rates, rounded, and counts of a score."""
    return {name: f"{total[name]:.5f}" for name in RATES} | {name: total[source] for name, source in COUNTS.items()}


def bins_of(total, pt_min):
    """Rows (axis, from, to, wanted, found) of a score: |eta| in steps of 0.5, pT above the cut, origin in mm."""
    eta = total["eta_curve"]
    for i in range(len(eta) // 2):      # fold: bin 8 + i is [i / 2, (i + 1) / 2), bin 7 - i its mirror image
        pair = (eta[len(eta) // 2 + i], eta[len(eta) // 2 - 1 - i])
        yield ("eta", i / 2, (i + 1) / 2, sum(b["wanted"] for b in pair), sum(b["found"] for b in pair))
    for b in total["pt_curve"]:
        if b["from"] >= pt_min:
            yield ("pt", b["from"], "" if b["to"] is None else b["to"], b["wanted"], b["found"])
    for i, b in enumerate(total["radius_bins"]):
        yield ("origin", RADII[i], RADII[i + 1], b["wanted"], b["found"])


def score(options, key, paths, tracks):
    """The row of physics.csv and the rows of physics_bins.csv of one key (sample, detector, finder, selection)."""
    answer = run_json([options.trackmill, "score", "--json", "--tracks", tracks, *SELECTIONS[key[3]], *paths])
    total = answer["total"]
    row = dict(zip(KEY, key), events=len(paths), points=sum(event["space_points"] for event in answer["events"]))
    row.update(figures_of(total))
    row.update(lhc=f"{total['lhc']['efficiency']:.5f}", lhc_fakes=f"{total['lhc']['fakes']:.5f}",
               perfect=f"{total['perfect']['efficiency']:.5f}")
    bins = [dict(zip(BIN_COLUMNS, (*key, axis, low, high, wanted, found, f"{found / wanted:.5f}")))
            for axis, low, high, wanted, found in bins_of(total, 0.5 if "0.5" in key[3] else 0.9) if wanted]
    return row, bins


def write_csv(path, columns, rows):
    """Writes rows; those that the file has and that have no new row of the same key stay, in front."""
    key = [name for name in (*KEY, "steps", "stage", "particles") if name in columns]
    new = {tuple(str(row[name]) for name in key) for row in rows}
    kept = []
    if path.exists():
        with open(path, newline="") as file:
            kept = [row for row in csv.DictReader(file) if tuple(row[name] for name in key) not in new]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept + rows)


def table(options):
    """physics.csv and physics_bins.csv."""
    rows, bins = [], []
    for folder in options.events:
        jobs = [(detector, *tracks_of(options, model, folder, detector))
                for detector in ("all", "pixels") for model in options.models if detector in detectors_of(model)]
        if (options.work / folder.name / "ckf").is_dir():
            jobs.append(("all", CKF, events_in(folder), options.work / folder.name / "ckf"))
        for detector, finder, paths, tracks in jobs:
            for selection in SELECTIONS:
                if detector == "pixels" and "of 7" in selection:    # few particles have seven points there
                    continue
                row, more = score(options, (folder.name, detector, finder, selection), paths, tracks)
                rows.append(row)
                bins += more
                print(*(row[name] for name in KEY), *(f"{name} {row[name]}" for name in ("efficiency", "fakes_5", "impure",
                                                                                         "trackml_hard")), flush=True)
    write_csv(options.out / "physics.csv", COLUMNS, rows)
    write_csv(options.out / "physics_bins.csv", BIN_COLUMNS, bins)


def compare(options):
    """Prints the bins of every sample in which both a model and the CKF were judged, with the counts."""
    with open(options.results / "physics_bins.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["detector"] == "all" and "of 7" in row["selection"]]
    places = list(dict.fromkeys((row["sample"], row["selection"]) for row in rows))
    for sample, selection in places:
        mine = [row for row in rows if (row["sample"], row["selection"]) == (sample, selection)]
        finders = list(dict.fromkeys(row["finder"] for row in mine))
        print(f"\n{sample}, {selection}\n\n| | particles | " + " | ".join(finders) + " |\n|---|" + "---|" * (1 + len(finders)))
        for axis, low, high in dict.fromkeys((row["axis"], row["from"], row["to"]) for row in mine):
            cells = {row["finder"]: row for row in mine if (row["axis"], row["from"], row["to"]) == (axis, low, high)}
            print(f"| {axis} {low}–{high} | {next(iter(cells.values()))['wanted']} | "
                  + " | ".join(f"{100 * float(cells[name]['efficiency']):.2f} ({cells[name]['found']})" for name in finders) + " |")


# ---- ACTS's own finding --------------------------------------------------------------------------------------------

def ckf(options):
    """Simulates the events of one folder again, finds with ACTS's seeding, CKF and ambiguity resolution, and writes
    WORK/<sample>/ckf/<event>-tracks.csv in the rows of the event files."""
    sys.path[:0] = [str(ROOT / "client" / "acts"), str(ROOT / "client" / "python" / "src")]
    import acts
    import acts.examples as ex
    import chain
    folder = options.events[0]
    paths = events_in(folder)
    numbers = [int(path.name.split(".")[0][len("event"):]) for path in paths]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise Fault(f"{folder}: the numbers of the events are not consecutive")
    out = options.work / folder.name / "ckf"
    out.mkdir(parents=True, exist_ok=True)

    class Writer(ex.IAlgorithm):
        """Writes the tracks of one event; `faults` gets what is wrong, since ACTS swallows exceptions' texts."""

        def __init__(self):
            ex.IAlgorithm.__init__(self, "Writer", chain.QUIET)
            self.faults, self.written = [], 0
            self.points = ex.ReadDataHandle(self, acts.SpacePointContainer, "Points")
            self.points.initialize(chain.POINTS)
            self.tracks = ex.ReadDataHandle(self, ex.ConstTrackContainer, "Tracks")
            self.tracks.initialize(chain.TRACKS["ckf"])

        def rows_of(self, points, path):
            """Row in the event file of each measurement: simulate.py sorts points by volume, layer, module."""
            sources = [ex.IndexSourceLink.fromSourceLink(next(point.sourceLinks)) for point in points]
            measurement = np.array([source.index() for source in sources], np.int64)
            identifier = np.array([source.geometryId().value for source in sources], np.uint64)
            order = np.lexsort((measurement, (identifier >> np.uint64(8)) & np.uint64(0xFFFFF),
                                (identifier >> np.uint64(36)) & np.uint64(0xFFF), identifier >> np.uint64(56)))
            event = robust.read(path)
            for axis in "xyz":
                place = np.rint(np.asarray(getattr(points, axis), float)[order] * 1000)
                if not np.array_equal(place, event[f"{axis}_um"]):
                    self.faults.append(f"{path}: simulated again, the points are others; were the options other ones?")
                    return None
            rows = np.full(measurement.max(initial=-1) + 1, -1)
            rows[measurement[order]] = np.arange(len(order))
            return rows

        def execute(self, context):
            path = paths[context.eventNumber - numbers[0]]
            rows = self.rows_of(self.points(context.eventStore), path)
            if rows is None:
                return ex.ProcessCode.ABORT
            with open(out / path.name.replace(".npz.xz", "-tracks.csv"), "w") as file:
                file.write("hit_id,track_id\n")
                for number, track in enumerate(self.tracks(context.eventStore)):
                    for state in track.trackStatesReversed:
                        if state.typeFlags.isMeasurement:
                            row = rows[ex.IndexSourceLink.fromSourceLink(state.uncalibratedSourceLink).index()]
                            file.write(f"{row},{number}\n")
            self.written += 1
            return ex.ProcessCode.SUCCESS

    with tempfile.TemporaryDirectory() as directory:
        detector, geometry, field = chain.build(directory)
        s = ex.Sequencer(skip=numbers[0], events=len(numbers), numThreads=1, logLevel=chain.QUIET, trackFpes=False,
                         outputDir=directory)
        chain.add_simulation(s, chain.event_options(seed=options.seed, mu=options.mu, gun=None), directory, geometry, field)
        begin, end = chain.add_ckf(s, directory, geometry, field)
        writer = Writer()
        s.addAlgorithm(writer)
        try:
            s.run()
        except RuntimeError as error:
            raise Fault(writer.faults[0] if writer.faults else str(error)) from None
        del detector
    wall, cpu = begin.until(end)
    print(f"{writer.written} events, {wall:.2f} s each (median; {cpu:.2f} s of processor time)")


# ---- steps behind the builder --------------------------------------------------------------------------------------

def steps(options):
    """physics_steps.csv: the tracks section of a model with only some of its steps."""
    rows = []
    for folder in options.events:
        for detector, kinds in (STEPS_PIXELS if options.models[0].stem == PIXELS_MODEL else STEPS).items():
            paths = events_of(options, folder, detector)
            for label, (cut, sections) in kinds.items():
                stem = f"steps-{'-'.join([options.models[0].stem, str(cut), *sections])}"
                tensors, pipeline = safetensors_io.read(options.models[0])
                left_out = {"split", "join", "select"} - set(sections)
                kept = {name: value for name, value in pipeline["tracks"].items() if name not in left_out}
                safetensors_io.write(options.work / f"{stem}.safetensors", tensors, pipeline | {"tracks": kept | {"cut": cut}})
                answer = find(options, options.work / f"{stem}.safetensors", paths,
                              options.work / folder.name / f"{detector}-{stem}")
                row = {"sample": folder.name, "detector": detector, "finder": answer["events"][0]["model"], "steps": label,
                       "events": len(paths)}
                row.update(figures_of(answer["total"]["score"]))
                rows.append(row)
                print(*list(row.values())[:4], *(f"{rate} {row[rate]}" for rate in ("efficiency", "fakes", "fakes_5", "impure")),
                      flush=True)
    write_csv(options.out / "physics_steps.csv", ("sample", "detector", "finder", "steps", "events", *RATES, *COUNTS), rows)


# ---- start values --------------------------------------------------------------------------------------------------

def matches(event, tracks):
    """(track [M], particle [M]) that match by double majority: tracks is a list of arrays of rows."""
    point = np.concatenate([np.arange(len(event["x_um"])), event["extra_hit"]]).astype(np.int64)
    owner = np.concatenate([event["particle"], event["extra_particle"]]).astype(np.int64)
    point, owner = point[owner >= 0], owner[owner >= 0]
    number = len(event["p_q"])
    size, length = np.bincount(owner, minlength=number), np.array([len(track) for track in tracks])
    track_of = np.full(len(event["x_um"]), -1)
    for t, track in enumerate(tracks):
        track_of[track] = t
    inside = track_of[point] >= 0
    key, count = np.unique(track_of[point[inside]] * number + owner[inside], return_counts=True)
    track, particle = key // number, key % number
    good = (2 * count > length[track]) & (2 * count > size[particle])
    return track[good], particle[good]


def residuals(path, tracks_path):
    """Start values less truth of matched tracks of charged particles made within PROMPT_MM of the beam line: arrays by
    name; and how many have the wrong charge."""
    sys.path.insert(0, str(ROOT / "client" / "acts"))
    from figures import perigee
    event = robust.read(path)
    owner = np.loadtxt(tracks_path, delimiter=",", skiprows=1, dtype=np.int64, ndmin=2)
    with open(str(tracks_path).replace("-tracks.csv", "-candidates.csv"), newline="") as file:
        starts = list(csv.DictReader(file))
    order = np.argsort(owner[:, 1], kind="stable")
    tracks = np.split(owner[order, 0], np.cumsum(np.bincount(owner[:, 1], minlength=len(starts)))[:-1])
    with np.errstate(divide="ignore", invalid="ignore"):        # neutral particles
        truth = perigee({name: event[f"p_{source}"].astype(float) for name, source in
                         dict(x="vx", y="vy", z="vz", px="px", py="py", pz="pz", q="q").items()})
    truth.update(phi=np.arctan2(event["p_py"], event["p_px"]), eta=np.arcsinh(event["p_pz"] / truth["pt"]))
    track, particle = matches(event, tracks)
    keep = np.array([starts[t]["pt"] != "" for t in track], bool) & (event["p_q"][particle] != 0)
    keep &= (event["p_process"][particle] == 0) & (np.hypot(event["p_vx"], event["p_vy"])[particle] < PROMPT_MM)
    track, particle = track[keep], particle[keep]
    value = {name: np.array([float(starts[t][name]) for t in track]) for name in ("pt", "charge", "phi", "eta", "d0", "z0")}
    off = {name: value[name] - truth[name][particle] for name in ("d0", "z0", "phi", "eta")}
    off["phi"] -= 2 * np.pi * np.round(off["phi"] / (2 * np.pi))
    off["pt"] = value["pt"] / truth["pt"][particle] - 1
    off["wrong"] = value["charge"] != event["p_q"][particle]
    return {**off, "true_pt": truth["pt"][particle], "true_eta": np.abs(truth["eta"][particle])}


def starts(options):
    """physics_starts.csv, of tracks that `table` has found."""
    rows = []
    for folder in options.events:
        for model in options.models:
            name, paths, tracks = tracks_of(options, model, folder, detectors_of(model)[0])
            parts = [residuals(path, tracks / path.name.replace(".npz.xz", "-tracks.csv")) for path in paths]
            off = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            for low, high, eta_low, eta_high in START_ROWS:
                mine = (off["true_pt"] > low) & (off["true_pt"] <= high) & (off["true_eta"] >= eta_low) & (off["true_eta"] < eta_high)
                row = {"sample": folder.name, "finder": name, "particles": f"pT {low:g}-{high:g} |eta| {eta_low:g}-{eta_high:g}",
                       "tracks": int(mine.sum()), "wrong_charge": int(off["wrong"][mine].sum())}
                for key in ("pt", "d0", "z0", "phi", "eta"):
                    for share in SHARES:
                        row[f"{key}_{share}"] = f"{np.percentile(np.abs(off[key][mine]), share):.4g}"
                rows.append(row)
                print(*row.values(), flush=True)
    columns = [f"{key}_{share}" for key in ("pt", "d0", "z0", "phi", "eta") for share in SHARES]
    write_csv(options.out / "physics_starts.csv", ("sample", "finder", "particles", "tracks", "wrong_charge", *columns), rows)


# ---- stages --------------------------------------------------------------------------------------------------------

def stages(options):
    """physics_stages.csv: edges, and their share of the true edges of wanted particles, behind every stage; PyTorch."""
    import torch

    import choose
    import events as ev
    import graph
    import networks
    torch.set_num_threads(max(1, options.threads))
    rows = []
    for model in options.models:
        nets, pipeline = networks.read(str(model))
        for folder in options.events:
            for detector in detectors_of(model):
                paths, counts = events_of(options, folder, detector), {}
                for path in paths[:options.first]:
                    event = ev.to_device({**ev.pack(ev.read(path)), "plain": True}, "cpu")
                    with torch.no_grad():
                        edges = graph.radius_graph(event, nets["embed"], pipeline["radius"]["r"], chunk=512)
                        after = {"radius": edges}
                        score = choose.score_edges(nets["filter"], event, edges, chunk=200_000).sigmoid()
                        after["filter"] = edges = edges[:, score > pipeline["filter"]["cut"]]
                        score = choose.score_edges(nets["gnn"], event, edges, chunk=None).sigmoid()
                        after["network"] = edges[:, score > pipeline["tracks"]["cut"]]
                    for stage, left in after.items():
                        wanted, found = choose.found_of(event, left)
                        entry = counts.setdefault(stage, [0, 0, 0, 0])
                        for i, value in enumerate((left.shape[1], len(found), int(found.sum()), int(ev.is_true(event, left).sum()))):
                            entry[i] += value
                for stage, (number, wanted, found, true) in counts.items():
                    rows.append({"sample": folder.name, "detector": detector, "finder": f"{pipeline['name']}@{pipeline['version']}",
                                 "stage": stage, "events": len(paths[:options.first]), "edges": number, "true_edges": wanted,
                                 "found": found, "efficiency": f"{found / wanted:.5f}", "purity": f"{true / number:.5f}"})
                    print(*rows[-1].values(), flush=True)
    write_csv(options.out / "physics_stages.csv", ("sample", "detector", "finder", "stage", "events", "edges", "true_edges",
                                                   "found", "efficiency", "purity"), rows)


# ---- command line --------------------------------------------------------------------------------------------------

def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for function in (ckf, table, steps, starts, stages):
        one = commands.add_parser(function.__name__, help=function.__doc__.split("\n")[0])
        one.add_argument("events", nargs="+" if function is not ckf else 1, type=Path, help="folders of events")
        one.add_argument("--work", required=True, type=Path, help="folder for tracks and altered events")
        if function is ckf:
            one.add_argument("--mu", type=float, required=True)
            one.add_argument("--seed", type=int, required=True)
            one.set_defaults(run=function)
            continue
        one.add_argument("--out", type=Path, default=ROOT / "docs" / "results", help="folder of the CSV files")
        one.add_argument("--models", nargs="+", type=Path, default=MODELS[:1] if function is steps else MODELS)
        one.add_argument("--threads", type=int, default=1)
        if function is stages:
            one.add_argument("--first", type=int, help="only so many events of a folder")
        else:
            one.add_argument("--trackmill", required=function is not starts, help="the program")
        one.set_defaults(run=function)
    one = commands.add_parser("compare", help=compare.__doc__)
    one.add_argument("results", type=Path, help="folder of the CSV files")
    one.set_defaults(run=compare)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (Fault, OSError) as error:
        sys.exit(f"evaluate.py: {error}")


if __name__ == "__main__":
    main()

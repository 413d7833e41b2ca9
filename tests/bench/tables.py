#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of docs/benchmarks.md anew from docs/results/*.csv, between the lines
«<!-- table: NAME -->» and «<!-- end -->». Standard library alone.

    python3 tests/bench/tables.py [check]       check: say whether the page is up to date, change nothing
"""
import csv
import os
import re
import sys

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
STAGES = ("features", "embed", "radius", "filter", "gnn", "tracks", "total")


def read(name):
    with open(os.path.join(ROOT, "docs", "results", name + ".csv"), newline="") as file:
        return list(csv.DictReader(file))


def number(text):
    value = float(text)
    if value == int(value) and abs(value) < 1e6 or abs(value) >= 1000:
        return "{:,.0f}".format(value)
    return "%.3g" % value


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def stages(names):
    rows = []
    for name in names:
        lines = read(name)
        for threads in sorted({int(r["threads"]) for r in lines}):
            mine = {r["stage"]: r for r in lines if int(r["threads"]) == threads}
            total = mine["total"]
            rows.append(["%s, %s cores" % (total["machine"], total["cores"]), total["event"].upper(),
                         number(total["points"]), number(total["radius_edges"]), str(threads),
                         *(number(mine[s]["median_ms"]) for s in STAGES), total["runs"], total["others"] or "—"])
    return table(["machine", "event", "space points", "radius edges", "threads", *STAGES, "runs", "others"], rows)


def gpu():
    rows = []
    lines = read("gpu")
    for key in dict.fromkeys((r["path"], r["event"], r["points"]) for r in lines):
        mine = {r["stage"]: r for r in lines if (r["path"], r["event"], r["points"]) == key}
        rows.append([key[0], key[1].replace("pu", "PU"), number(key[2]), number(mine["total"]["radius_edges"]),
                     number(mine["total"]["filter_edges"]),
                     *(number(mine[s]["median_ms"]) if s in mine else "\u2014" for s in ("transfer", *STAGES))])
    return table(["path", "event", "space points", "radius edges", "after the filter", "transfer", *STAGES], rows)


def kernels():
    rows = [[r["kernel"], r["launches"], r["us_all"], r["us_each"], "%s (%s)" % (r["floor_us"], r["floor_of"]),
             *(r[k] for k in ("tensor_pct", "issue_pct", "warps_pct", "l2_pct", "dram_pct", "registers"))]
            for r in read("kernels") if r["floor_us"]]
    return table(["kernel", "launches", "\u00b5s, all", "\u00b5s, each", "floor, each", "tensor pipe %", "issue %", "warps %",
                  "L2 %", "DRAM %", "registers"], rows)


def served():
    rows = [[number(r["points"]), r["slots"], r["batch"], r["in_flight"], number(r["events_per_s"]), number(r["p50_ms"]),
             number(r["p99_ms"]), r["gpu_busy"], number(r["gpu_mib"]),
             *("%.2f" % float(r[k]) for k in ("broker_cores", "worker_cores", "load_cores"))]
            for r in sorted(read("served"), key=lambda r: (int(r["points"]), int(r["batch"]), int(r["slots"]), int(r["in_flight"])))]
    return table(["space points", "slots", "batch", "under way", "events/s", "p50 ms", "p99 ms", "GPU busy %", "GPU MiB",
                  "broker cores", "worker cores", "load cores"], rows)


def peer():
    stage_names = ("features", "embed", "radius", "filter", "gnn", "tracks")
    rows = [[number(r["points"]), r["system"], r["mode"], r["agreement"] or "\u2014", number(r["p50_ms"]),
             *(number(r[s + "_ms"]) for s in stage_names)]
            for r in sorted(read("peer"), key=lambda r: int(r["points"])) if not r["clients"]]
    return table(["space points", "who", "how", "agreement", "ms, median", *stage_names], rows)


def peer_served():
    """Services of the same events on one GPU: the peers', and trackmill's alone and at its best."""
    rows, peers, ours = [], [r for r in read("peer") if r["clients"]], read("served")
    for points in sorted({r["points"] for r in peers}, key=int):
        mine = sorted((r for r in ours if r["points"] == points), key=lambda r: float(r["events_per_s"]))
        alone = next(r for r in mine if r["in_flight"] == "1")
        for r in [r for r in peers if r["points"] == points]:
            rows.append([number(points), r["system"], "%s, %s instances" % (r["mode"], r["instances"]), r["clients"],
                         number(r["events_per_s"]), number(r["p50_ms"]), number(r["p99_ms"]), "%.1f" % float(r["gpu_busy"])])
        for r in (alone, mine[-1]):
            how = "%s slot%s" % (r["slots"], "" if r["slots"] == "1" else "s")
            rows.append([number(points), "trackmill", how + (", batches" if r["batch"] != "1" else ""), r["in_flight"],
                         number(r["events_per_s"]), number(r["p50_ms"]), number(r["p99_ms"]), "%.1f" % float(r["gpu_busy"])])
    return table(["space points", "who", "how", "under way", "events/s", "p50 ms", "p99 ms", "GPU busy %"], rows)


def spread(row):
    median, least, greatest = (number(row[k]) for k in ("median", "least", "greatest"))
    return median if row["runs"] == "1" or least == greatest else "%s (%s … %s)" % (median, least, greatest)


def figures(name, wanted=None):
    rows = [[r["measure"], "—" if r["event"] == "none" else "%s, %s points" % (r["event"], number(r["points"])),
             r["setting"], spread(r) + " " + r["unit"], r["runs"], r["others"]]
            for r in read(name) if wanted is None or wanted(r)]
    return table(["measure", "event", "setting", "median (least … greatest)", "runs", "others"], rows)


def relay():
    lines = read("relay")
    rows = []
    for case in dict.fromkeys(r["case"] for r in lines):
        pair = {r["relay"]: r for r in lines if r["case"] == case}
        text = ["%s (%s … %s)" % tuple(number(pair[k][f]) for f in ("median_per_s", "min_per_s", "max_per_s"))
                for k in ("bare", "trackmill")]
        rows.append([case, *text, pair["trackmill"]["ratio"]])
    return table(["case", "bare libzmq relay", "trackmill-broker", "ratio"], rows)


def gigabytes(row):
    return "%.2f" % (float(row["bytes_per_s"]) / 1e9)


def grow(names):
    rows = []
    for r in (r for name in names for r in read(name) if r["part"] == "closed"):
        rows.append(["%s, %s cores" % (r["machine"], r["cores"]), r["workers"], r["brokers"], r["transport"], r["io_threads"] or "its choice",
                     number(r["points"]), number(r["events_per_s"]), gigabytes(r), number(r["p50_ms"]), number(r["p99_ms"]),
                     *("%.2f" % float(r[k]) for k in ("broker_cores", "worker_cores", "load_cores")),
                     "%.2f" % float(r["broker_s_per_gb"]), r["others"] or "\u2014"])
    return table(["machine", "workers", "brokers", "transport", "I/O threads", "space points", "events/s", "GB/s", "p50 ms",
                  "p99 ms", "broker cores", "worker cores", "load cores", "broker s/GB", "others"], rows)


def grow_gpu():
    rows = [[r["workers"], r["brokers"], r["transport"], number(r["points"]),
             "closed, %s under way" % r["in_flight"] if r["part"] == "closed" else "open, %s/s" % number(r["rate"]),
             "%.0f" % float(r["seconds"]), number(r["events_per_s"]), r["ratio"] or "\u2014",
             *(number(r[k]) for k in ("p50_ms", "p90_ms", "p99_ms")),
             r["gpu_busy_mean"], gigabytes(r), *("%.2f" % float(r[k]) for k in ("broker_cores", "worker_cores", "load_cores"))]
            for r in read("grow_h200") if r["part"] in ("closed", "open")]
    return table(["GPUs", "brokers", "transport", "space points", "loop", "s", "events/s", "ratio", "p50 ms", "p90 ms", "p99 ms",
                  "GPU busy %", "GB/s", "broker cores", "worker cores", "load cores"], rows)


def kept():
    rows = []
    lines = read("kept")
    for key in dict.fromkeys((r["points"], r["transport"]) for r in lines):
        pair = {r["memory"]: r for r in lines if (r["points"], r["transport"]) == key}
        text = ["%s (%s \u2026 %s)" % tuple(number(pair[k][f]) for f in ("broker_ms_per_event", "least", "greatest"))
                for k in ("as glibc has it", "kept")]
        rows.append([number(key[0]), key[1], *text, *(number(pair[k]["faults_per_event"]) for k in ("as glibc has it", "kept"))])
    return table(["space points", "transport", "ms as glibc has it", "ms kept", "page faults as glibc has it",
                  "page faults kept"], rows)


TABLES = {
    "stages": lambda: stages(["stages_pu40", "stages_pu200", "stages_pu40_xeon", "stages_pu200_xeon"]),
    "gpu": gpu,
    "kernels": kernels,
    "served": served,
    "peer": peer,
    "peer_served": peer_served,
    "overhead": lambda: figures("overhead"),
    "memory": lambda: figures("memory", lambda r: "peak" not in r["measure"] or "mock: 64" in r["setting"]),
    "wire": lambda: figures("wire", lambda r: r["points"] not in ("1000", "300000")),
    "relay": relay,
    "grow": lambda: grow(["grow_xeon", "grow"]),
    "grow_gpu": grow_gpu,
    "kept": kept,
}


def main():
    path = os.path.join(ROOT, "docs", "benchmarks.md")
    with open(path) as file:
        old = file.read()

    def fill(match):
        return "<!-- table: %s -->\n\n%s\n\n<!-- end -->" % (match[1], TABLES[match[1]]())

    new = re.sub(r"<!-- table: (\w+) -->.*?<!-- end -->", fill, old, flags=re.DOTALL)
    if sys.argv[1:] == ["check"]:
        sys.exit(0 if new == old else "docs/benchmarks.md: tables differ from docs/results: run tests/bench/tables.py")
    with open(path, "w") as file:
        file.write(new)


if __name__ == "__main__":
    main()

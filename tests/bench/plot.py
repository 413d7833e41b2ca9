#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws docs/results/*.csv as SVG beside them.

    python3 -m venv plot-venv && plot-venv/bin/pip install matplotlib
    plot-venv/bin/python tests/bench/plot.py [FOLDER]      (docs/results)

A file that is not there is left out. Colours: Okabe and Ito's, which colour-blind readers can tell apart.
"""
import csv
import os
import sys

import matplotlib
import numpy as np

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: E402

BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#8C8C8C")
STAGES = {"features": GREY, "embed": BLUE, "radius": ORANGE, "filter": GREEN, "gnn": SKY, "tracks": RED}

plt.rcParams.update({
    "svg.hashsalt": "trackmill",  # the same drawing from the same figures, byte for byte
    "svg.fonttype": "none", "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial", "sans-serif"], "font.size": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11, "axes.titlelocation": "left",
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.8,
    "legend.frameon": False, "figure.constrained_layout.use": True,
})


def read(folder, name):
    path = os.path.join(folder, name + ".csv")
    if not os.path.exists(path):
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def save(figure, folder, name):
    path = os.path.join(folder, name + ".svg")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    print(path)


def machine(row):
    return "%s, %s cores" % (row["machine"], row["cores"]) if "cores" in row else row["machine"]


def plain(value, _=None):
    return "%g" % value if value < 1000 else "{:,.0f}".format(value).replace(",", "\u2009")


def logarithmic(axis, subs=(1,)):
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(plain))
    axis.set_minor_formatter(NullFormatter())


def plot_stages(folder, suffix=""):
    """Stacked bars: one panel for each kind of event, one bar for each number of threads. The suffix names another
    machine's files: stages_pu40_xeon.csv."""
    kinds = [(k, rows) for k in ("pu40", "pu200") if (rows := read(folder, "stages_" + k + suffix))]
    if not kinds:
        return
    figure, panels = plt.subplots(len(kinds), 1, figsize=(7.2, 1.0 + 1.55 * len(kinds)), squeeze=False)
    for panel, (kind, rows) in zip(panels[:, 0], kinds):
        threads = sorted({int(r["threads"]) for r in rows})
        left = dict.fromkeys(threads, 0.0)
        total = max(float(r["median_ms"]) for r in rows if r["stage"] == "total") / 1000
        for stage, colour in STAGES.items():
            for r in rows:
                if r["stage"] != stage:
                    continue
                t, seconds = int(r["threads"]), float(r["median_ms"]) / 1000
                y = threads.index(t)
                panel.barh(y, seconds, left=left[t], height=0.62, color=colour, edgecolor="white", linewidth=0.6)
                if seconds > 0.085 * total:
                    panel.text(left[t] + seconds / 2, y, "%.2g" % seconds if seconds < 10 else "%.0f" % seconds,
                               ha="center", va="center", fontsize=8.5,
                               color="white" if colour in (BLUE, GREEN, RED, GREY) else "black")
                left[t] += seconds
        for t in threads:
            sum_s = next(float(r["median_ms"]) / 1000 for r in rows if r["stage"] == "total" and int(r["threads"]) == t)
            panel.text(left[t] + 0.012 * total, threads.index(t), "%.3g s" % sum_s, va="center", fontsize=9, weight="bold")
        panel.set_xlim(0, 1.12 * total)
        panel.set_yticks(range(len(threads)), ["%d thread%s" % (t, "" if t == 1 else "s") for t in threads])
        panel.invert_yaxis()
        panel.grid(axis="y", visible=False)
        points = int(rows[0]["points"])
        panel.set_title("%s event, %s space points, %s radius edges" % (
            kind.upper(), plain(points), plain(int(rows[0]["radius_edges"]))))
    panels[-1, 0].set_xlabel("seconds per event")
    figure.legend([plt.Rectangle((0, 0), 1, 1, color=c) for c in STAGES.values()], STAGES, ncols=len(STAGES),
                  loc="outside upper center", fontsize=9, handlelength=1, columnspacing=1.4)
    figure.supxlabel(machine(kinds[0][1][0]) + ", CPU engine", fontsize=8.5, color="#555555")
    save(figure, folder, "stages" + suffix)


def plot_gpu(folder):
    """Stages of an event on a GPU, and of the same event in PyTorch where that was measured."""
    rows, peers = read(folder, "gpu"), read(folder, "peer")
    if not rows:
        return
    stages = ("transfer", "features", "embed", "radius", "filter", "gnn", "tracks")
    bars = []
    for points in sorted({int(r["points"]) for r in rows}):
        ms = {r["stage"]: float(r["median_ms"]) for r in rows if r["path"] == "fused" and int(r["points"]) == points}
        bars.append(("%s points" % format(points, ","), ms))
    figure, panel = plt.subplots(figsize=(8.2, 0.42 * len(bars) + 1.6), layout="constrained")
    for at, (_, ms) in enumerate(bars):
        left = 0
        for colour, stage in enumerate(stages):
            panel.barh(at, ms[stage], left=left, color="C%d" % colour, label=stage if at == 0 else None)
            left += ms[stage]
        panel.text(left, at, " %.2f ms" % left, va="center", fontsize=8.5)
    longest = max(sum(ms[s] for s in stages) for _, ms in bars)
    panel.set_xlim(0, 1.15 * longest)
    panel.set_yticks(range(len(bars)), [name for name, _ in bars])
    panel.invert_yaxis()
    panel.set_xlabel("ms")
    panel.legend(fontsize=8, ncols=len(stages), loc="upper center", bbox_to_anchor=(0.45, 1.28), frameon=False)
    beside = ["%s points: %.0f ms" % (format(int(r["points"]), ","), float(r["p50_ms"]))
              for r in peers or [] if r["mode"] == "compiled" and not r["clients"]]
    text = rows[0]["device"].split(" ", 1)[1]
    figure.supxlabel(text + ("; compiled PyTorch: " + ", ".join(beside) if beside else ""), fontsize=8.5, color="#555555")
    save(figure, folder, "gpu")


def plot_relay(folder):
    rows = read(folder, "relay")
    if not rows:
        return
    cases = list(dict.fromkeys(r["case"] for r in rows))
    figure, panel = plt.subplots(figsize=(7.2, 3.2))
    for shift, (relay, label, colour) in ((-0.16, ("bare", "bare libzmq relay", GREY)),
                                          (0.16, ("trackmill", "trackmill-broker", BLUE))):
        mine = {r["case"]: r for r in rows if r["relay"] == relay}
        y = [cases.index(c) + shift for c in mine]
        value = [float(r["median_per_s"]) for r in mine.values()]
        low = [v - float(r["min_per_s"]) for v, r in zip(value, mine.values())]
        high = [float(r["max_per_s"]) - v for v, r in zip(value, mine.values())]
        panel.errorbar(value, y, xerr=[low, high], fmt="o", markersize=7, color=colour, elinewidth=2, label=label)
        for at, v, up in zip(y, value, high):
            panel.text((v + up) * 1.12, at, plain(float("%.3g" % v)), va="center", fontsize=8.5)
    panel.set_xscale("log")
    panel.set_xlim(left=min(float(r["min_per_s"]) for r in rows) / 1.5, right=max(float(r["max_per_s"]) for r in rows) * 3)
    logarithmic(panel.xaxis)
    panel.set_ylim(-0.5, len(cases) - 0.5)
    panel.set_yticks(range(len(cases)), [c.replace(" window ", ", window ") for c in cases])
    panel.invert_yaxis()
    panel.grid(axis="y", visible=False)
    panel.set_xlabel("requests per second (logarithmic): median, least and greatest run")
    panel.set_title("The broker against a relay that does nothing")
    figure.legend(loc="outside upper right", ncols=2, fontsize=9)
    figure.supxlabel(machine(rows[0]), fontsize=8.5, color="#555555")
    save(figure, folder, "relay")


def plot_training(folder):
    rows = read(folder, "training")
    if not rows:
        return
    embedding = ("edges at 0.45", 1e-6, "million edges within 0.45")
    panels_of = (("embed", [("efficiency at 0.45", 100, "true edges within 0.45, %")]), ("embed", [embedding]),
                 ("gnn", [("efficiency", 100, "particles found, %")]),
                 ("gnn", [("fakes", 100, "fakes, %"), ("impure", 100, "impure tracks, %")]))
    figure, panels = plt.subplots(1, len(panels_of), figsize=(11.2, 3.0))
    colours = {"standard": BLUE, "small": ORANGE, "pixels": RED}
    for panel, (stage, lines) in zip(panels, panels_of):
        for (name, scale, _), style in zip(lines, ("-", "--")):
            for model in dict.fromkeys(r["model"] for r in rows):
                mine = [r for r in rows if (r["model"], r["stage"], r["figure"]) == (model, stage, name)]
                panel.plot([float(r["seconds"]) for r in mine], [scale * float(r["value"]) for r in mine], style,
                           color=colours[model], marker="o", markersize=3, label=model if mine else None)
        panel.set_title("\n".join(label + (" (dashed)" if at else "") for at, (*_, label) in enumerate(lines)), fontsize=9)
        panel.set_xlim(left=0)
        panel.set_xlabel("seconds, " + {"embed": "embedding", "gnn": "interaction network"}[stage])
    panels[0].legend(fontsize=9)
    save(figure, folder, "training")


def plot_growth(folder):
    """Trainings with few and many events: what was reached (above) and lost (below) after the same number of steps."""
    rows = read(folder, "growth")
    if not rows:
        return
    steps = {stage: max(int(r["step"]) for r in rows if r["stage"] == stage) for stage in ("embed", "filter", "gnn")}
    found = lambda stage: list(dict.fromkeys(r["figure"] for r in rows if r["stage"] == stage))
    of_equal = lambda stage: next(f for f in found(stage) if f.startswith("efficiency of "))
    embed, keep = of_equal("embed"), of_equal("filter")
    what = ((("embed", embed, 100, "true edges, %%, of %s" % embed.split(" of ")[1]),),
            (("filter", keep, 100, "true edges kept, %%, of %s" % keep.split(" of ")[1]),),
            (("gnn", "efficiency", 100, "particles found, %"),),
            (("gnn", "fakes", 100, "fakes, %"), ("gnn", "impure", 100, "impure tracks, %")),
            (("embed", "loss", 1, "embedding: loss"),), (("filter", "loss", 1, "filter: loss"),),
            (("gnn", "loss", 1, "interaction network: loss"),))
    figure, panels = plt.subplots(2, 4, figsize=(11.2, 5.6))
    numbers = sorted({int(r["events"]) for r in rows})
    for panel, lines in zip(panels.flat, what):
        for (stage, name, scale, label), colour in zip(lines, (BLUE, RED)):
            for before, style, fill in (("", "-", "full"), ("seen ", "--", "none")):
                mine = {int(r["events"]): scale * float(r["value"]) for r in rows
                        if (r["stage"], int(r["step"]), r["figure"]) == (stage, steps[stage], before + name)}
                panel.plot(sorted(mine), [mine[n] for n in sorted(mine)], style, color=colour, marker="o", markersize=4,
                           fillstyle=fill)
        panel.set_title("\n".join("%s%s" % (label, " (red)" if at else "") for at, (*_, label) in enumerate(lines)),
                        fontsize=9)
        panel.set_xscale("log")
        panel.set_xticks(numbers, ["%d" % n for n in numbers])
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xlabel("training events")
    panel = panels.flat[-1]
    for number, colour in zip(numbers, (YELLOW, ORANGE, SKY, BLUE, GREEN, RED)):
        mine = {int(r["step"]): 100 * float(r["value"]) for r in rows
                if (r["stage"], int(r["events"]), r["figure"]) == ("gnn", number, "efficiency")}
        panel.plot(list(mine), list(mine.values()), color=colour, marker="o", markersize=3, label="%d events" % number)
    panel.set_title("particles found, %", fontsize=9)
    panel.set_xlim(left=0)
    panel.set_xlabel("steps, interaction network")
    panel.legend(fontsize=8)
    figure.legend([plt.Line2D([], [], color=BLUE, linestyle=style, marker="o", markersize=4, fillstyle=fill)
                   for style, fill in (("-", "full"), ("--", "none"))],
                  ["events never learned from", "events learned from"], loc="outside upper center", ncols=2, fontsize=9)
    save(figure, folder, "growth")


def plot_memory(folder):
    rows = [r for r in read(folder, "memory") if r["measure"].split()[1] in ("resident", "peak")]
    if not rows:
        return
    figure, panel = plt.subplots(figsize=(7.2, 4.6))
    keys = list(dict.fromkeys((r["measure"].split()[0], r["event"], r["setting"]) for r in rows))
    keys.sort(key=lambda k: ("broker", "worker", "client").index(k[0]))
    colours = {"broker": BLUE, "worker": ORANGE, "client": GREEN}
    for y, key in enumerate(keys):
        value = {r["measure"].split()[1]: float(r["median"]) for r in rows
                 if (r["measure"].split()[0], r["event"], r["setting"]) == key}
        panel.plot([value["resident"], value["peak"]], [y, y], color=colours[key[0]], linewidth=2)
        panel.plot(value["resident"], y, "o", markersize=7, color=colours[key[0]])
        panel.plot(value["peak"], y, "|", markersize=12, markeredgewidth=2, color=colours[key[0]])
        panel.text(value["peak"] * 1.1, y, plain(float("%.3g" % value["peak"])), va="center", fontsize=8.5)
    panel.set_xscale("log")
    panel.set_xlim(left=5, right=1.6 * max(float(r["median"]) for r in rows))
    logarithmic(panel.xaxis, (1, 2, 5))
    panel.set_yticks(range(len(keys)), ["%s, %s%s" % (who, setting, "" if event == "none" else " (%s)" % event.upper())
                                        for who, event, setting in keys])
    panel.tick_params(axis="y", labelsize=8.5)
    panel.invert_yaxis()
    panel.grid(axis="y", visible=False)
    panel.set_xlabel("MiB (logarithmic): dot resident afterwards, line and number peak")
    panel.set_title("Memory of the programs")
    figure.supxlabel(machine(rows[0]), fontsize=8.5, color="#555555")
    save(figure, folder, "memory")


def setting_of(row):
    words = ["%s %s%s" % (row["workers"], "GPU" if row["kind"] == "gpu" else "worker", "" if row["workers"] == "1" else "s")]
    if row["brokers"] != "1":
        words.append("%s brokers" % row["brokers"])
    words.append(row["transport"])
    if row["io_threads"]:
        words.append("%s I/O thread%s" % (row["io_threads"], "" if row["io_threads"] == "1" else "s"))
    return ", ".join(words)


def plot_grow(folder, name):
    """Closed loop: events per second of each setting; open loop: latency against what was offered; how busy the GPUs
    were, where there are any."""
    rows = read(folder, name)
    closed = [r for r in rows if r["part"] == "closed"]
    if not closed:
        return
    opened = [r for r in rows if r["part"] == "open"]
    settings = list(dict.fromkeys(setting_of(r) for r in closed))
    sizes = list(dict.fromkeys(int(r["points"]) for r in closed))
    colours = dict(zip(sizes, (BLUE, ORANGE, GREEN, PINK)))
    busy = any(r["gpu_busy"] for r in rows)
    panels_n = 1 + bool(opened) + busy
    height = max(3.2, 1.1 + 0.42 * len(settings))
    figure, panels = plt.subplots(1, panels_n, figsize=(7.2 if panels_n == 1 else 4.8 * panels_n, height), squeeze=False)
    panel = panels[0, 0]
    most = max(float(r["events_per_s"]) for r in closed)
    for r in closed:
        shift = 0.22 * (sizes.index(int(r["points"])) - (len(sizes) - 1) / 2)
        y, value = settings.index(setting_of(r)) + shift, float(r["events_per_s"])
        panel.plot([0, value], [y, y], color=colours[int(r["points"])], linewidth=1.5)
        panel.plot(value, y, "o", markersize=6, color=colours[int(r["points"])])
        panel.text(value + 0.02 * most, y, "%s (%.2g GB/s)" % (plain(float("%.3g" % value)), float(r["bytes_per_s"]) / 1e9),
                   va="center", fontsize=8)
    panel.set_xlim(0, 1.45 * most)
    panel.set_yticks(range(len(settings)), settings, fontsize=8.5)
    panel.set_ylim(len(settings) - 0.5, -0.5)
    panel.grid(axis="y", visible=False)
    panel.set_xlabel("events per second, closed loop")
    if opened:
        panel = panels[0, 1]
        for size in sizes:
            for quantile, marker in (("p50_ms", "o"), ("p99_ms", "^")):
                mine = [r for r in opened if int(r["points"]) == size]
                panel.plot([float(r["rate"]) for r in mine], [float(r[quantile]) for r in mine], marker, markersize=5,
                           color=colours[size], fillstyle="full" if quantile == "p50_ms" else "none")
        panel.set_yscale("log")
        logarithmic(panel.yaxis)
        panel.set_xlim(left=0)
        panel.set_xlabel("events per second offered, open loop")
        panel.set_ylabel("ms (dot: median, triangle: p99)")
    if busy:
        panel = panels[0, -1]
        for y, r in enumerate(closed):
            values = [float(b) for b in r["gpu_busy"].split(";") if b]
            panel.plot(values, [y] * len(values), "o", markersize=5, color=colours[int(r["points"])])
        panel.set_xlim(0, 101)
        panel.set_yticks(range(len(closed)), ["%s, %s points" % (setting_of(r), plain(int(r["points"]))) for r in closed],
                         fontsize=7.5)
        panel.invert_yaxis()
        panel.set_xlabel("percent of the time busy, each GPU (NVML)")
    figure.legend([plt.Line2D([], [], marker="o", color=colours[s]) for s in sizes],
                  ["%s space points" % plain(s) for s in sizes], loc="outside upper center", ncols=len(sizes), fontsize=9)
    figure.supxlabel(machine(rows[0]) + (", " + rows[0]["gpu"] if rows[0]["gpu"] else ", workers that do nothing" if rows[0]["kind"] == "mock" else ""),
                     fontsize=8.5, color="#555555")
    save(figure, folder, name)


def plot_churn(folder):
    rows = read(folder, "churn")
    if not rows:
        return
    figure, panel = plt.subplots(figsize=(7.2, 2.8))
    seconds = [float(r["t_s"]) for r in rows]
    panel.plot(seconds, [float(r["answers_per_s"]) for r in rows], color=BLUE, linewidth=1.5)
    top = 1.25 * max(float(r["answers_per_s"]) for r in rows)
    for r in rows:
        if r["what"]:
            panel.axvline(float(r["t_s"]), color=RED if r["what"] == "killed" else GREEN, linewidth=1.2, linestyle="--")
            panel.text(float(r["t_s"]), 0.97 * top, " a worker " + r["what"], va="top", fontsize=8.5)
    panel.set_ylim(0, top)
    panel.set_xlim(0, max(seconds))
    panel.set_xlabel("seconds")
    panel.set_ylabel("answers per second")
    figure.supxlabel(machine(rows[0]), fontsize=8.5, color="#555555")
    save(figure, folder, "churn")


def rates(rows):
    """x, half widths, per cent, binomial errors of bins; an open last bin is left out."""
    rows = [r for r in rows if r["to"]]
    low, high, wanted, found = (np.array([float(r[name]) for r in rows]) for name in ("from", "to", "wanted", "found"))
    rate = found / wanted
    return (low + high) / 2, (high - low) / 2, 100 * rate, 100 * np.sqrt(np.maximum(rate * (1 - rate), 1 / wanted) / wanted)


def plot_physics(folder):
    """Efficiency by |eta| and pT: a model and ACTS's CKF with tracks of seven points, a row for each sample; below, the
    model with tracks of three, and models on the pixels alone."""
    rows = [r for r in read(folder, "physics_bins") if r["sample"] in ("pu40", "pu200") and not r["finder"].startswith("small")]
    samples = [name for name in ("pu40", "pu200") if any(r["sample"] == name for r in rows)]
    if not samples:
        return
    figure, panels = plt.subplots(2 * len(samples), 2, figsize=(7.6, 4.4 * len(samples)), squeeze=False, sharex="col",
                                  sharey="row")
    for i, sample in enumerate(samples):
        for above, kinds in ((0, [("tracks and particles of 7", "all")]), (1, [("0.9 GeV", "all"), ("0.9 GeV", "pixels")])):
            for panel, axis, name in zip(panels[2 * i + above], ("eta", "pt"), ("|η|", "pT (GeV)")):
                for (selection, detector), colours in zip(kinds, ((BLUE, ORANGE), (PINK, GREEN))):
                    mine = [r for r in rows if (r["sample"], r["selection"], r["detector"], r["axis"]) ==
                            (sample, selection, detector, axis)]
                    finders = [f for f in dict.fromkeys(r["finder"] for r in mine) if above == 0 or not f.startswith("ACTS")]
                    for finder, colour in zip(finders, colours):
                        x, width, rate, error = rates([r for r in mine if r["finder"] == finder])
                        label = finder if above == 0 else "%s, %s" % (finder, "pixels alone" if detector == "pixels" else "all points")
                        panel.errorbar(x, rate, (np.minimum(error, rate), np.minimum(error, 100 - rate)), width, fmt="o",
                                       markersize=3, color=colour, label=label)
                if axis == "pt":
                    panel.set_xscale("log")
                    panel.xaxis.set_major_formatter(FuncFormatter(plain))
                    panel.xaxis.set_minor_formatter(NullFormatter())
                if 2 * i + above == 2 * len(samples) - 1:
                    panel.set_xlabel(name)
            left = panels[2 * i + above][0]
            left.set_ylabel("efficiency, %")
            left.set_title("%s, tracks and particles of at least %s points" % (sample.upper(), "seven" if above == 0 else "three"))
            left.legend(loc="lower right", fontsize=8)
    save(figure, folder, "physics")


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(
        os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "results")
    folder = os.path.normpath(folder)
    if not os.path.isdir(folder):
        sys.exit("plot.py: %s: no such folder" % folder)
    for plot in (plot_stages, plot_gpu, plot_relay, plot_training, plot_growth, plot_memory, plot_physics):
        plot(folder)
    plot_stages(folder, "_xeon")
    plot_churn(folder)
    for name in sorted(os.listdir(folder)):
        if name == "grow.csv" or (name.startswith("grow_") and name.endswith(".csv")):
            plot_grow(folder, name[:-len(".csv")])


if __name__ == "__main__":
    main()

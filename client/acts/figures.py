# SPDX-License-Identifier: Apache-2.0
"""The figures of track finders on simulated events: counts by docs/metrics.md, resolutions, a table, a plot.

numpy alone; matplotlib for the plot. Lengths in mm, momenta in GeV.
"""
import numpy as np

CUTS = {"eta": 4.0, "measurements": 7, "holes": 2, "outliers": 2}                # of tracks, for both finders
WANTED = {"pt": 0.9, "eta": 4.0, "measurements": 3}                              # of particles
ETA_EDGES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
PT_EDGES = (0.9, 1.2, 2.0, 5.0, np.inf)
PROMPT_MM = 1.0                     # resolutions: of particles made within this distance of the beam line
FIELD_T = 2.0
MM_PER_GEV = 1.0 / (0.299792458e-3 * FIELD_T)           # radius of curvature
TITLES = {"trackmill": "trackmill", "ckf": "ACTS seeding + CKF"}


def perigee(particles):
    """pT, d0 and z0 of particles with respect to the z axis, as ACTS defines them: a helix through their vertex.

    particles: arrays x, y, z (mm), px, py, pz (GeV), q (±1), one row each."""
    p, pt = particles, np.hypot(particles["px"], particles["py"])
    radius = p["q"] * pt * MM_PER_GEV
    centre_x, centre_y = p["x"] + radius * p["py"] / pt, p["y"] - radius * p["px"] / pt
    shrink = 1 - np.abs(radius) / np.hypot(centre_x, centre_y)
    x, y = centre_x * shrink, centre_y * shrink                      # the point of closest approach
    cos_phi, sin_phi = (y - centre_y) / radius, (centre_x - x) / radius     # the direction there
    turn = np.arctan2(sin_phi, cos_phi) - np.arctan2(p["py"], p["px"])
    turn -= 2 * np.pi * np.round(turn / (2 * np.pi))
    return {"pt": pt, "d0": y * cos_phi - x * sin_phi, "z0": p["z"] - turn * radius * p["pz"] / pt}


def score(truth, tracks):
    """Counts of one event by docs/metrics.md.

    truth: "owners" (measurement [K], particle [K]: one row for each particle of a measurement), "particles" (arrays by
    name). tracks: "lists" of measurements and fitted "pt", "d0", "z0" of each.
    A track of n measurements and a particle of m that share k match when k > n/2 and k > m/2."""
    measurement, owner = truth["owners"]
    particles = truth["particles"]
    number = len(particles["pt"])
    size = np.bincount(owner, minlength=number)
    wanted = ((particles["pt"] > WANTED["pt"]) & (np.abs(particles["eta"]) < WANTED["eta"])
              & (size >= WANTED["measurements"]) & particles["generated"] & (particles["q"] != 0))
    first = np.searchsorted(measurement, np.arange(measurement.max(initial=-1) + 2))
    length = np.array([len(track) for track in tracks["lists"]], int)
    pairs = [(t, owner[k]) for t, track in enumerate(tracks["lists"]) for m in track for k in range(first[m], first[m + 1])]
    key = np.array([t * number + p for t, p in pairs], int)
    key, count = np.unique(key, return_counts=True)
    of_track, of_particle = key // max(number, 1), key % max(number, 1)
    best = np.zeros(len(length), int)
    np.maximum.at(best, of_track, count)
    majority = np.full(len(length), -1)
    is_best = count == best[of_track]
    majority[of_track[is_best][::-1]] = of_particle[is_best][::-1]    # of equals the first particle
    has = majority >= 0
    matched = has & (2 * best > length) & (2 * best > np.where(has, size[majority], 0))
    found = np.bincount(majority[matched], minlength=number)
    hard = has & (particles["pt"][majority] > WANTED["pt"])
    good = matched & wanted[majority]

    def bins(values, edges):
        place = np.digitize(values[wanted], edges) - 1
        return [[int((found[wanted][place == i] > 0).sum()), int((place == i).sum())] for i in range(len(edges) - 1)]

    prompt = good & (particles["rho"][majority] < PROMPT_MM)
    mine = majority[prompt]
    residuals = {"d0": (tracks["d0"][prompt] - particles["d0"][mine]).tolist(),
                 "z0": (tracks["z0"][prompt] - particles["z0"][mine]).tolist(),
                 "pt": (tracks["pt"][prompt] / particles["pt"][mine] - 1).tolist(),
                 "true_pt": particles["pt"][mine].tolist()}
    return {"tracks": len(length), "wanted": int(wanted.sum()), "found": int((found[wanted] > 0).sum()),
            "matched": int(matched.sum()), "duplicates": int(np.maximum(found - 1, 0).sum()), "hard": int(hard.sum()),
            "fakes": int((hard & ~matched).sum()), "fakes_all": int((~matched).sum()),
            "shared": int(best[good].sum()), "of_tracks": int(length[good].sum()),
            "of_particles": int(size[majority[good]].sum()), "eta": bins(np.abs(particles["eta"]), ETA_EDGES),
            "pt": bins(particles["pt"], PT_EDGES), "residuals": residuals}


def width(values):
    """Half of the interval that holds the middle 68 %."""
    return float(np.diff(np.percentile(values, (16, 84)))[0] / 2) if len(values) else float("nan")


def total(scores):
    """Sums over the events -> rates in per cent, widths in GeV/GeV and mm."""
    def ratio(above, below):
        return 100 * sum(s[above] for s in scores) / max(1, sum(s[below] for s in scores))

    def summed(name):
        return np.sum([s[name] for s in scores], axis=0).tolist()
    residuals = {name: np.concatenate([s["residuals"][name] for s in scores]) for name in ("pt", "d0", "z0", "true_pt")}
    place = np.digitize(residuals["true_pt"], PT_EDGES) - 1
    return {"events": len(scores), "tracks": sum(s["tracks"] for s in scores), "particles": sum(s["wanted"] for s in scores),
            "efficiency": ratio("found", "wanted"), "fakes": ratio("fakes", "hard"), "fakes_all": ratio("fakes_all", "tracks"),
            "duplicates": ratio("duplicates", "tracks"), "purity": ratio("shared", "of_tracks"),
            "completeness": ratio("shared", "of_particles"), "eta": summed("eta"), "pt": summed("pt"),
            "resolution": {name: width(residuals[name]) for name in ("pt", "d0", "z0")},
            "resolution_by_pt": {name: [width(residuals[name][place == i]) for i in range(len(PT_EDGES) - 1)]
                                 for name in ("pt", "d0", "z0")}}


def table(results):
    """The table, in Markdown."""
    head = ["sample", "finder", "efficiency", "fakes", "duplicates", "purity", "completeness", "ACTS: eff., fakes", "σ(pT)/pT",
            "σ(d0) µm", "σ(z0) µm", "CPU of the job, s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for result in results:
        for name, f in result["figures"].items():
            acts, sigma, cpu = result["acts"][name], f["resolution"], result["cpu_s"]
            seconds = f"{cpu['find']:.3f} + fit {cpu['fit']:.3f}" if name == "trackmill" else f"{cpu['ckf']:.3f}"
            cells = [f"{result['label']} ({f['events']} events, {f['particles']} particles)", TITLES[name],
                     f"{f['efficiency']:.2f}", f"{f['fakes']:.2f}", f"{f['duplicates']:.2f}", f"{f['purity']:.2f}",
                     f"{f['completeness']:.2f}",
                     f"{100 * acts['efficiencyParticles']:.2f}, {100 * acts['fakeRatioTracks']:.2f}",
                     f"{100 * sigma['pt']:.2f} %", f"{1000 * sigma['d0']:.1f}", f"{1000 * sigma['z0']:.1f}", seconds]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def paired_errors(ours, theirs):
    """Standard deviations of the difference of two finders' found particles by bin, if they were equally good: events are
    independent, particles of one event (a jet, a vertex far out) are not. Lists of dicts of `score`, one per event."""
    return {axis: np.sqrt(np.sum([np.subtract(a[axis], b[axis])[:, 0] ** 2.0 for a, b in zip(ours, theirs)], axis=0)).tolist()
            for axis in ("eta", "pt")}


def worse_bins(result):
    """Bins in which trackmill finds fewer particles than the CKF, with the difference in standard deviations of
    paired_errors; results without them: of a binomial distribution."""
    out = []
    for axis, edges in (("eta", ETA_EDGES), ("pt", PT_EDGES)):
        for i, (ours, theirs) in enumerate(zip(result["figures"]["trackmill"][axis], result["figures"]["ckf"][axis])):
            if ours[0] < theirs[0]:
                rate = theirs[0] / theirs[1]
                error = np.sqrt(max(rate * (1 - rate), 1 / theirs[1]) * theirs[1])
                if "paired_errors" in result:
                    error = result["paired_errors"][axis][i]
                out.append(f"{axis} {edges[i]:g}–{edges[i + 1]:g}: {100 * ours[0] / ours[1]:.2f} against {100 * rate:.2f} % "
                           f"({(theirs[0] - ours[0]) / error:.1f} σ)")
    return out


def finite(edges):
    """The open last bin ends at twice its beginning."""
    return np.array([edges[-2] * 2 if np.isinf(edge) else edge for edge in edges])


def picture(points, tracks, path):
    """One event, across the beam and along it: space points [N, 3] (mm) grey, tracks (lists of rows) as lines."""
    import matplotlib
    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    plt.rcParams.update({"svg.hashsalt": "trackmill", "font.size": 8})
    x, y, z = np.asarray(points, float).T
    r = np.hypot(x, y)
    figure, (across, along) = plt.subplots(1, 2, figsize=(14, 6), layout="constrained", width_ratios=(1, 1.6))
    across.plot(x, y, ",", color="0.6")
    along.plot(z, r, ",", color="0.6")
    for track in tracks:
        line, = across.plot(x[track], y[track], ".-", ms=2, lw=0.7)
        along.plot(z[track], r[track], ".-", ms=2, lw=0.7, color=line.get_color())
    across.set(xlabel="x (mm)", ylabel="y (mm)", aspect="equal", title=f"{len(x)} space points, {len(tracks)} tracks")
    along.set(xlabel="z (mm)", ylabel="r (mm)")
    figure.savefig(path, metadata={"Date": None})


def plot(results, path):
    """One figure: a row for each sample; efficiency by |eta| and pT, resolutions by pT, processor time."""
    import matplotlib
    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    plt.rcParams.update({"svg.hashsalt": "trackmill", "font.size": 8})
    colours = {"trackmill": "tab:blue", "ckf": "tab:orange"}
    figure, rows = plt.subplots(len(results), 5, figsize=(14, 2.7 * len(results)), squeeze=False, layout="constrained")
    for axes, result in zip(rows, results):
        for name, f in result["figures"].items():
            style = {"ms": 3, "color": colours[name], "label": TITLES[name]}
            for axis, key, edges, label in ((axes[0], "eta", ETA_EDGES, "|η|"), (axes[1], "pt", PT_EDGES, "pT (GeV)")):
                found, there = np.array(f[key], float).T
                some = there > 0
                ends = finite(edges)
                centre, half = ((ends[1:] + ends[:-1]) / 2)[some], (np.diff(ends) / 2)[some]
                rate = found[some] / there[some]
                error = np.sqrt(np.maximum(rate * (1 - rate), 1 / there[some]) / there[some])
                axis.errorbar(centre, 100 * rate, 100 * error, half, fmt="o", **style)
                axis.set(xlabel=label, ylabel="efficiency (%)", title=result["label"], ylim=(85, 101))
            ends = finite(PT_EDGES)
            for axis, key, scale in ((axes[2], "d0", 1000), (axes[3], "pt", 100)):
                axis.plot((ends[1:] + ends[:-1]) / 2, scale * np.array(f["resolution_by_pt"][key]), "o-", **style)
                axis.set(xlabel="pT (GeV)", ylabel="σ(d0) (µm)" if key == "d0" else "σ(pT)/pT (%)")
        for axis in axes[2:4]:
            axis.set_ylim(bottom=0)
        axes[0].legend(loc="lower left")
        cpu = result["cpu_s"]
        axes[4].barh(["trackmill"], [cpu["find"]], color="tab:blue", label="find (job's side)")
        axes[4].barh(["trackmill"], [cpu["fit"]], left=[cpu["find"]], color="tab:cyan", label="fit")
        if "ckf" in cpu:
            axes[4].barh(["CKF"], [cpu["ckf"]], color="tab:orange", label="seeding, CKF, ambiguities")
        axes[4].set(xlabel="CPU of the job per event (s)", ylim=(-0.5, 2.5))
        axes[4].legend(fontsize=6, loc="upper right")
    figure.savefig(path, metadata={"Date": None})

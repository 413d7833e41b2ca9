#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How the model bears what simulated training events lack: noise, holes, merged clusters, misalignment, other vertices.

    robust.py vary noise --donors other/*.npz.xz --out varied EVENT...     # events in, varied events out (numpy alone)
    robust.py simulate ions --seed 1 --out ions            # kinds of events that simulate.py has no option for
    robust.py table --trackmill build/client/cli/trackmill --work /scratch/robust --csv docs/results/robust.csv
    robust.py plot docs/results/robust.csv                 # docs/results/robust.svg

`table` makes every event it needs (simulate.py's packages), finds with the CPU engine and writes one row for each kind of
event and variation, in the definitions of docs/metrics.md. What WORK has already is not made again. Same seed, same
events; misaligned and dead modules are the same ones in every event. Lengths are mm, unless a name says um.

An event here is the dict of arrays in its file (docs/formats.md), N points; variations return a new one.
"""
import argparse
import csv
import io
import json
import lzma
import subprocess
import sys
from pathlib import Path

import numpy as np

PIXELS = (7, 8, 9)                  # volumes
BARREL = (8, 13, 17)                # volumes whose modules stand along z; the others are discs across it
#   Readout of the Generic detector, as in simulate.py: volume -> pitch along (r-phi, z in the barrel and r in discs)
PITCH = {volume: pitch for volumes, pitch in (((7, 8, 9), (0.05, 0.05)), ((12, 13, 14), (0.08, 1.2)),
                                              ((16, 17, 18), (0.12, 10.6))) for volume in volumes}
MODULES = (32, 32, 4096)            # room for volume, layer and module numbers in tables of one draw per module
DEADLINE = 1800                     # s for an event: one of 300,000 points may take minutes on a busy machine
BYTE_MAX, SHORT_MAX = 255, 65535    # of the arrays n_cells, size_loc0, size_loc1; charge_e3
HITS = ("x_um", "y_um", "z_um", "volume", "layer", "module", "n_cells", "size_loc0", "size_loc1", "charge_e3",
        "particle", "order")


class Fault(Exception):
    """Something the caller can mend; the text says what and where."""


# ---- events --------------------------------------------------------------------------------------------------------

def read(path):
    """The arrays of one event file (.npz.xz)."""
    try:
        with lzma.open(path) as file:
            archive = np.load(io.BytesIO(file.read()))
            event = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, lzma.LZMAError, EOFError) as error:
        raise Fault(f"{path}: not an event of simulate.py (.npz.xz): {error}") from None
    missing = [name for name in (*HITS, "extra_hit", "extra_particle") if name not in event]
    if missing:
        raise Fault(f"{path}: array {missing[0]} is missing; variations need module ids, clusters and truth")
    return event


def write(event, path):
    """One event file, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **event)
    part = Path(f"{path}.part")
    part.write_bytes(lzma.compress(buffer.getvalue(), preset=1))
    part.replace(path)


def choose(event, rows):
    """The event with these rows of points [M] alone, in this order; further particles of merged clusters follow."""
    place = np.full(len(event["x_um"]), -1)
    place[rows] = np.arange(len(rows))
    extra = place[event["extra_hit"]]
    chosen = {name: array[rows] if name in HITS else array for name, array in event.items()}
    chosen["extra_hit"] = extra[extra >= 0].astype(np.int32)
    chosen["extra_particle"] = event["extra_particle"][extra >= 0]
    return chosen


def in_order(event):
    """The event with its points sorted by volume, layer, module, as simulate.py writes them."""
    return choose(event, np.lexsort((event["module"], event["layer"], event["volume"])))


def module_draws(event, draws):
    """What a table drawn for every possible module [32, 32, 4096, ...] holds for the module of each point [N, ...]."""
    where = tuple(event[name].astype(np.int64) for name in ("volume", "layer", "module"))
    for axis, room, name in zip(where, MODULES, ("volume", "layer", "module")):
        if len(axis) and axis.max() >= room:
            raise Fault(f"array {name}: {axis.max()} is beyond {room - 1}, the largest there is room for")
    return draws[where]


# ---- variations ----------------------------------------------------------------------------------------------------

def add_noise(event, random, share, donors):
    """share * N points without particle. Their places are those of random points of the donor events (so they lie on
    modules, and as densely as particles), their clusters those of random one-cell points of the same volume."""
    number = round(share * len(event["x_um"]))
    if not donors or sum(len(d["x_um"]) for d in donors) < number:
        raise Fault(f"noise: {number} points wanted, more than the donor events have: give more with --donors")
    pool = {name: np.concatenate([d[name] for d in donors]) for name in HITS}
    rows = random.choice(len(pool["x_um"]), number, replace=False)
    noise = {name: array[rows] for name, array in pool.items()}
    for volume in np.unique(noise["volume"]):
        mine = np.flatnonzero(noise["volume"] == volume)
        single = np.flatnonzero((pool["volume"] == volume) & (pool["n_cells"] == 1))
        if len(single):
            shape = random.choice(single, len(mine))
            for name in ("n_cells", "size_loc0", "size_loc1", "charge_e3"):
                noise[name][mine] = pool[name][shape]
    noise["particle"][:], noise["order"][:] = -1, 0
    joined = {name: np.concatenate([array, noise[name].astype(array.dtype)]) if name in HITS else array
              for name, array in event.items()}
    return in_order(joined)


def drop_points(event, random, share):
    """A random share of the points is lost."""
    return choose(event, np.flatnonzero(random.random(len(event["x_um"])) >= share))


def drop_modules(event, random, share):
    """A random share of the modules is dead: the same modules in every event."""
    return choose(event, np.flatnonzero(module_draws(event, random.random(MODULES)) >= share))


def cell_places(event):
    """Places of the points within their modules in cells [N, 2], from an arbitrary origin for each module.
    Points are sorted by module. Along r-phi: a module's points lie on a line in x-y (barrel), or on arcs (discs)."""
    x, y, z = (event[f"{axis}_um"] / 1000 for axis in "xyz")
    r, phi = np.hypot(x, y), np.arctan2(y, x)
    key = module_key(event)
    first = np.searchsorted(key, key)               # row of the first point of the same module
    turn = np.angle(np.exp(1j * (phi - phi[first])))
    barrel = np.isin(event["volume"], BARREL)
    along = np.where(barrel, np.copysign(np.hypot(x - x[first], y - y[first]), turn), r * turn)
    across = np.where(barrel, z, r)
    pitch = np.array([PITCH.get(v, (1.0, 1.0)) for v in range(MODULES[0])])[event["volume"]]
    return np.stack([along, across], axis=1) / pitch


def module_key(event):
    """One number for each point's module [N]."""
    volume, layer, module = (event[name].astype(np.int64) for name in ("volume", "layer", "module"))
    return (volume * MODULES[1] + layer) * MODULES[2] + module


def merge_clusters(event, random, gap):
    """Clusters of one module with less than `gap` free cells between them, along both directions, become one: charges
    and cells added, the place weighted by charge. The first point's particle owns it, the others own it as well (the
    extra_* arrays). Clusters joined through a third are one. Nothing is drawn: `random` is not used."""
    event = in_order(event)
    number = len(event["x_um"])
    if number == 0:
        return event
    place, key = cell_places(event), module_key(event)
    size = np.maximum(np.stack([event["size_loc0"], event["size_loc1"]], axis=1), 1).astype(float)
    pairs = []
    for step in range(1, number):                   # ends at the size of the fullest module
        a = np.flatnonzero(key[:-step] == key[step:])
        if not len(a):
            break
        reach = (size[a] + size[a + step]) / 2 + gap
        near = (np.abs(place[a] - place[a + step]) < reach).all(axis=1)
        pairs.append(np.stack([a[near], a[near] + step]))
    one, two = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), np.int64)
    label = np.arange(number)
    while (label[one] != label[two]).any():         # the smallest row of each group spreads
        least = np.minimum(label[one], label[two])
        np.minimum.at(label, one, least)
        np.minimum.at(label, two, least)
    keep, group = np.unique(label, return_inverse=True)
    changed = np.bincount(group)[group] > 1
    owners = np.stack([np.concatenate([label, label[event["extra_hit"]]]),
                       np.concatenate([event["particle"], event["extra_particle"]]).astype(np.int64)], axis=1)
    merged = {name: array.copy() if name in HITS else array for name, array in event.items()}
    weight = np.maximum(event["charge_e3"].astype(float), 1)
    total = np.bincount(group, weight)
    for axis in ("x_um", "y_um", "z_um"):
        mean = np.rint(np.bincount(group, weight * event[axis]) / total)[group]
        merged[axis][changed] = mean[changed]
    for name, limit in (("n_cells", BYTE_MAX), ("charge_e3", SHORT_MAX)):
        summed = np.minimum(np.bincount(group, event[name]), limit)[group]
        merged[name][changed] = summed[changed]
    for column, name in enumerate(("size_loc0", "size_loc1")):
        low, high = np.full(len(keep), np.inf), np.full(len(keep), -np.inf)
        np.minimum.at(low, group, place[:, column] - size[:, column] / 2)
        np.maximum.at(high, group, place[:, column] + size[:, column] / 2)
        merged[name][changed] = np.clip(np.rint(high - low), 1, BYTE_MAX)[group][changed]
    #   Noise owns nothing; a group's particles, without the first and without repetition, are the extra ones.
    owners = np.unique(owners[owners[:, 1] >= 0], axis=0)
    first = np.full(number, -1)
    first[owners[::-1, 0]] = owners[::-1, 1]        # noise merged with a particle is the particle's
    own = event["particle"]
    first[keep] = np.where(own[keep] >= 0, own[keep], first[keep])
    merged["particle"] = first.astype(own.dtype)
    owners = owners[owners[:, 1] != first[owners[:, 0]]]
    merged["extra_hit"], merged["extra_particle"] = owners.T.astype(np.int32)
    return choose(merged, keep)


def misalign(event, random, width):
    """Every module is shifted in its plane, by a normal of `width` mm along r-phi and another along z (barrel) or r
    (discs): the same shift in every event."""
    x, y, z = (event[f"{axis}_um"] / 1000 for axis in "xyz")
    shift = module_draws(event, random.normal(0.0, width, (*MODULES, 2)))
    phi = np.arctan2(y, x)
    barrel = np.isin(event["volume"], BARREL)
    z = z + np.where(barrel, shift[:, 1], 0.0)
    radial = np.where(barrel, 0.0, shift[:, 1])
    moved = {"x_um": x + radial * np.cos(phi) - shift[:, 0] * np.sin(phi),
             "y_um": y + radial * np.sin(phi) + shift[:, 0] * np.cos(phi), "z_um": z}
    return {**event, **{name: np.rint(values * 1000).astype(event[name].dtype) for name, values in moved.items()}}


#   name: (function, default amount, what the amount is)
VARIATIONS = {"noise": (add_noise, 0.1, "noise points for each point there is"),
              "missing": (drop_points, 0.02, "share of points lost"),
              "dead": (drop_modules, 0.02, "share of modules dead"),
              "merged": (merge_clusters, 2.0, "free cells between clusters that still become one"),
              "misaligned": (misalign, 0.05, "width of the shifts, mm")}


def vary(name, amount, seed, paths, out, donors=()):
    """Writes OUT/<name of the file> for each event file. Every event draws from its own stream, modules from one."""
    function = VARIATIONS[name][0]
    out.mkdir(parents=True, exist_ok=True)
    pool = [read(path) for path in donors]
    for number, path in enumerate(paths):
        stream = [seed] if name in ("dead", "misaligned") else [seed, number]
        more = {"donors": pool} if name == "noise" else {}
        event = read(path)
        varied = function(event, np.random.default_rng(stream), amount, **more)
        write(varied, out / Path(path).name)
        print(f"{out / Path(path).name}: {len(event['x_um'])} -> {len(varied['x_um'])} space points", flush=True)


# ---- simulated kinds -----------------------------------------------------------------------------------------------

#   Kinds made by simulate.py: options, number of events, seed. `shift` (mm) and `ions` need the classes below.
SIMULATED = {
    "pu40": (dict(mu=40.0), 5, 8801),
    "pu200": (dict(mu=200.0), 1, 8802),
    "donors": (dict(mu=200.0), 4, 8803),
    "pu350": (dict(mu=350.0), 1, 8804),
    "z55": (dict(mu=40.0, shift=(0.0, 0.0, 55.0)), 5, 8801),
    "z110": (dict(mu=40.0, shift=(0.0, 0.0, 110.0)), 5, 8801),
    "z165": (dict(mu=40.0, shift=(0.0, 0.0, 165.0)), 5, 8801),
    "x1": (dict(mu=40.0, shift=(1.0, 0.0, 0.0)), 5, 8801),
    "x5": (dict(mu=40.0, shift=(5.0, 0.0, 0.0)), 5, 8801),
    "muon": (dict(gun=13), 300, 8805),
    "pion": (dict(gun=211), 300, 8806),
    "electron": (dict(gun=11), 300, 8807),
    "ions": (dict(gun="ions"), 1, 8808),
}
GUN = dict(count=1, pt=(1.0, 100.0), eta=3.0)
#   Lead on lead; the total cross sections' parameters are fixed, or Pythia would fit them for minutes
LEAD = ["Beams:idA = 1000822080", "Beams:idB = 1000822080", "Beams:eCM = 5360.", "HeavyIon:SigFitNGen = 0"]
CENTRAL = 12000                     # charged particles above 0.1 GeV within |eta| < 4 that make a collision central


def simulate_kind(kind, count, seed, out):
    """Simulates events of one kind into OUT."""
    import simulate

    class Shifted(simulate.Generator):
        """All vertices of an event moved by one vector; the collisions are those of the event unmoved."""

        def collisions(self, random):
            for number, vertex, *rest in super().collisions(random):
                yield (number, vertex + np.array(self.options.shift), *rest)

    class Ions(simulate.Generator):
        """One central collision of lead nuclei (Pythia's Angantyr), everything from one vertex."""

        def gun(self, random):
            if not hasattr(self, "ions"):
                self.ions = simulate.make_pythia(LEAD, self.options.max_ctau)
            self.ions.rndm.init(int(random.integers(1, 900_000_000)))
            vertex = random.normal(0.0, (*simulate.BEAM_SPOT, self.options.beam_z))
            while True:
                if not self.ions.next():
                    continue
                seen = [p for p in self.ions.event if p.isFinal() and p.pT() > simulate.PT_MIN
                        and (p.isCharged() or p.id() == 22) and abs(p.eta()) < simulate.ETA_MAX]
                if sum(p.isCharged() for p in seen) >= CENTRAL:
                    break
            for p in seen:
                place = (p.xProd(), p.yProd(), p.zProd())
                if (np.hypot(vertex[0] + place[0], vertex[1] + place[1]) < simulate.R_MAX
                        and abs(vertex[2] + place[2]) < simulate.Z_MAX):
                    yield (1, vertex, p.id(), p.charge(), p.m(), place, p.tProd(), (p.px(), p.py(), p.pz()))

    changes = SIMULATED[kind][0]
    options = simulate.options_of(**{**dict(out=str(out), seed=seed, mu=40.0), **GUN, **changes})
    if "shift" in changes:
        simulate.Generator = Shifted
    elif options.gun == "ions":
        simulate.Generator = Ions
    out.mkdir(parents=True, exist_ok=True)
    simulate.simulate(options, 0, count)


# ---- table ---------------------------------------------------------------------------------------------------------

#   Rows: events, [(variation, amount) one after the other]. "widened" varies the model, not the events: see widen().
ROWS = [("pu40", []), ("pu40", [("noise", 0.1)]), ("pu40", [("noise", 0.3)]), ("pu40", [("missing", 0.02)]),
        ("pu40", [("missing", 0.1)]), ("pu40", [("dead", 0.02)]),
        ("pu40", [("merged", 2.0)]), ("pu40", [("merged", 5.0)]),
        ("pu40", [("misaligned", 0.01)]), ("pu40", [("misaligned", 0.02)]),
        ("pu40", [("misaligned", 0.05)]), ("pu40", [("misaligned", 0.2)]),
        ("pu40", [("widened", 0.05)]), ("pu40", [("misaligned", 0.05), ("widened", 0.05)]),
        ("pu40", [("misaligned", 0.2), ("widened", 0.2)]),
        ("pu40", [("merged", 2.0), ("missing", 0.02), ("misaligned", 0.05), ("noise", 0.1)]),
        ("x1", []), ("x5", []), ("z55", []), ("z110", []), ("z165", []),
        ("muon", []), ("pion", []), ("electron", []),
        ("pu200", []), ("pu200", [("misaligned", 0.05)]),
        ("pu200", [("merged", 2.0), ("missing", 0.02), ("misaligned", 0.05), ("noise", 0.1)]),
        ("pu200", [("noise", 0.1)]), ("pu200", [("missing", 0.02)]), ("pu200", [("dead", 0.02)]),
        ("pu200", [("merged", 2.0)]), ("pu200", [("merged", 5.0)]),
        ("ions", []), ("pu350", [])]
COUNTS = {"wanted": "n_wanted", "found": "n_found", "tracks": "n_tracks", "matched": "n_matched",
          "impure_tracks": "n_impure", "hard": "n_hard", "hard_matched": "n_hard_matched", "hard_5": "n_hard_5",
          "hard_matched_5": "n_hard_matched_5"}
RATES = ("efficiency", "fakes", "fakes_5", "fakes_all", "impure", "duplicates", "purity", "completeness")
COLUMNS = ("events", "variation", "files", "points", *RATES, *COUNTS)


def label(steps):
    """What a row's variations are called: missing 0.02 + noise 0.1."""
    return " + ".join(f"{name} {amount:g}" for name, amount in steps) or "none"


def events_of(kind, work):
    """The files of a simulated kind, made in a process of their own (ACTS and Pythia) unless all are there."""
    folder, count, seed = work / kind, *SIMULATED[kind][1:]
    if len(list(folder.glob("*.npz.xz"))) < count:
        subprocess.run([sys.executable, __file__, "simulate", kind, "--events", str(count), "--seed", str(seed),
                        "--out", str(folder)], check=True)
    return sorted(folder.glob("*.npz.xz"))[:count]


def varied_events(kind, steps, work, seed):
    """The files of a row, varied step by step."""
    paths, folder = events_of(kind, work), work / kind
    for name, amount in steps:
        folder = folder.with_name(f"{folder.name}-{name}-{amount:g}")
        if len(list(folder.glob("*.npz.xz"))) < len(paths):
            donors = events_of("donors", work) if name == "noise" else []
            vary(name, amount, seed, paths, folder, donors)
        paths = sorted(folder.glob("*.npz.xz"))
    return paths


def widen(model, width, path):
    """Writes a copy of a model file whose fit counts on modules out of place by `width` mm: its errors of points (all
    `zones` of `tracks.fit`, docs/model-file.md), with the width added in quadrature. The networks stay as they are."""
    data = model.read_bytes()
    length = int.from_bytes(data[:8], "little")     # safetensors: length of the header, header (JSON), numbers
    header = json.loads(data[8:8 + length])
    pipeline = json.loads(header["__metadata__"]["trackmill"])
    for zone in pipeline["tracks"]["fit"]["zones"]:
        for name in ("sigma_phi", "sigma_z", "sigma_r"):
            if name in zone:
                zone[name] = round(float(np.hypot(zone[name], width)), 6)
    header["__metadata__"]["trackmill"] = json.dumps(pipeline, separators=(",", ":"))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length:])


def measure(trackmill, model, threads, paths):
    """Total score of the CPU engine on these files, as `trackmill find --json` prints it, and the number of points."""
    done = subprocess.run([trackmill, "find", "--json", "--device", "cpu", "--threads", str(threads), "--model", model,
                           "--deadline", str(DEADLINE),
                           *map(str, paths)], capture_output=True, text=True)
    if done.returncode:
        raise Fault(f"{trackmill} find failed: {done.stderr.strip() or done.stdout[-300:]}")
    total = json.loads(done.stdout)["total"]
    return total["score"], total["space_points"]


def on_pixels(event):
    """The event with its points on pixels alone; particles keep their rows."""
    return choose(event, np.flatnonzero(np.isin(event["volume"], PIXELS)))


def pixels_of(paths, out):
    """The same events with their points on pixels alone, in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if not (out / path.name).exists():
            write(on_pixels(read(path)), out / path.name)
    return [out / path.name for path in paths]


def table(options):
    """Writes the CSV, row by row; rows that it has are kept."""
    done = []
    if options.csv.exists():
        with open(options.csv, newline="") as file:
            done = list(csv.DictReader(file))
    for kind, steps in ROWS:
        if options.only and kind not in options.only:
            continue
        if any((row["events"], row["variation"]) == (kind, label(steps)) for row in done):
            continue
        paths = varied_events(kind, [s for s in steps if s[0] != "widened"], options.work, options.seed)
        if options.pixels:
            paths = pixels_of(paths, paths[0].parent.with_name(paths[0].parent.name + "-pixels"))
        model = options.model
        for width in (amount for name, amount in steps if name == "widened"):
            model = options.work / f"widened-{width:g}.safetensors"
            widen(options.model, width, model)
        score, points = measure(options.trackmill, str(model), options.threads, paths)
        row = {"events": kind, "variation": label(steps), "files": len(paths), "points": points}
        row.update({name: f"{score[name]:.5f}" for name in RATES})
        row.update({name: score[source] for name, source in COUNTS.items()})
        done.append(row)
        print(kind, label(steps), *(f"{name} {row[name]}" for name in RATES[:5]), flush=True)
        order = [(k, label(s)) for k, s in ROWS]
        done.sort(key=lambda row: order.index((row["events"], row["variation"])))
        with open(options.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(done)


def plot(path):
    """Inefficiency and fakes of each row as bars, beside the CSV, with binomial errors."""
    import matplotlib
    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    plt.rcParams.update({"svg.hashsalt": "trackmill", "svg.fonttype": "none", "font.size": 9,
                         "axes.spines.top": False, "axes.spines.right": False, "figure.constrained_layout.use": True})
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))[::-1]
    figure, panels = plt.subplots(1, 3, figsize=(10, 0.5 + 0.24 * len(rows)), sharey=True)
    for panel, title, good, all_ in zip(panels, ("not found, %", "fakes, %", "fakes of five points or more, %"),
                                        ("found", "hard_matched", "hard_matched_5"), ("wanted", "hard", "hard_5")):
        n = np.array([max(int(row[all_]), 1) for row in rows])
        lost = np.array([int(row[all_]) - int(row[good]) for row in rows]) / n
        panel.barh(range(len(rows)), 100 * lost, xerr=100 * np.sqrt(lost * (1 - lost) / n), color="#0072B2",
                   error_kw={"ecolor": "#8C8C8C"})
        panel.set_title(title, loc="left", fontsize=9)
        panel.grid(axis="x", color="#E4E4E4")
        panel.set_axisbelow(True)
    panels[0].set_yticks(range(len(rows)), [row["events"] + ("" if row["variation"] == "none" else ": "
                                                             + row["variation"]) for row in rows])
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


# ---- command line --------------------------------------------------------------------------------------------------

def positive(text):
    """A number above 0."""
    value = float(text)
    if not 0 < value < np.inf:
        raise ValueError(text)
    return value


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("vary", help="events in, varied events out", formatter_class=argparse.RawTextHelpFormatter,
                              epilog="\n".join(f"{name}: {what} ({amount:g})"
                                               for name, (_, amount, what) in VARIATIONS.items()))
    one.add_argument("variation", choices=VARIATIONS)
    one.add_argument("events", nargs="+", type=Path)
    one.add_argument("--amount", type=positive, help="see below")
    one.add_argument("--donors", nargs="+", type=Path, default=[], help="noise: other events that give places")
    one.add_argument("--seed", type=int, default=1)
    one.add_argument("--out", required=True, type=Path, help="folder for the events")
    two = commands.add_parser("simulate", help="a kind of events of the table")
    two.add_argument("kind", choices=SIMULATED)
    two.add_argument("--events", type=int)
    two.add_argument("--seed", type=int)
    two.add_argument("--out", required=True, type=Path, help="folder for the events")
    three = commands.add_parser("table", help="everything: events, tracks, figures")
    three.add_argument("--trackmill", required=True, help="the program")
    three.add_argument("--model", type=Path, default=Path(__file__).parents[1] / "standard.safetensors")
    three.add_argument("--work", required=True, type=Path, help="folder for events (80 MB)")
    three.add_argument("--csv", required=True, type=Path)
    three.add_argument("--threads", type=int, default=0, help="of the engine (0: all)")
    three.add_argument("--seed", type=int, default=1, help="of the variations")
    three.add_argument("--pixels", action="store_true", help="leave out the points on strips")
    three.add_argument("--only", nargs="+", choices=SIMULATED, help="rows of these events alone")
    four = commands.add_parser("plot", help="the table as SVG (matplotlib)")
    four.add_argument("csv", type=Path)
    options = parser.parse_args(arguments)
    try:
        if options.command == "vary":
            amount = options.amount or VARIATIONS[options.variation][1]
            vary(options.variation, amount, options.seed, options.events, options.out, options.donors)
        elif options.command == "simulate":
            _, count, seed = SIMULATED[options.kind]
            simulate_kind(options.kind, options.events or count, seed if options.seed is None else options.seed,
                          options.out)
        elif options.command == "table":
            table(options)
        else:
            plot(options.csv)
    except (Fault, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"robust.py: {error}")


if __name__ == "__main__":
    main()

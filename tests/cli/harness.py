# SPDX-License-Identifier: Apache-2.0
"""What the whole-program tests share: running programs, writing events, a slow second scorer.

Standard library only. Arguments of a test script: SOURCE_FOLDER TRACKMILL [BROKER WORKER].
"""
import array
import csv
import io
import lzma
import math
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import zipfile

SOURCE = os.path.abspath(sys.argv[1])
PROGRAM = os.path.abspath(sys.argv[2])
BROKER = os.path.abspath(sys.argv[3]) if len(sys.argv) > 3 else None
WORKER = os.path.abspath(sys.argv[4]) if len(sys.argv) > 4 else None
WEIGHTS = os.path.join(SOURCE, "weights")
STANDARD = os.path.join(WEIGHTS, "standard.safetensors")
SHARED = os.environ.get("TM_SHARED") or os.path.join(SOURCE, "..", "shared")
PATIENCE = 240  # seconds, for anything that should take a few: sanitizers and busy machines

DESCR = {"b": "|i1", "B": "|u1", "h": "<i2", "H": "<u2", "i": "<i4", "I": "<u4", "f": "<f4", "d": "<f8"}


def environment(**more):
    return {**os.environ, "TRACKMILL_WEIGHTS": WEIGHTS, "OMP_NUM_THREADS": "2", **more}


class Done:
    """A finished run of trackmill."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out.decode(), err.decode()

    def complaints(self):
        return [line for line in self.err.splitlines() if line.startswith("trackmill: ")]


def run(*arguments, **more):
    done = subprocess.run([PROGRAM, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=PATIENCE, env=environment(**more))
    return Done(done.returncode, done.stdout, done.stderr)


def start(*arguments):
    return subprocess.Popen([PROGRAM, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=environment())


# ---- events ----

def npy(kind, values):
    header = "{'descr': '%s', 'fortran_order': False, 'shape': (%d,), }" % (DESCR[kind], len(values))
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + array.array(kind, values).tobytes()


def write_npz(path, arrays):
    """arrays: name -> (array module's type code, values)"""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, (kind, values) in arrays.items():
            archive.writestr(name + ".npy", npy(kind, values))
    data = buffer.getvalue()
    with open(path, "wb") as file:
        file.write(lzma.compress(data, preset=0) if path.endswith(".xz") else data)
    return path


LAYERS = (32, 72, 116, 172, 260, 360, 500, 660, 820, 1020)


def helices(number, seed=1):
    """Arrays of an event of charged particles in 2 T: tracks through ten barrel layers, with truth."""
    generator = random.Random(seed)
    x, y, z, owner, particles = [], [], [], [], []
    for p in range(number):
        pt, phi0, eta = generator.uniform(0.5, 5), generator.uniform(-math.pi, math.pi), generator.uniform(-1, 1)
        charge, z0 = generator.choice((-1, 1)), generator.gauss(0, 50)
        radius = pt / (0.3 * 2.0) * 1000
        for r in LAYERS:
            if r >= 2 * radius:
                break
            turn = math.asin(r / (2 * radius))
            phi = phi0 - charge * turn
            x.append(round(1000 * r * math.cos(phi)))
            y.append(round(1000 * r * math.sin(phi)))
            z.append(round(1000 * (z0 + 2 * radius * turn * math.sinh(eta))))
            owner.append(p)
        particles.append((pt * math.cos(phi0), pt * math.sin(phi0), pt * math.sinh(eta), charge))
    n = len(x)
    column = lambda k: ("f", [p[k] for p in particles])
    return {"x_um": ("i", x), "y_um": ("i", y), "z_um": ("i", z), "n_cells": ("B", [2] * n),
            "size_loc0": ("B", [1] * n), "size_loc1": ("B", [2] * n), "charge_e3": ("H", [150 + i % 90 for i in range(n)]),
            "particle": ("i", owner), "p_px": column(0), "p_py": column(1), "p_pz": column(2),
            "p_q": ("b", [p[3] for p in particles])}


def read_npz(path):
    with open(path, "rb") as file:
        data = file.read()
    out = {}
    with zipfile.ZipFile(io.BytesIO(lzma.decompress(data) if path.endswith(".xz") else data)) as archive:
        for name in archive.namelist():
            raw = archive.read(name)
            length = struct.unpack("<H", raw[8:10])[0]
            descr = raw[10:10 + length].decode().split("'descr': '")[1].split("'")[0]
            kind = {v: k for k, v in DESCR.items()}[descr]
            out[name[:-4]] = list(array.array(kind, raw[10 + length:]))
    return out


def read_tracks(path):
    """hit_id,track_id -> lists of hits by track"""
    tracks = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            if int(row["track_id"]) >= 0:
                tracks.setdefault(int(row["track_id"]), []).append(int(row["hit_id"]))
    return tracks


def slow_score(event, tracks, pt_min=0.9, eta_max=4.0, hits_min=3, track_hits_min=3):
    """Every definition of docs/metrics.md from sets, with nothing in common with the C code."""
    points_of = {}
    links = list(enumerate(event["particle"])) + list(zip(event.get("extra_hit", []), event.get("extra_particle", [])))
    for hit, particle in links:
        if particle >= 0:
            points_of.setdefault(particle, set()).add(hit)
    particles_of = {}
    for particle, points in points_of.items():
        for hit in points:
            particles_of.setdefault(hit, []).append(particle)
    pt = [math.hypot(a, b) for a, b in zip(event["p_px"], event["p_py"])]
    matched_by, result = {}, {"n_tracks": 0, "n_matched": 0, "n_impure": 0, "n_hard": 0, "n_hard_matched": 0}
    result.update(n_hard_5=0, n_hard_matched_5=0, n_track_edges=0, n_pure_edges=0, n_duplicates=0)
    lhc, perfect = ({"n_matched": 0, "n_hard_matched": 0, "by": {}} for _ in range(2))

    def outward(points):
        """Neighbours among these points by distance from the origin, as pairs of lower and higher row."""
        rows = sorted(points, key=lambda i: (event["x_um"][i] ** 2 + event["y_um"][i] ** 2 + event["z_um"][i] ** 2, i))
        return [tuple(sorted(pair)) for pair in zip(rows, rows[1:])]

    # TrackML's score with every point of a particle weighing 1, of tracks of any length; and of hard particles alone
    good, good_hard = 0, 0
    for hits in tracks.values():
        counts = {}
        for hit in hits:
            for particle in particles_of.get(hit, []):
                counts[particle] = counts.get(particle, 0) + 1
        best = max(counts, key=lambda p: (counts[p], -p)) if counts else None
        if best is not None and counts[best] / len(hits) > 0.5 and counts[best] / len(points_of[best]) > 0.5:
            good += counts[best]
            good_hard += counts[best] if pt[best] > pt_min else 0
    hard_points = {hit for particle, points in points_of.items() if pt[particle] > pt_min for hit in points}
    result["trackml"] = float("%.10g" % (good / len(particles_of)))
    result["trackml_hard"] = float("%.10g" % (good_hard / len(hard_points)))

    track_edges = set()
    for hits in tracks.values():
        if len(hits) < track_hits_min:
            continue
        counts = {}
        for a, b in outward(hits):
            track_edges.add((a, b))
            result["n_track_edges"] += 1
            result["n_pure_edges"] += bool(set(particles_of.get(a, [])) & set(particles_of.get(b, [])))
        for hit in hits:
            for particle in particles_of.get(hit, []):
                counts[particle] = counts.get(particle, 0) + 1
        matches = [p for p, k in counts.items() if 2 * k > len(hits) and 2 * k > len(points_of[p])]
        best = max(counts, key=lambda p: (counts[p], -p)) if counts else None
        hard = best is not None and pt[best] > pt_min
        result["n_tracks"] += 1
        result["n_matched"] += bool(matches)
        result["n_impure"] += best is None or 2 * counts[best] <= len(hits)
        result["n_hard"] += hard
        result["n_hard_matched"] += hard and bool(matches)
        result["n_hard_5"] += hard and len(hits) >= 5
        result["n_hard_matched_5"] += hard and bool(matches) and len(hits) >= 5
        for kind, owners in ((lhc, [p for p, k in counts.items() if k / len(hits) > 0.75]),
                             (perfect, [p for p in counts if points_of[p] == set(hits)])):
            kind["n_matched"] += bool(owners)
            kind["n_hard_matched"] += hard and bool(owners)
            for particle in owners:
                kind["by"][particle] = kind["by"].get(particle, 0) + 1
        for particle in matches:
            matched_by[particle] = matched_by.get(particle, 0) + 1
    process = event.get("p_process", [0] * len(pt))
    wanted = [p for p, points in points_of.items()
              if pt[p] > pt_min and abs(math.asinh(event["p_pz"][p] / pt[p])) < eta_max and len(points) >= hits_min
              and event["p_q"][p] != 0 and process[p] == 0]
    result["n_wanted"], result["n_found"] = len(wanted), sum(p in matched_by for p in wanted)
    result["n_duplicates"] = sum(k - 1 for k in matched_by.values())
    true_edges = {edge for p in wanted for edge in outward(points_of[p])}
    result["n_true_edges"], result["n_found_edges"] = len(true_edges), len(true_edges & track_edges)
    for name, kind in (("lhc", lhc), ("perfect", perfect)):
        by = kind.pop("by")
        kind["n_found"], kind["n_duplicates"] = sum(p in by for p in wanted), sum(k - 1 for k in by.values())
        for key, rate, whole in (("efficiency", kind["n_found"], len(wanted)),
                                 ("fakes", result["n_hard"] - kind["n_hard_matched"], result["n_hard"]),
                                 ("duplicates", kind["n_duplicates"], result["n_tracks"])):
            kind[key] = float("%.10g" % (rate / whole)) if whole else None  # as `score --json` prints it
        result[name] = kind
    return result


class Case(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="trackmill-test-")
        self.addCleanup(shutil.rmtree, self.folder)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def text(self, name, text):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "w") as file:
            file.write(text)
        return self.path(name)

    def read(self, *names):
        with open(self.path(*names), "rb") as file:
            return file.read()

    def event(self, name="event000000001.npz", number=30, seed=1, **changes):
        arrays = helices(number, seed)
        for key, value in changes.items():
            if value is None:
                del arrays[key]
            else:
                arrays[key] = value
        return write_npz(self.path(name), arrays)

    def assertFails(self, done, code, *words):
        """One clear line that has all the words, and that exit code."""
        self.assertEqual(done.code, code, done.err)
        self.assertEqual(len(done.complaints()), 1, done.err)
        for word in words:
            self.assertIn(word, done.err)

    def assertRuns(self, done):
        self.assertEqual((done.code, done.err), (0, ""), done.out)

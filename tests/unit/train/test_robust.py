# SPDX-License-Identifier: Apache-2.0
"""weights/train/robust.py varies events as it says.  Usage: test_robust.py TRACKMILL SOURCE_ROOT"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

SKIPPED = 77
TRACKMILL = pathlib.Path(sys.argv[1]).resolve()
ROOT = pathlib.Path(sys.argv[2]).resolve()
SCRIPT = ROOT / "weights" / "train" / "robust.py"
MODEL = ROOT / "weights" / "standard.safetensors"
COLLISION = ROOT / "tests" / "data" / "event000000040.npz.xz"
DONOR = ROOT / "tests" / "data" / "event000000041.npz.xz"
FEW = ROOT / "tests" / "data" / "event000000020.npz.xz"
PATIENCE = 240  # seconds
sys.path.insert(0, str(SCRIPT.parent))

try:
    import numpy as np
except ImportError:
    print("skipped: Python has no numpy")
    sys.exit(SKIPPED)

import robust  # noqa: E402


def random(seed=1):
    return np.random.default_rng(seed)


def points(event):
    """The points as a set of places, to compare events whatever their order."""
    return set(zip(*(event[f"{axis}_um"].tolist() for axis in "xyz")))


def event_of(rows):
    """An event of points (volume, module, x, y, z in mm, size_loc0, size_loc1, charge, particle), sorted by module."""
    columns = np.array(rows, float).T
    event = {"volume": columns[0], "layer": np.full(len(rows), 2), "module": columns[1], "x_um": columns[2] * 1000,
             "y_um": columns[3] * 1000, "z_um": columns[4] * 1000, "size_loc0": columns[5], "size_loc1": columns[6],
             "n_cells": columns[5] * columns[6], "charge_e3": columns[7], "particle": columns[8],
             "order": np.zeros(len(rows))}
    event = {name: np.rint(array).astype(np.int32) for name, array in event.items()}
    return {**event, "extra_hit": np.zeros(0, np.int32), "extra_particle": np.zeros(0, np.int32)}


class Variations(unittest.TestCase):
    def setUp(self):
        self.event = robust.read(COLLISION)
        self.number = len(self.event["x_um"])

    def whole(self, event):
        """All arrays of points fit together, and rows are in order."""
        for name in robust.HITS:
            self.assertEqual(len(event[name]), len(event["x_um"]), name)
            self.assertEqual(event[name].dtype, self.event[name].dtype, name)
        if len(event["extra_hit"]):
            self.assertLess(event["extra_hit"].max(), len(event["x_um"]))
        self.assertTrue((np.diff(robust.module_key(event)) >= 0).all())

    def test_noise(self):
        donor = robust.read(DONOR)
        varied = robust.add_noise(self.event, random(), 0.1, [donor])
        self.whole(varied)
        noise = robust.choose(varied, np.flatnonzero(varied["particle"] < 0))
        self.assertEqual(len(noise["x_um"]), round(0.1 * self.number) + np.count_nonzero(self.event["particle"] < 0))
        self.assertLessEqual(points(noise), points(donor) | points(self.event))
        self.assertEqual(points(varied) - points(noise), points(self.event) - points(noise))
        self.assertEqual(noise["n_cells"].max(), 1)
        with self.assertRaisesRegex(robust.Fault, "donor"):
            robust.add_noise(self.event, random(), 2.0, [robust.read(FEW)])

    def test_missing_and_dead(self):
        for function in (robust.drop_points, robust.drop_modules):
            varied = function(self.event, random(), 0.1)
            self.whole(varied)
            self.assertLess(points(varied), points(self.event))
            self.assertAlmostEqual(len(varied["x_um"]) / self.number, 0.9, delta=0.02)
        alive, was = (set(robust.module_key(e).tolist()) for e in (varied, self.event))
        gone = ~np.isin(robust.module_key(self.event), list(was - alive))
        self.assertEqual(gone.sum(), len(varied["x_um"]))       # a module is dead as a whole
        again = robust.drop_modules(robust.read(DONOR), random(), 0.1)
        self.assertFalse(set(robust.module_key(again).tolist()) & (was - alive))    # in every event

    def test_choose_keeps_the_further_particles(self):
        pairs = lambda e: {(int(e["x_um"][h]), int(e["z_um"][h]), int(p))  # noqa: E731
                           for h, p in zip(e["extra_hit"], e["extra_particle"])}
        self.assertTrue(pairs(self.event))
        self.assertEqual(pairs(robust.choose(self.event, random().permutation(self.number))), pairs(self.event))
        rest = np.delete(np.arange(self.number), self.event["extra_hit"][0])
        self.assertLess(pairs(robust.choose(self.event, rest)), pairs(self.event))

    def test_misaligned(self):
        varied = robust.misalign(self.event, random(), 0.05)
        self.whole(varied)
        move = np.stack([varied[f"{axis}_um"] - self.event[f"{axis}_um"] for axis in "xyz"])
        barrel = np.isin(self.event["volume"], robust.BARREL)
        self.assertTrue((move[2][~barrel] == 0).all())
        self.assertAlmostEqual(move[2][barrel].std(), 50, delta=5)
        across = np.hypot(move[0], move[1])
        self.assertAlmostEqual(np.sqrt((across[barrel] ** 2).mean()), 50, delta=5)
        self.assertAlmostEqual(np.sqrt((across[~barrel] ** 2).mean()), 50 * np.sqrt(2), delta=7)
        first = np.searchsorted(robust.module_key(self.event), robust.module_key(self.event))
        self.assertTrue((move[2] == move[2][first]).mean() > 0.999)                 # one shift for a module

    def test_merged(self):
        #   Strips of 80 um: one free cell between the first two, then five; the third is on another module.
        rows = [(13, 1, 260, 0.00, 10, 1, 1, 100, 0), (13, 1, 260, 0.16, 10, 1, 1, 300, 1),
                (13, 1, 260, 0.64, 10, 1, 1, 100, 2), (13, 2, 260, 0.08, 10, 1, 1, 100, 3)]
        merged = robust.merge_clusters(event_of(rows), None, 1.5)
        self.assertEqual(merged["particle"].tolist(), [0, 2, 3])
        self.assertEqual((merged["y_um"][0], merged["charge_e3"][0], merged["n_cells"][0]), (120, 400, 2))
        self.assertEqual((merged["size_loc0"][0], merged["size_loc1"][0]), (3, 1))
        self.assertEqual((merged["extra_hit"].tolist(), merged["extra_particle"].tolist()), ([0], [1]))
        self.assertEqual(len(robust.merge_clusters(event_of(rows), None, 0.5)["x_um"]), 4)
        self.assertEqual(robust.merge_clusters(event_of(rows), None, 6)["particle"].tolist(), [0, 3])   # a chain
        rows[1] = (13, 1, 260, 0.16, 20, 1, 1, 300, 1)          # eight cells away along z
        self.assertEqual(len(robust.merge_clusters(event_of(rows), None, 1.5)["x_um"]), 4)
        rows[0], rows[1] = (*rows[0][:-1], -1), (13, 1, 260, 0.16, 10, 1, 1, 300, 1)    # noise owns nothing
        merged = robust.merge_clusters(event_of(rows), None, 1.5)
        self.assertEqual((merged["particle"].tolist(), merged["extra_hit"].tolist()), ([1, 2, 3], []))

    def test_merging_loses_no_particle(self):
        varied = robust.merge_clusters(self.event, None, 10)
        self.whole(varied)
        self.assertLess(len(varied["x_um"]), self.number)
        owners = lambda e: set(e["particle"].tolist()) | set(e["extra_particle"].tolist())  # noqa: E731
        self.assertEqual(owners(varied), owners(self.event))


class Command(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="trackmill-test-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def vary(self, *arguments):
        return subprocess.run([sys.executable, "-B", SCRIPT, "vary", *arguments], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=PATIENCE)

    def test_same_seed_same_file(self):
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
            done = self.vary("missing", "--seed", seed, "--out", self.folder / name, FEW)
            self.assertEqual(done.returncode, 0, done.stderr)
        one, two, other = (points(robust.read(self.folder / name / FEW.name)) for name in "abc")
        self.assertEqual(one, two)
        self.assertNotEqual(one, other)

    def test_scores_with_the_program(self):
        self.assertEqual(self.vary("missing", "--amount", "0.5", "--out", self.folder, FEW).returncode, 0)
        paths = [FEW, self.folder / FEW.name]
        (whole, number), (half, fewer) = (robust.measure(str(TRACKMILL), str(MODEL), 1, [path]) for path in paths)
        self.assertEqual((number, fewer), tuple(len(robust.read(path)["x_um"]) for path in paths))
        self.assertLessEqual({*robust.RATES, *robust.COUNTS.values()}, set(whole))
        self.assertLess(half["efficiency"], whole["efficiency"])
        with self.assertRaisesRegex(robust.Fault, "find failed"):
            robust.measure(str(TRACKMILL), str(MODEL), 1, [self.folder / "none.npz.xz"])

    def test_pixels_alone(self):
        out = self.folder / "pixels"
        path, = robust.pixels_of([COLLISION], out)
        self.assertEqual(path, out / COLLISION.name)
        whole, left = robust.read(COLLISION), robust.read(path)
        inside = np.isin(whole["volume"], robust.PIXELS)
        self.assertEqual(len(left["x_um"]), inside.sum())
        self.assertTrue(0 < inside.sum() < len(inside) and np.isin(left["volume"], robust.PIXELS).all())
        np.testing.assert_array_equal(left["particle"], whole["particle"][inside])
        changed = path.stat().st_mtime_ns
        self.assertEqual(robust.pixels_of([COLLISION], out), [path])    # as it is
        self.assertEqual(path.stat().st_mtime_ns, changed)

    def test_widened_model(self):
        def parts(path):
            data = path.read_bytes()
            end = 8 + int.from_bytes(data[:8], "little")
            return json.loads(json.loads(data[8:end])["__metadata__"]["trackmill"]), data[end:]

        wide = self.folder / "wide.safetensors"
        robust.widen(MODEL, 0.05, wide)
        (before, numbers), (after, same) = parts(MODEL), parts(wide)
        self.assertEqual(numbers, same)
        errors = zip(before["tracks"]["fit"].pop("zones"), after["tracks"]["fit"].pop("zones"), strict=True)
        self.assertEqual(before, after)
        for old, new in errors:
            for name in old:
                add = 0.05 if name.startswith("sigma") else 0
                self.assertAlmostEqual(new[name], np.hypot(old[name], add), delta=1e-5)
        self.assertGreater(robust.measure(str(TRACKMILL), str(wide), 1, [FEW])[0]["efficiency"], 0.9)

    def test_faults_are_one_line(self):
        (self.folder / "bad.npz.xz").write_bytes(b"no event")
        for arguments, word in (((self.folder / "bad.npz.xz",), "bad.npz.xz: not an event"),
                                ((self.folder / "none.npz.xz",), "none.npz.xz"), ((FEW,), "donor")):
            done = self.vary("noise", "--out", self.folder / "out", *arguments)
            self.assertEqual(done.returncode, 1)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            self.assertIn(word, done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

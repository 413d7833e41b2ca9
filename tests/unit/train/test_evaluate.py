# SPDX-License-Identifier: Apache-2.0
"""weights/train/evaluate.py counts as it says.  Usage: test_evaluate.py TRACKMILL SOURCE_ROOT"""
import csv
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
SCRIPT = ROOT / "weights" / "train" / "evaluate.py"
MODEL = ROOT / "weights" / "standard.safetensors"
EVENTS = [ROOT / "tests" / "data" / f"event0000000{number}.npz.xz" for number in (20, 40)]
PATIENCE = 240  # seconds
sys.path.insert(0, str(SCRIPT.parent))

try:
    import numpy as np
except ImportError:
    print("skipped: Python has no numpy")
    sys.exit(SKIPPED)

import evaluate  # noqa: E402
import robust  # noqa: E402


class Evaluate(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="trackmill-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.events, self.work, self.out = (self.folder / name for name in ("sample", "work", "out"))
        self.events.mkdir()
        for path in EVENTS:
            shutil.copy(path, self.events)

    def run_script(self, command, *more):
        return subprocess.run([sys.executable, "-B", SCRIPT, command, *map(str, more)], capture_output=True, text=True,
                              timeout=PATIENCE)

    def rows(self, name):
        with open(self.out / name, newline="") as file:
            return list(csv.DictReader(file))

    def test_table_and_starts(self):
        common = (self.events, "--work", self.work, "--out", self.out, "--models", MODEL)
        for _ in range(2):      # the second time from the tracks of the first; rows are replaced, not repeated
            done = self.run_script("table", "--trackmill", TRACKMILL, *common)
            self.assertEqual(done.returncode, 0, done.stderr)
        rows = {(row["detector"], row["selection"]): row for row in self.rows("physics.csv")}
        self.assertEqual(len(rows), 6)
        self.assertEqual(len(self.rows("physics.csv")), 6)
        whole = rows["all", "0.9 GeV"]
        direct = json.loads(subprocess.run([TRACKMILL, "find", "--json", "--device", "cpu", "--model", MODEL,
                                            *sorted(self.events.glob("*"))], capture_output=True, check=True).stdout)["total"]
        self.assertEqual([int(whole[name]) for name in ("points", "wanted", "found", "hard_matched_5")],
                         [direct["space_points"], *(direct["score"][name] for name in ("n_wanted", "n_found", "n_hard_matched_5"))])
        self.assertGreater(int(whole["found"]), 20)
        for row in rows.values():       # every wanted particle is in one bin of each axis
            for axis in ("eta", "pt", "origin"):
                mine = [b for b in self.rows("physics_bins.csv") if b["axis"] == axis
                        and all(b[name] == row[name] for name in evaluate.KEY)]
                for count in ("wanted", "found"):
                    self.assertEqual(sum(int(b[count]) for b in mine), int(row[count]), (row, axis))
        pixels = sum(np.isin(robust.read(path)["volume"], robust.PIXELS).sum() for path in EVENTS)
        self.assertEqual(int(rows["pixels", "0.9 GeV"]["points"]), pixels)

        done = self.run_script("starts", *common)       # of the tracks that are there: no --trackmill
        self.assertEqual(done.returncode, 0, done.stderr)
        stiff = [row for row in self.rows("physics_starts.csv") if row["particles"] == "pT 0.9-inf |eta| 0-1"][0]
        self.assertGreater(int(stiff["tracks"]), 5)
        self.assertLess(float(stiff["pt_68"]), 0.1)
        self.assertLess(float(stiff["d0_68"]), 0.5)
        self.assertLess(float(stiff["z0_68"]), 1)
        self.assertLess(float(stiff["phi_68"]), 0.01)

    def test_pixels(self):
        """The model of the pixels is judged on them alone, and finds most of the particles there."""
        done = self.run_script("table", self.events, "--work", self.work, "--out", self.out, "--trackmill", TRACKMILL,
                               "--models", MODEL.with_name("pixels.safetensors"))
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = self.rows("physics.csv")
        self.assertEqual([(row["detector"], row["selection"]) for row in rows], [("pixels", "0.9 GeV"), ("pixels", "0.5 GeV")])
        self.assertTrue(rows[0]["finder"].startswith("pixels@"))
        self.assertGreater(int(rows[0]["wanted"]), 20)
        self.assertGreater(int(rows[0]["found"]), 0.9 * int(rows[0]["wanted"]))

    def test_eta_is_folded(self):
        curve = [{"from": None, "to": None, "wanted": 2 ** i, "found": i} for i in range(16)]
        rows = list(evaluate.bins_of({"eta_curve": curve, "pt_curve": [], "radius_bins": []}, 0.9))
        self.assertEqual(rows[0], ("eta", 0.0, 0.5, 2 ** 8 + 2 ** 7, 15))
        self.assertEqual(rows[-1], ("eta", 3.5, 4.0, 2 ** 15 + 1, 15))

    def test_matches(self):
        """More than half of both; a point of two particles counts for both."""
        event = {"x_um": np.zeros(8), "particle": np.array([0, 0, 0, 0, 1, 1, 1, 1]), "extra_hit": np.array([3]),
                 "extra_particle": np.array([1]), "p_q": np.ones(2)}
        good = evaluate.matches(event, [np.array([0, 1]), np.array([3, 4, 5]), np.array([2])])
        self.assertEqual([list(part) for part in good], [[1], [1]])

    def test_faults(self):
        done = self.run_script("table", "--trackmill", TRACKMILL, "--work", self.work, "--out", self.out, self.folder)
        self.assertEqual(done.returncode, 1)
        self.assertIn("no event (.npz.xz) in it", done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1)
        done = self.run_script("starts", self.events, "--work", self.work, "--out", self.out)
        self.assertEqual(done.returncode, 1)
        self.assertIn("run evaluate.py table first", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

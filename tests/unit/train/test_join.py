# SPDX-License-Identifier: Apache-2.0
"""weights/train/join.py and join_pairs.  Usage: test_join.py JOIN_PAIRS SOURCE_ROOT"""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

SKIPPED = 77
PAIRS = pathlib.Path(sys.argv[1]).resolve()
ROOT = pathlib.Path(sys.argv[2]).resolve()
SCRIPT = ROOT / "weights" / "train" / "join.py"
MODEL = ROOT / "weights" / "standard.safetensors"
MUONS = ROOT / "tests" / "data" / "event000000020.npz.xz"
EVENT = ROOT / "tests" / "data" / "event000000040.npz.xz"  # 21,647 points
PATIENCE = 240  # seconds
sys.path.insert(0, str(SCRIPT.parent))

try:
    import numpy as np
except ImportError:
    print("skipped: Python has no numpy")
    sys.exit(SKIPPED)

import join  # noqa: E402
import robust  # noqa: E402


def made_up_pairs(number, weights, random):
    """Pairs of chains that are true as often as these weights say: (terms, true)."""
    terms = np.column_stack([np.ones(number), random.normal(0, 1.5, (number, len(weights) - 1))])
    return terms, random.random(number) < 1 / (1 + np.exp(-terms @ weights))


class Fit(unittest.TestCase):
    WEIGHTS = np.array([1.5, -1.0, -0.9, 2.5, -0.9, -0.8, 0.7])

    def test_gives_back_the_weights_that_pairs_were_made_with(self):
        terms, true = made_up_pairs(40000, self.WEIGHTS, np.random.default_rng(1))
        np.testing.assert_allclose(join.fit(terms, true, np.ones(len(true))), self.WEIGHTS, atol=0.15)

    def test_gradient_is_zero_with_counts_and_penalty(self):
        terms, true = made_up_pairs(500, self.WEIGHTS, np.random.default_rng(2))
        count = np.where(true, 3.0, 1.0)
        weights = join.fit(terms, true, count, penalty=2.0)
        rate = 1 / (1 + np.exp(-terms @ weights))
        np.testing.assert_allclose(terms.T @ (count * (rate - true)) + 2 * 2.0 * weights, 0, atol=1e-6)

    def test_pairs_that_a_plane_parts_have_weights(self):
        terms = np.column_stack([np.ones(6), [-3.0, -2, -1, 1, 2, 3]])
        weights = join.fit(terms, terms[:, 1] > 0, np.ones(6))
        self.assertTrue(np.isfinite(weights).all() and weights[1] > 1)

    def test_counts(self):
        true, pt, logits = np.array([1, 1, 1, 0, 0]) > 0, np.array([0.5, 1, 2, 0, 0]), np.array([1, 1, -1, 1, -1])
        self.assertEqual(join.counts(true, pt, logits), {"pairs": 5, "true": 3, "hard": 2, "taken_true": 2, "taken_hard": 1,
                                                         "taken_false": 1})


class Program(unittest.TestCase):
    """On an event that lacks the middle of its tracks, so that there are chains to join."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.path = pathlib.Path(cls.folder.name)
        event = robust.read(EVENT)
        broken = robust.choose(event, np.flatnonzero((event["order"] < 4) | (event["order"] > 7)))
        cls.event = cls.path / "broken.npz.xz"
        robust.write(broken, cls.event)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def run_script(self, *arguments):
        return subprocess.run([sys.executable, "-B", SCRIPT, "--pairs", PAIRS, *arguments], capture_output=True, text=True,
                              timeout=PATIENCE, check=False)

    def test_pairs_are_the_pieces_of_one_particle_and_a_few_others(self):
        number, true, pt, terms = join.read_pairs(PAIRS, MODEL, [self.event, self.event])
        self.assertEqual(set(number), {0, 1})
        np.testing.assert_array_equal(terms[number == 0], terms[number == 1])
        self.assertEqual(terms.shape[1], 7)
        self.assertTrue(np.isfinite(terms).all())
        self.assertGreater(true[number == 0].sum(), 600)        # 761
        self.assertGreater((~true)[number == 0].sum(), 600)     # 1275
        self.assertTrue(((pt > 0) == true).all())
        _, pipeline = join.safetensors_io.read(MODEL)
        taken = terms @ np.array(pipeline["tracks"]["join"]["weights"]) > 0
        self.assertGreater((taken & true).sum(), 0.8 * true.sum())
        self.assertLess((taken & ~true).sum(), 0.1 * true.sum())

    def test_model_with_the_new_weights(self):
        out = self.path / "new.safetensors"
        done = self.run_script("--model", MODEL, "--out", out, "--version", "test", self.event)
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        old, before = join.safetensors_io.read(MODEL)
        new, after = join.safetensors_io.read(out)
        self.assertTrue(all(np.array_equal(old[name], new[name]) for name in old) and len(old) == len(new))
        self.assertEqual(after["tracks"]["join"]["weights"], report["weights"])
        self.assertNotEqual(report["weights"], report["weights_before"])
        self.assertEqual(after["version"], "test")
        after["version"], after["tracks"]["join"]["weights"] = before["version"], before["tracks"]["join"]["weights"]
        self.assertEqual(after, before)
        lowered = json.loads(self.run_script("--model", MODEL, "--lower", "3", self.event).stdout)["weights"]
        self.assertAlmostEqual(lowered[0], report["weights"][0] - 2, places=2)
        self.assertEqual(lowered[1:], report["weights"][1:])
        self.assertEqual(subprocess.run([PAIRS, out, self.event], capture_output=True, check=False).returncode, 0)

    def test_what_cannot_be_fitted_is_said_in_one_line(self):
        tensors, pipeline = join.safetensors_io.read(MODEL)
        del pipeline["tracks"]["join"]
        without = self.path / "without.safetensors"
        join.safetensors_io.write(without, tensors, pipeline)
        blind = {name: array for name, array in robust.read(EVENT).items() if name != "particle"}
        robust.write(blind, self.path / "blind.npz.xz")
        for arguments, word in ((["--model", without, self.event], "tracks.join"), ([self.path / "none.npz"], "none.npz"),
                                (["--model", MODEL, self.path / "blind.npz.xz"], "truth"),
                                (["--pairs", "/none", self.event], "/none"), ([MUONS], "pair")):
            done = self.run_script(*arguments)
            self.assertEqual(done.returncode, 1)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            self.assertIn(word, done.stderr)
            self.assertEqual(done.stdout, "")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

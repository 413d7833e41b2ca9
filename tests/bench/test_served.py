# SPDX-License-Identifier: Apache-2.0
"""tests/gpu/served with a worker on the CPU: that it measures what it says, and says what fails. Arguments: SOURCE BUILD."""
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

SOURCE, BUILD = sys.argv[1:3]
SERVED = os.path.join(SOURCE, "tests", "gpu", "served")
EVENT = os.path.join(SOURCE, "tests", "data", "event000000010.npz.xz")
SMALL = os.path.join(SOURCE, "tests", "data", "event000000001.npz.xz")
PATIENCE = 200  # seconds


class Served(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="trackmill-test-")
        self.addCleanup(shutil.rmtree, self.folder)
        for program in ("broker/trackmill-broker", "worker/trackmill-worker", "client/cli/trackmill"):
            os.symlink(os.path.join(BUILD, program), os.path.join(self.folder, os.path.basename(program)))

    def served(self, *arguments):
        done = subprocess.run([sys.executable, SERVED, "--bin", self.folder, "--device", "cpu", "--out",
                               os.path.join(self.folder, "served.csv"), "--seconds", "0.3", "--warm-up", "0.1", *arguments],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
        path = os.path.join(self.folder, "served.csv")
        if not os.path.exists(path):
            return done, []
        with open(path, newline="") as file:
            return done, list(csv.DictReader(file, strict=True))

    def model(self):
        return os.path.join(SOURCE, "weights", "standard.safetensors")

    def test_all_runs(self):
        done, rows = self.served("--model", self.model(), "--event", EVENT, "--small", SMALL, "--slots", "1,2", "--batch", "1,4")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([(r["slots"], r["batch"], r["points"], r["in_flight"], r["compared_with"]) for r in rows], [
            ("1", "1", "127", "1", "cpu"), ("1", "1", "127", "4", "first"),
            ("1", "1", "10", "1", "cpu"), ("1", "1", "10", "16", "first"),
            ("2", "1", "127", "6", "first"), ("2", "1", "10", "24", "first"),
            ("1", "4", "127", "16", "first"), ("1", "4", "10", "16", "first"),
            ("2", "4", "127", "24", "first"), ("2", "4", "10", "24", "first")])
        for r in rows:
            self.assertNotIn(None, r.values())
            self.assertEqual((r["failed"], r["mismatches"], r["device"], r["gpu_mib"]), ("0", "0", "cpu", ""))
            self.assertGreater(float(r["events_per_s"]), 0)
            self.assertLess(float(r["ready_s"]), float(r["first_answer_s"]))

    def test_budget(self):
        done, rows = self.served("--model", self.model(), "--event", EVENT, "--budget", "0.1")
        self.assertEqual((done.returncode, rows), (0, []))
        self.assertIn("no time left for slots 1 batch 1", done.stderr)

    def test_bad_model(self):
        bad = os.path.join(self.folder, "bad.safetensors")
        with open(bad, "wb") as file:
            file.write(b"not a model")
        done, rows = self.served("--model", bad, "--event", EVENT)
        self.assertEqual((done.returncode, rows), (1, []))
        self.assertIn("served: the worker did not start: ", done.stderr)
        self.assertIn("bad.safetensors", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

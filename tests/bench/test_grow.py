# SPDX-License-Identifier: Apache-2.0
"""tests/bench/grow on a small scale: that it measures what it says and loses nothing. Arguments: SOURCE BUILD."""
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

SOURCE, BUILD = sys.argv[1:3]
GROW = os.path.join(SOURCE, "tests", "bench", "grow")
PATIENCE = 300  # seconds


class Grow(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="trackmill-test-")
        self.addCleanup(shutil.rmtree, self.folder)

    def grow(self, *arguments):
        return subprocess.run([sys.executable, GROW, "--build", BUILD, "--out", self.folder, "--processes-max", "1",
                               *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)

    def rows(self, name):
        with open(os.path.join(self.folder, name), newline="") as file:
            return list(csv.DictReader(file, strict=True))

    def test_mock(self):
        done = self.grow("--mock", "--workers", "1,2", "--brokers", "1,2", "--points", "1000", "--seconds", "0.5",
                         "--warm-up", "0.1", "--only", "closed")
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = self.rows("grow.csv")
        self.assertEqual([(r["workers"], r["brokers"], r["transport"]) for r in rows],
                         [("1", "1", "tcp"), ("2", "1", "tcp"), ("2", "1", "ipc"), ("2", "2", "tcp")])
        for r in rows:
            self.assertNotIn(None, r.values())
            self.assertEqual((r["kind"], r["part"], r["points"], r["failed"], r["mismatches"]), ("mock", "closed", "1000", "0", "0"))
            self.assertGreater(float(r["events_per_s"]), 0)
            self.assertGreaterEqual(float(r["broker_cores"]), 0)
            self.assertGreater(float(r["broker_peak_mib"]), 1)
        self.assertEqual(rows[0]["ratio"], "")
        self.assertAlmostEqual(float(rows[1]["ratio"]), float(rows[1]["events_per_s"]) / float(rows[0]["events_per_s"]), delta=0.01)

    def test_churn(self):
        done = self.grow("--mock", "--mock-ms", "5", "--workers", "2", "--points", "1000", "--seconds", "3", "--churn-step",
                         "0.1", "--only", "churn")
        self.assertEqual(done.returncode, 0, done.stderr)
        (row,) = self.rows("grow.csv")
        self.assertEqual((row["part"], row["failed"], row["mismatches"]), ("churn", "0", "0"))
        self.assertEqual([r["what"] for r in self.rows("churn.csv") if r["what"]], ["killed", "added"])

    def test_real_workers(self):
        """The way GPUs go, with a worker on the CPU: answers are compared with the engine's."""
        event = os.path.join(SOURCE, "tests", "data", "event000000010.npz.xz")
        done = self.grow("--devices", "cpu", "--workers", "1", "--brokers", "1", "--transports", "tcp", "--event", event,
                         "--slots", "1", "--seconds", "0.5", "--warm-up", "0.1", "--only", "open")
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = self.rows("grow.csv")
        self.assertEqual([r["part"] for r in rows], ["closed", "open", "open", "open"])
        for r in rows:
            self.assertEqual((r["kind"], r["failed"], r["mismatches"]), ("cpu", "0", "0"))
            self.assertEqual(float(r["differing_max"]), 0)

    def test_usage(self):
        for arguments, word in ((("--build", self.folder, "--mock"), "no trackmill there"),
                                (("--mock", "--event", "none.npz"), "none.npz"),
                                (("--mock", "--workers", "0"), "--workers"), (("--mock", "--only", "x"), "--only")):
            done = self.grow(*arguments)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(word, done.stderr)
            self.assertNotIn("Traceback", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=1)

# SPDX-License-Identifier: Apache-2.0
"""bench.py on the processor, without Triton: that it measures what it says, and says what fails. Arguments: SOURCE BUILD.
Skipped (77) where Python lacks PyTorch, pyzmq or msgpack."""
import csv
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

SOURCE, BUILD = sys.argv[1:3]
BENCH = os.path.join(SOURCE, "tests", "bench", "peer", "bench.py")
EVENTS = [os.path.join(SOURCE, "tests", "data", name + ".npz.xz") for name in ("event000000020", "event000000010")]
PATIENCE = 300  # seconds


class Peer(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="trackmill-test-")
        self.addCleanup(shutil.rmtree, self.folder)
        for program in ("broker/trackmill-broker", "client/cli/trackmill"):
            os.symlink(os.path.join(BUILD, program), os.path.join(self.folder, os.path.basename(program)))

    def bench(self, *arguments):
        path = os.path.join(self.folder, "peer.csv")
        model = os.path.join(SOURCE, "weights", "standard.safetensors")
        done = subprocess.run([sys.executable, "-B", BENCH, "--bin", self.folder, "--model", model, "--modes", "tf32", "--logs",
                               self.folder, "--out", path, "--seconds", "0.5", "--warm-up", "0.1", "--clients", "1,3",
                               "--budget", str(PATIENCE), *arguments],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
        with open(path, newline="") as file:
            return done, list(csv.DictReader(file, strict=True))

    def test_all_runs(self):
        done, rows = self.bench(*EVENTS)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual([(r["system"], r["mode"], r["points"], r["instances"], r["clients"]) for r in rows], [
            ("PyTorch", "tf32", "623", "", ""), ("PyTorch", "tf32", "127", "", ""),
            ("Python worker", "tf32", "623", "2", "1"), ("Python worker", "tf32", "623", "2", "3"),
            ("Python worker", "tf32", "127", "2", "1"), ("Python worker", "tf32", "127", "2", "3")])
        for r in rows:
            self.assertNotIn(None, r.values())
            self.assertGreaterEqual(float(r["agreement"]), 0.99)
            self.assertGreater(float(r["events_per_s"]), 0)
            self.assertLessEqual(float(r["p50_ms"]), float(r["p99_ms"]))
            if r["clients"]:
                self.assertGreaterEqual(int(r["answers"]), int(r["clients"]))
                self.assertGreater(float(r["ready_s"]), 0)

    def test_what_is_not_measured(self):
        done, rows = self.bench("--budget", "0.1", EVENTS[1])
        self.assertEqual((done.returncode, [r["system"] for r in rows]), (1, ["PyTorch"]))
        self.assertIn("left of --budget", done.stdout)
        self.assertIn("peer: not measured: Python worker", done.stderr)

    def test_a_broker_that_does_not_start(self):
        broker = os.path.join(self.folder, "trackmill-broker")
        os.remove(broker)
        with open(broker, "w") as file:
            file.write("#!/bin/sh\necho no room >&2\nexit 1\n")
        os.chmod(broker, 0o755)
        done, rows = self.bench(EVENTS[1])
        self.assertEqual((done.returncode, [r["system"] for r in rows]), (1, ["PyTorch"]))
        self.assertIn("peer: Python worker: the broker did not start: no room", done.stdout)


if __name__ == "__main__":
    missing = [name for name in ("torch", "zmq", "msgpack") if not importlib.util.find_spec(name)]
    if missing:
        print("skipped: this Python has no", ", ".join(missing))
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])

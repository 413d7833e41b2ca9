# SPDX-License-Identifier: Apache-2.0
"""trackmill bench: what it counts, with engines and with a service, and that it sees wrong answers."""
import csv
import json
import os
import signal
import sys
import time
import unittest

import harness
from harness import run, start
from test_trackmill_service import ServiceCase, free_port

SMALL = os.path.join(harness.SOURCE, "tests", "data", "event000000010.npz.xz")
SHORT = ("--warm-up", 0, "--seconds", 0.2)


class Bench(ServiceCase):
    def mock(self, settings="time_ms=1"):
        clients, workers = self.broker()
        self.worker(workers, "--backend", "mock", "--slots", 2, "--model", settings)
        return clients

    def points(self, done):
        return json.loads(done.out)["points"]

    def test_embedded(self):
        done = run("bench", "--json", "--in-flight", "1,2", *SHORT, SMALL, self.event())
        self.assertRuns(done)
        document = json.loads(done.out)
        self.assertEqual((document["mode"], document["events"], document["mix"]),
                         ("embedded", 2, "event000000010+1"))
        self.assertEqual([p["in_flight"] for p in document["points"]], [1, 2])
        for p in document["points"]:
            self.assertGreaterEqual(p["answers"], p["in_flight"])
            self.assertGreaterEqual(p["seconds"], 0.2)
            self.assertAlmostEqual(p["events_per_s"], p["answers"] / p["seconds"], delta=0.01 * p["events_per_s"])
            self.assertTrue(0 < p["p50_ms"] <= p["p90_ms"] <= p["p99_ms"] <= p["max_ms"])
            self.assertTrue(0 < p["stages_ms"] <= p["p50_ms"])
            self.assertEqual((p["model"], p["failed"], p["mismatches"]), ("standard@1", 0, 0))
        self.assertNotIn(os.uname().nodename, json.loads(done.out)["machine"])

    def test_service_same_answers_as_embedded(self):
        clients, workers = self.broker()
        self.worker(workers, "--model", harness.STANDARD)
        done = run("bench", "--json", "--broker", clients, "--in-flight", 3, "--clients", 2, *SHORT, SMALL,
                   self.event())
        self.assertRuns(done)
        (p,) = self.points(done)
        self.assertGreaterEqual(p["answers"], 3)
        self.assertEqual((p["callers"], p["mismatches"], p["retried"]), (2, 0, 0))
        # 17 bytes a point travel (and the header); the module ids stay at home
        self.assertTrue(17 < p["sent_bytes_per_point"] < 19, p)
        self.assertGreater(p["overhead_ms"], 0)

    def test_csv(self):
        clients = self.mock("time_ms=3")
        for clients_wanted in (1, 3):
            done = run("bench", "--broker", clients, "--no-reference", "--in-flight", "1,5", "--clients", clients_wanted,
                       "--csv", self.path("out.csv"), *SHORT, SMALL)
            self.assertRuns(done)
            self.assertEqual(len(done.out.splitlines()), 5)  # machine, nothing, titles, two rows
        with open(self.path("out.csv"), newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        self.assertEqual([(r["in_flight"], r["callers"]) for r in rows], [("1", "1"), ("5", "1"), ("1", "1"), ("5", "3")])
        for r in rows:
            self.assertNotIn(None, r)  # as many values as titles
            self.assertNotIn(None, r.values())
            self.assertEqual((r["model"], r["mode"], r["failed"], r["failures"], r["mismatches"]),
                             ("mock@1", "service", "0", "", "0"))
            self.assertGreaterEqual(float(r["p50_ms"]), 3)
            self.assertGreaterEqual(float(r["service_ms"]), 3)
            # two slots of 3 ms each
            self.assertLess(float(r["events_per_s"]), 2 / 0.003 * 1.05)
        # five events, two slots: some wait
        self.assertGreater(float(rows[1]["queue_ms"]), float(rows[0]["queue_ms"]))

    def test_wrong_answers(self):
        clients = self.mock("name=standard")  # a mock that says it is the standard model
        done = run("bench", "--json", "--broker", clients, *SHORT, SMALL)
        self.assertFails(done, 1, "wrong answers", "event000000010", "other weights")
        (p,) = self.points(done)
        self.assertEqual(p["failed"], 0)
        self.assertGreaterEqual(p["mismatches"], p["answers"])

    def test_model_is_chosen(self):
        clients, workers = self.broker()
        for version in (1, 2):
            self.worker(workers, "--backend", "mock", "--model", "version=%d,hash=%d" % (version, version))
        for version in (1, 2):
            done = run("bench", "--json", "--broker", clients, "--no-reference", "--model", "mock@%d" % version, *SHORT, SMALL)
            self.assertRuns(done)
            self.assertEqual(self.points(done)[0]["model"], "mock@%d" % version)

    def test_failures_have_names(self):
        clients = self.mock("fail_rate=1")
        done = run("bench", "--broker", clients, "--no-reference", *SHORT, SMALL)
        self.assertFails(done, 1, "events failed, the first: ")
        self.assertRegex(done.out.splitlines()[-1], r" 0  (attempts|backend)=\d+$")

    def test_nobody_listens(self):
        done = run("bench", "--json", "--broker", "tcp://127.0.0.1:%d" % free_port(), "--no-reference", "--ttl", 0.3, *SHORT, SMALL)
        self.assertFails(done, 1, "refuses connections")
        (p,) = self.points(done)
        self.assertEqual((p["answers"], p["p50_ms"]), (0, None))
        self.assertEqual(list(p["failures"]), ["no_broker"])

    def test_usage(self):
        for arguments, words in (([], ("no event",)), (["--in-flight", "0", SMALL], ("--in-flight 0",)),
                                 (["--in-flight", "1,,2", SMALL], ("--in-flight 1,,2",)),
                                 (["--in-flight", "1,2x", SMALL], ("--in-flight",)),
                                 (["--in-flight", "257", SMALL], ("256",)),
                                 (["--seconds", "0", SMALL], ("--seconds",)), (["--clients", "0", SMALL], ("--clients",))):
            self.assertFails(run("bench", *arguments), 2, *words)
        self.assertFails(run("bench", self.path("none.npz")), 1, "none.npz")
        self.assertFails(run("bench", "--model", "nix", SMALL), 1, "nix")
        self.assertFails(run("bench", "--csv", self.text("other.csv", "a,b\n1,2\n"), *SHORT, SMALL), 1, "other.csv", "line 1")
        self.assertEqual(self.read("other.csv"), b"a,b\n1,2\n")
        self.assertFails(run("bench", "--csv", self.path("no", "such.csv"), *SHORT, SMALL), 1, "such.csv")

    def test_interrupt(self):
        clients = self.mock("time_ms=5")
        process = start("bench", "--broker", clients, "--no-reference", "--seconds", 600, "--csv", self.path("out.csv"), SMALL)
        deadline = time.monotonic() + harness.PATIENCE
        line = b""
        while not line.strip().startswith(b"in flight") and time.monotonic() < deadline:
            line = process.stdout.readline()  # the titles: it is running
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=harness.PATIENCE)
        self.assertEqual((process.returncode, err), (130, b"trackmill: interrupted\n"))


if __name__ == "__main__":
    if not harness.BROKER:
        print("skipped: no broker or worker in this build")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1], verbosity=1)

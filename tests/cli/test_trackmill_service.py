# SPDX-License-Identifier: Apache-2.0
"""trackmill with a real broker and real workers: the same tracks as without, and clear words when not."""
import json
import os
import signal
import socket
import subprocess
import sys
import time
import unittest

import harness
from harness import Case, helices, run, start, write_npz


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class ServiceCase(Case):
    def setUp(self):
        super().setUp()
        self.programs = []
        self.addCleanup(self.stop)

    def stop(self):
        for process in self.programs:
            process.kill()
            process.wait()
            process.stdout.close()

    def launch(self, *arguments):
        process = subprocess.Popen([*map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, text=True, env=harness.environment())
        self.programs.append(process)
        return process

    def broker(self):
        """Starts one; returns what clients and workers connect to."""
        process = self.launch(harness.BROKER, "--client-endpoint", "tcp://127.0.0.1:*", "--worker-endpoint",
                              "tcp://127.0.0.1:*", "--http", "off")
        line = process.stdout.readline()
        words = dict(word.split("=", 1) for word in line.split()[1:])
        self.assertTrue(line.startswith("ready "), line)
        return words["clients"], words["workers"]

    def worker(self, endpoint, *arguments):
        process = self.launch(harness.WORKER, "--broker", endpoint, "--name", "tester", *arguments)
        for line in process.stdout:
            if line.startswith("registered "):
                return process
        self.fail("the worker did not register")

    def service(self):
        clients, workers = self.broker()
        self.worker(workers, "--model", harness.STANDARD)
        return clients


class Find(ServiceCase):
    def test_same_bytes_as_embedded(self):
        clients = self.service()
        events = [self.event("event%d.npz" % i, number=5 + 25 * i, seed=i) for i in range(4)]
        events.append(os.path.join(harness.SOURCE, "tests", "data", "formats", "trackml", "event000000007-hits.csv"))
        if os.path.isdir(os.path.join(harness.SHARED, "data")):
            events.append(os.path.join(harness.SHARED, "data", "few", "event000000010.npz.xz"))
        self.assertRuns(run("find", "--quiet", "--out", self.path("here"), *events))
        done = run("find", "--broker", clients, "--in-flight", 3, "--json", "--out", self.path("there"), *events)
        self.assertRuns(done)
        rows = json.loads(done.out)["events"]
        self.assertEqual([row["path"] for row in rows], events)  # in order, whatever answered first
        self.assertEqual({row["worker"] for row in rows}, {"tester"})
        names = sorted(os.listdir(self.path("here")))
        self.assertEqual(names, sorted(os.listdir(self.path("there"))))
        self.assertEqual(len(names), len(events))
        for name in names:
            self.assertEqual(self.read("here", name), self.read("there", name))
        # the module ids stay at home: 17 bytes a point travel
        points, sent = rows[3]["space_points"], rows[3]["sent_bytes"]
        self.assertLess(sent, 17 * points + 1000)
        table = run("find", "--broker", clients, *events)
        self.assertRuns(table)
        self.assertIn(clients, table.out)

    def test_weights_are_checked(self):
        clients = self.service()
        event = self.event(number=5)
        self.assertRuns(run("find", "--broker", clients, "--model", harness.STANDARD, event))
        with open(harness.STANDARD, "rb") as file:
            data = bytearray(file.read())
        data[-2] ^= 1  # one bit of one weight: same name and version
        with open(self.path("other.safetensors"), "wb") as file:
            file.write(data)
        self.assertFails(run("find", "--broker", clients, "--model", self.path("other.safetensors"), event), 1,
                         "event000000001.npz", "tester answered with other weights of standard@")

    def test_bad_events(self):
        clients = self.service()
        done = run("find", "--broker", clients, self.event("event1.npz", 5, charge_e3=None))
        self.assertFails(done, 1, "event1.npz", "charge")
        for n in (0, 1, 2):
            arrays = {name: (kind, values[:n]) for name, (kind, values) in helices(1).items()
                      if not name.startswith("p")}
            event = write_npz(self.path("tiny%d.npz" % n), arrays)
            self.assertRuns(run("find", "--broker", clients, "--out", self.path("out"), event))
            self.assertEqual(self.read("out", "tiny%d-tracks.csv" % n), b"hit_id,track_id\n")

    def test_nobody_listens(self):
        begin = time.monotonic()
        done = run("find", "--broker", "tcp://127.0.0.1:%d" % free_port(), "--deadline", 2, self.event(number=5))
        self.assertFails(done, 1, "event000000001.npz")
        self.assertLess(time.monotonic() - begin, 60)

    def test_no_worker(self):
        clients, _ = self.broker()
        done = run("find", "--broker", clients, "--deadline", 1.5, self.event(number=5))
        self.assertFails(done, 1, "event000000001.npz", "standard")

    def test_bad_endpoint(self):
        self.assertFails(run("find", "--broker", "nonsense", self.event(number=5)), 1, "nonsense")

    def test_second_broker_takes_over(self):
        clients = self.service()
        dead = "tcp://127.0.0.1:%d" % free_port()
        self.assertRuns(run("find", "--broker", dead + "," + clients, self.event(number=5)))

    def test_interrupt(self):
        clients, workers = self.broker()
        self.worker(workers, "--backend", "mock", "--model", "time_ms=300,name=standard")
        process = start("find", "--broker", clients, *[self.event(number=5)] * 200)
        try:
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=harness.PATIENCE)
        finally:
            process.kill()
        self.assertEqual(process.returncode, 130)
        self.assertRegex(err.decode(), r"^trackmill: interrupted: \d+ of 200 events done\n$")

    def test_half_a_million_points(self):
        clients, workers = self.broker()
        self.worker(workers, "--backend", "mock", "--model", "name=standard")
        n = 500000
        ramp = lambda step: ("i", [(i * step) % 1000000 for i in range(n)])
        event = write_npz(self.path("event1.npz"), {"x_um": ramp(7), "y_um": ramp(11), "z_um": ramp(13)})
        done = run("find", "--broker", clients, "--json", "--out", self.path("out"), event)
        self.assertRuns(done)
        row = json.loads(done.out)["events"][0]
        self.assertEqual((row["space_points"], row["candidates"]), (n, n // 10))
        self.assertRuns(run("display", "--out", self.path("d.svg"), "--tracks", self.path("out"), event))
        self.assertLess(len(self.read("d.svg")), 5 << 20)


class Status(ServiceCase):
    def test_report(self):
        clients = self.service()
        self.assertRuns(run("find", "--broker", clients, self.event(number=5)))
        done = run("status", "--broker", clients)
        self.assertRuns(done)
        self.assertRegex(done.out, r"workers +1\n")
        self.assertRegex(done.out, r"standard@\S+ +sha256 [0-9a-f]{12}")
        done = run("status", "--json", "--broker", clients)
        self.assertRuns(done)
        report = json.loads(done.out)[0]
        self.assertEqual((report["broker"], report["status"], report["workers"]), (clients, "ok", 1))
        self.assertEqual(report["answered"], 1)
        self.assertEqual(report["models"][0]["name"], "standard")

    def test_nobody_listens(self):
        clients, _ = self.broker()
        dead = "tcp://127.0.0.1:%d" % free_port()
        done = run("status", "--deadline", 2, "--broker", dead)
        self.assertFails(done, 1, dead)
        done = run("status", "--json", "--deadline", 2, "--broker", clients + "," + dead)
        self.assertEqual(done.code, 1)
        self.assertEqual([r["status"] == "ok" for r in json.loads(done.out)], [True, False])


if __name__ == "__main__":
    if not harness.BROKER:
        print("skipped: no broker or worker in this build")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1], verbosity=1)

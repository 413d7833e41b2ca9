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


def standard_version():
    with open(harness.STANDARD, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return json.loads(header["__metadata__"]["trackmill"])["version"]


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
            self.assertEqual((p["model"], p["failed"], p["mismatches"]), ("standard@" + standard_version(), 0, 0))
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
        self.assertEqual((p["differing_mean"], p["differing_max"]), (0, 0))
        self.assertNotIn("rate", p)
        # 17 bytes a point travel (and the header); the module ids stay at home
        self.assertTrue(17 < p["sent_bytes_per_point"] < 19, p)
        self.assertGreater(p["overhead_ms"], 0)

    def test_csv(self):
        clients = self.mock("time_ms=3")
        for clients_wanted in (1, 3):
            done = run("bench", "--broker", clients, "--no-reference", "--in-flight", "1,5", "--clients", clients_wanted,
                       "--csv", self.path("out.csv"), *SHORT, SMALL)
            self.assertRuns(done)
            lines = [line for line in done.out.splitlines() if not line.lstrip().startswith("GPU ")]
            self.assertEqual(len(lines), 5, done.out)  # machine, nothing, titles, two rows
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

    def test_open_loop(self):
        clients = self.mock("time_ms=5")
        for arrivals in ("fixed", "poisson"):
            done = run("bench", "--json", "--broker", clients, "--no-reference", "--rate", "40,80", "--arrivals", arrivals,
                       "--clients", 2, "--warm-up", 0.3, "--seconds", 1.5, SMALL)
            self.assertRuns(done)
            self.assertEqual(json.loads(done.out)["loop"], arrivals)
            for p, rate in zip(self.points(done), (40, 80)):
                self.assertEqual((p["rate"], p["unsent"], p["failed"]), (rate, 0, 0))
                self.assertAlmostEqual(p["seconds"], 1.5, delta=0.001)
                # all that was due inside the window was sent and answered
                self.assertEqual(p["answers"], p["offered"])
                if arrivals == "fixed":
                    self.assertTrue(abs(p["offered"] - 1.5 * rate) <= 2, p)
                else:  # a Poisson number, its standard deviation the root of the mean; the seeds are fixed
                    self.assertTrue(abs(p["offered"] - 1.5 * rate) <= 5 * (1.5 * rate) ** 0.5, p)
                self.assertGreaterEqual(p["p50_ms"], 5)

    def test_a_slow_service_cannot_hide(self):
        """Twenty events per second are possible and a hundred come: times count from when each was due."""
        clients = self.mock("time_ms=100")
        done = run("bench", "--json", "--broker", clients, "--no-reference", "--rate", 100, "--arrivals", "fixed",
                   "--in-flight", 4, "--clients", 2, "--warm-up", 0, "--seconds", 2, "--csv", self.path("o.csv"), SMALL)
        self.assertRuns(done)
        (p,) = self.points(done)
        self.assertLess(p["events_per_s"], 21)
        self.assertTrue(199 <= p["offered"] <= 200, p)
        self.assertEqual(p["answers"] + p["unsent"], p["offered"])
        self.assertGreater(p["unsent"], 100)
        self.assertGreater(p["late"], p["answers"] / 2)
        self.assertGreater(p["late_max_ms"], 1000)
        # four under way and two slots: the request itself takes 0.2 s; the event waited much longer
        self.assertGreater(p["p99_ms"], 1000)
        with open(self.path("o.csv"), newline="") as file:
            (row,) = csv.DictReader(file, strict=True)
        self.assertEqual((row["loop"], row["rate"], row["unsent"], row["late"]),
                         ("fixed", "100", str(p["unsent"]), str(p["late"])))
        table = run("bench", "--broker", clients, "--no-reference", "--rate", 100, "--in-flight", 4, "--warm-up", 0,
                    "--seconds", 0.5, SMALL)
        self.assertRuns(table)
        self.assertRegex(table.out, r"offered/s")
        self.assertRegex(table.out, r"\d late, \d+ unsent")

    def test_several_processes(self):
        clients = self.mock("time_ms=1")
        for more in (("--in-flight", 8), ("--in-flight", 8, "--rate", 200)):
            done = run("bench", "--json", "--broker", clients, "--no-reference", "--clients", 5, "--processes", 3, *more,
                       "--warm-up", 0.2, "--seconds", 1, SMALL)
            self.assertRuns(done)
            (p,) = self.points(done)
            self.assertEqual((p["callers"], p["processes"], p["failed"], p["mismatches"]), (5, 3, 0, 0))
            self.assertGreater(p["answers"], 50)
            self.assertAlmostEqual(p["events_per_s"], p["answers"] / p["seconds"], delta=0.5 * p["events_per_s"])
            self.assertGreaterEqual(p["p50_ms"], 1)
            self.assertGreater(p["load_cpu_s"], 0)
            self.assertGreater(p["bytes_per_s"], p["events_per_s"] * 17 * 127)  # the event has 127 points

    def test_spread_over_brokers(self):
        brokers = [self.broker() for _ in range(3)]
        self.worker(",".join(workers for _, workers in brokers), "--backend", "mock", "--slots", 2)
        listed = ",".join(clients for clients, _ in brokers)
        for more, met in (((), 1), (("--spread",), 3)):
            before = self.answered(listed)
            self.assertRuns(run("bench", "--broker", listed, "--no-reference", "--clients", 3, "--in-flight", 3, *more,
                                *SHORT, SMALL))
            self.assertEqual(sum(b < a for b, a in zip(before, self.answered(listed))), met)

    def answered(self, brokers):
        done = run("status", "--json", "--broker", brokers)
        self.assertRuns(done)
        return [report["answered"] for report in json.loads(done.out)]

    def test_a_load_process_dies(self):
        clients = self.mock("time_ms=5")
        process = start("bench", "--broker", clients, "--no-reference", "--seconds", 600, "--clients", 2, "--processes", 2,
                        "--in-flight", 2, SMALL)
        children = "/proc/%d/task/%d/children" % (process.pid, process.pid)
        if not os.path.exists(children):
            process.kill()
            process.communicate()
            self.skipTest("this kernel does not tell a process's children")
        deadline = time.monotonic() + harness.PATIENCE
        pids = []
        while len(pids) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
            with open(children) as file:
                pids = file.read().split()
        self.assertEqual(len(pids), 2)
        os.kill(int(pids[0]), signal.SIGKILL)  # one dies: the other must not be waited for
        out, err = process.communicate(timeout=harness.PATIENCE)
        self.assertEqual((process.returncode, err), (1, b"trackmill: load process %s died\n" % pids[0].encode()))
        self.assertFalse(os.path.exists("/proc/" + pids[1]))

    def test_watch(self):
        clients = self.mock("time_ms=1")
        broker, worker = (p.pid for p in self.programs)
        done = run("bench", "--json", "--broker", clients, "--no-reference", "--in-flight", 4, "--warm-up", 0.1,
                   "--seconds", 1, "--watch", "%d,%d" % (broker, worker), "--csv", self.path("w.csv"), SMALL)
        self.assertRuns(done)
        (p,) = self.points(done)
        self.assertEqual([(w["pid"], w["name"]) for w in p["watched"]],
                         [(broker, "trackmill-broker"), (worker, "trackmill-worker")])
        for w in p["watched"]:
            self.assertFalse(w["gone"])
            self.assertTrue(0 <= w["cpu_s"] < p["seconds"] * os.cpu_count() + 1, w)
            self.assertGreater(w["peak_mib"], 1)
        self.assertGreater(sum(w["cpu_s"] for w in p["watched"]), 0)
        with open(self.path("w.csv"), newline="") as file:
            (row,) = csv.DictReader(file, strict=True)
        self.assertEqual([word.split("=")[0] for word in row["watched_cpu_s"].split(";")],
                         ["trackmill-broker:%d" % broker, "trackmill-worker:%d" % worker])
        table = run("bench", "--broker", clients, "--no-reference", *SHORT, "--watch", broker, SMALL)
        self.assertRuns(table)
        self.assertRegex(table.out, r"%d +trackmill-broker +\d\.\d\d cores, peak \d+\.\d MiB\n" % broker)
        for wrong, words in (("x", "numbers"), ("%d," % broker, "numbers"), ("2147483647", "no such process")):
            self.assertFails(run("bench", "--broker", clients, "--no-reference", "--watch", wrong, SMALL), 1, "--watch", words)

    def test_gpus(self):
        folder = os.environ.get("TM_FAKE_NVML")
        if not folder:
            self.skipTest("TM_FAKE_NVML names no pretended NVML")
        clients = self.mock()
        arguments = ("bench", "--broker", clients, "--no-reference", "--warm-up", 0, "--seconds", 2, "--csv",
                     self.path("g.csv"), SMALL)
        done = run(*arguments, "--json", LD_LIBRARY_PATH=folder)
        self.assertRuns(done)
        gpus = self.points(done)[0]["gpus"]
        self.assertEqual([g["name"] for g in gpus], ["Pretended GPU"] * 3)  # up to what would break a line of CSV
        self.assertTrue(50 < gpus[0]["busy_percent"] <= 100, gpus)
        self.assertEqual([g["busy_percent"] for g in gpus[1:]], [25, None])
        with open(self.path("g.csv"), newline="") as file:
            (row,) = csv.DictReader(file, strict=True)
        self.assertRegex(row["gpu_busy"], r"^\d+\.\d;25\.0;$")
        table = run(*arguments, LD_LIBRARY_PATH=folder)
        self.assertRuns(table)
        self.assertRegex(table.out, r"GPU 1 +Pretended GPU +25\.0 % busy\n *GPU 2 +Pretended GPU +- busy\n")

    def test_wrong_answers(self):
        clients = self.mock("name=standard,version=" + standard_version())  # a mock that says it is the standard model
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
                                 (["--in-flight", "1.5", SMALL], ("--in-flight",)),
                                 (["--rate", "5", SMALL], ("--rate", "--broker")),
                                 (["--rate", "0", "--broker", "ipc:///x", SMALL], ("--rate 0",)),
                                 (["--rate", "5", "--in-flight", "1,2", "--broker", "ipc:///x", SMALL], ("one number",)),
                                 (["--arrivals", "odd", SMALL], ("--arrivals odd",)),
                                 (["--processes", "2", SMALL], ("--clients",)),
                                 (["--tolerance", "1.5", SMALL], ("--tolerance",)),
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

# SPDX-License-Identifier: Apache-2.0
"""trackmill as a whole, with the engine in its own process."""
import csv
import gzip
import json
import math
import os
import random
import shutil
import signal
import sys
import unittest
import xml.etree.ElementTree

import harness
from harness import Case, helices, run, start, write_npz

FORMATS = os.path.join(harness.SOURCE, "tests", "data", "formats")


class Usage(Case):
    def test_help_and_version(self):
        for arguments in (["--help"], ["find", "--help"], ["score", "--help"], ["display", "--help"],
                          ["status", "--help"]):
            done = run(*arguments)
            self.assertRuns(done)
            self.assertIn("Usage: trackmill", done.out)
            self.assertIn("Examples:", done.out)
            self.assertIn("Exit status", done.out)
        self.assertRegex(run("--version").out, r"^trackmill \d+\.\d+\.\d+\n$")

    def test_wrong_usage(self):
        for arguments, word in (([], "no command"), (["seek"], "seek: no such command"),
                                (["find"], "no event named"), (["find", "--bogus", "x"], "--bogus"),
                                (["find", "--out"], "--out: wants a value"),
                                (["find", "--deadline", "soon", "x"], "--deadline soon"),
                                (["find", "--in-flight", "0", "x"], "--in-flight 0"),
                                (["find", "--threads", "-1", "x"], "--threads -1"),
                                (["find", "--format", "xml", "x"], "tracks, trackml or acts"),
                                (["find", "--pt", "nan", "x"], "--pt nan"),
                                (["score", "x"], "an event and its tracks"),
                                (["score", "--tracks", "d"], "no event"),
                                (["display", "x"], "--out"), (["display", "--out", "x"], "no event"),
                                (["status", "x"], "no operands")):
            with self.subTest(arguments):
                done = run(*arguments)
                self.assertFails(done, 2, word)
                self.assertEqual(done.out, "")

    def test_same_name_twice(self):
        done = run("find", "--out", self.path("o"), "a/event1.npz", "b/event1.npz")
        self.assertFails(done, 2, "a/event1.npz and b/event1.npz")


class Find(Case):
    def test_tracks_are_found(self):
        event = self.event(number=40)
        done = run("find", "--out", self.path("out"), "--json", event)
        self.assertRuns(done)
        answer = json.loads(done.out)
        row = answer["events"][0]
        self.assertEqual(row["event"], "event000000001")
        self.assertEqual(row["output"], self.path("out", "event000000001-tracks.csv"))
        self.assertEqual(answer["total"]["failed"], 0)
        self.assertGreater(row["total_ms"], 0)
        self.assertRegex(row["weights_sha256"], "^[0-9a-f]{64}$")
        self.assertIsNone(row["worker"])
        tracks = harness.read_tracks(row["output"])
        self.assertEqual(len(tracks), row["candidates"])
        slow = harness.slow_score(harness.read_npz(event), tracks)
        self.assertGreater(slow["n_wanted"], 20)
        for key, value in slow.items():
            self.assertEqual(row["score"][key], value, key)
        self.assertGreater(slow["n_tracks"], 0)  # these helices are no real events: no more is asked

    def test_same_bytes_again_whatever_the_threads(self):
        event = self.event(number=60)
        for threads in (1, 2):
            self.assertRuns(run("find", "--quiet", "--threads", threads, "--out", self.path(str(threads)), event))
        self.assertEqual(self.read("1", "event000000001-tracks.csv"), self.read("2", "event000000001-tracks.csv"))

    def test_table(self):
        events = [self.event("event1.npz"), self.event("event2.npz.xz", number=20)]
        done = run("find", *events)
        self.assertRuns(done)
        lines = done.out.splitlines()
        self.assertRegex(lines[0], r"^event +space points +candidates +efficiency +fakes .* gnn .* total ms$")
        self.assertTrue(lines[1].startswith("event1 ") and lines[2].startswith("event2 "), done.out)
        self.assertIn("2 events", done.out)
        self.assertIn("standard@", done.out)
        self.assertEqual(run("find", "--quiet", *events).out, "")

    def test_formats(self):
        event = self.event()
        heads = {"tracks": "hit_id,track_id", "trackml": "event_id,hit_id,track_id",
                 "acts": "trackId,measurementId,x,y,z"}
        scores = []
        for name, head in heads.items():
            self.assertRuns(run("find", "--quiet", "--format", name, "--out", self.path(name), event))
            self.assertEqual(self.read(name, "event000000001-tracks.csv").decode().splitlines()[0], head)
            done = run("score", "--json", event, self.path(name, "event000000001-tracks.csv"))
            self.assertRuns(done)
            scores.append(json.loads(done.out)["total"])
        self.assertEqual(scores[0], scores[1])
        self.assertEqual(scores[0], scores[2])

    def test_text_formats_of_events(self):
        for path in ("trackml/event000000007-hits.csv", "trackml/event000000007", "acts/event000000003"):
            with self.subTest(path):
                self.assertRuns(run("find", "--out", self.path("out"), os.path.join(FORMATS, path)))

    def test_tiny_events(self):
        for n in (0, 1, 2):
            arrays = {name: (kind, values[:n]) for name, (kind, values) in helices(1).items()
                      if not name.startswith("p")}
            event = write_npz(self.path("event%d.npz" % n), arrays)
            done = run("find", "--out", self.path("out"), event)
            self.assertRuns(done)
            self.assertEqual(self.read("out", "event%d-tracks.csv" % n), b"hit_id,track_id\n")

    def test_bad_events(self):
        good = helices(5)
        n = len(good["x_um"][1])
        metres = lambda name: ("f", [v / 1000 for v in good[name][1]])
        positions = {"x_um": None, "y_um": None, "z_um": None, "y": metres("y_um"), "z": metres("z_um")}
        cases = [
            (dict(y_um=("i", [0] * (n - 1))), ["array y_um has %d elements" % (n - 1), "array x_um has %d" % n]),
            (dict(z_um=None), ["array z_um is missing"]),
            (dict(charge_e3=None), ["charge"]),  # the model needs it
            ({**positions, "x": ("f", [float("nan")] * n)}, ["row 0, column x: nan"]),
            ({**positions, "x": ("f", [1e9] * n)}, ["row 0, column x"]),
            (dict(particle=("i", [999] * n)), ["array particle, row 0"]),
        ]
        for changes, words in cases:
            with self.subTest(words):
                self.assertFails(run("find", self.event("event1.npz", 5, **changes)), 1, "event1.npz", *words)
        with open(self.event("event2.npz.xz"), "rb") as file:
            whole = file.read()
        for cut in (0, 1, 40, len(whole) // 2, len(whole) - 1):
            with open(self.path("cut.npz.xz"), "wb") as file:
                file.write(whole[:cut])
            self.assertFails(run("find", self.path("cut.npz.xz")), 1, "cut.npz.xz")
        self.assertFails(run("find", self.path("absent.npz")), 1, "absent.npz: No such file")
        self.assertFails(run("find", self.folder), 1, "a folder")
        self.assertFails(run("find", self.text("event3-hits.csv", "hit_id,x,y,z\n1,2,3,nan\n")), 1,
                         "event3-hits.csv: line 2, column z: 'nan'")

    def test_one_bad_event_does_not_stop_the_rest(self):
        events = [self.event("event1.npz"), self.text("event2.npz", "nonsense"), self.event("event3.npz")]
        done = run("find", "--out", self.path("out"), *events)
        self.assertFails(done, 1, "event2.npz")
        self.assertEqual(sorted(os.listdir(self.path("out"))), ["event1-tracks.csv", "event3-tracks.csv"])
        done = run("find", "--json", *events)
        answer = json.loads(done.out)
        self.assertEqual([row["status"] for row in answer["events"]], ["ok", "file", "ok"])
        self.assertIn("event2.npz", answer["events"][1]["error"])
        self.assertEqual((done.code, answer["total"]["failed"]), (1, 1))

    def test_models(self):
        event = self.event(number=5)
        self.assertRuns(run("find", "--model", harness.STANDARD, event))
        self.assertFails(run("find", "--model", "absent", event), 1, "no model absent", harness.WEIGHTS)
        self.assertFails(run("find", "--model", "./absent.safetensors", event), 1, "absent.safetensors")
        self.assertFails(run("find", "--model", "standard@no-such", event), 1, "version")
        self.assertFails(run("find", "--model", self.text("x.safetensors", "junk junk junk"), event), 1,
                         "x.safetensors")
        self.assertFails(run("find", event, TRACKMILL_WEIGHTS=self.folder), 1, self.folder)

    def test_weights_beside_the_program(self):
        event = self.event(number=5)
        os.makedirs(self.path("prefix", "bin"))
        os.makedirs(self.path("prefix", "share", "trackmill", "weights"))
        os.makedirs(self.path("build", "client", "cli"))
        program = shutil.copy(harness.PROGRAM, self.path("prefix", "bin", "trackmill"))
        built = shutil.copy(harness.PROGRAM, self.path("build", "client", "cli", "trackmill"))
        before = harness.PROGRAM
        self.addCleanup(setattr, harness, "PROGRAM", before)
        for copy, folder in ((program, self.path("prefix", "share", "trackmill", "weights")),
                             (built, self.path("weights"))):
            harness.PROGRAM = copy
            self.assertFails(run("find", event, TRACKMILL_WEIGHTS=""), 1, "no model standard")
            os.makedirs(folder, exist_ok=True)
            os.symlink(harness.STANDARD, os.path.join(folder, "standard.safetensors"))
            self.assertRuns(run("find", event, TRACKMILL_WEIGHTS=""))

    def test_cannot_write(self):
        event = self.event(number=5)
        self.text("file", "")
        self.assertFails(run("find", "--out", self.path("file"), event), 1, "file: not a folder")
        self.assertFails(run("find", "--out", self.path("no", "folder"), event), 1, "cannot be made")

    def test_deadline(self):
        self.assertFails(run("find", "--deadline", "0.001", self.event(number=400)), 1, "not finished within 0.001 s")

    def test_interrupt(self):
        event = self.event(number=300)
        for number in (signal.SIGINT, signal.SIGTERM):
            process = start("find", *[event] * 500)
            try:
                process.stdout.readline()  # the titles come with the first event
                process.send_signal(number)
                out, err = process.communicate(timeout=harness.PATIENCE)
            finally:
                process.kill()
            self.assertEqual(process.returncode, 128 + number)
            self.assertRegex(err.decode(), r"^trackmill: interrupted: \d+ of 500 events done\n$")
            self.assertLess(len(out.splitlines()), 500)


class Candidates(Case):
    def test_start_values(self):
        """Found tracks of a simulated event have the momenta of its particles, nearly."""
        event = os.path.join(harness.SOURCE, "tests", "data", "event000000001.npz.xz")
        self.assertRuns(run("find", "--quiet", "--device", "cpu", "--candidates", "--out", self.path("out"), event))
        with open(self.path("out", "event000000001-candidates.csv")) as file:
            rows = list(csv.DictReader(file))
        points = {}
        with open(self.path("out", "event000000001-tracks.csv")) as file:
            for row in csv.DictReader(file):
                points.setdefault(row["track_id"], []).append(int(row["hit_id"]))
        truth = harness.read_npz(event)
        self.assertEqual(sorted(points), sorted(row["track_id"] for row in rows))
        compared = 0
        for row in rows:
            self.assertEqual(int(row["points"]), len(points[row["track_id"]]))
            owners = {truth["particle"][hit] for hit in points[row["track_id"]]}
            if len(owners) == 1 and len(points[row["track_id"]]) > 7:
                p = owners.pop()
                pt = math.hypot(truth["p_px"][p], truth["p_py"][p])
                self.assertLess(abs(float(row["pt"]) / pt - 1), 0.3)
                self.assertEqual(int(row["charge"]), truth["p_q"][p])
                self.assertLess(abs(float(row["z0"]) - truth["p_vz"][p]), 20)
                compared += 1
        self.assertGreater(compared, 0)
        self.assertFails(run("find", "--candidates", event), 2, "--candidates wants --out")


class Score(Case):
    def test_against_the_slow_scorer(self):
        generator = random.Random(3)
        arrays = helices(50, seed=9)
        n = len(arrays["x_um"][1])
        arrays["extra_hit"] = ("i", [generator.randrange(n) for _ in range(60)])
        arrays["extra_particle"] = ("i", [generator.randrange(50) for _ in range(60)])
        arrays["p_process"] = ("B", [p % 7 == 0 for p in range(50)])
        event = write_npz(self.path("event1.npz"), arrays)
        labels = [p if generator.random() < 0.8 else generator.randrange(60) for p in arrays["particle"][1]]
        tracks = self.text("event1-tracks.csv", "hit_id,track_id\n" + "".join(
            "%d,%d\n" % pair for pair in enumerate(labels)))
        for options in ({}, {"pt_min": 2.0, "track_hits_min": 5}, {"hits_min": 10, "eta_max": 0.5}):
            flags = {"pt_min": "--pt", "track_hits_min": "--min-track-hits", "hits_min": "--hits",
                     "eta_max": "--eta"}
            words = [w for key, value in options.items() for w in (flags[key], value)]
            done = run("score", "--json", *words, event, tracks)
            self.assertRuns(done)
            total = json.loads(done.out)["total"]
            slow = harness.slow_score(harness.read_npz(event), harness.read_tracks(tracks), **options)
            self.assertEqual({key: total[key] for key in slow}, slow)
            self.assertTrue(0 < slow["n_found"] < slow["n_wanted"])
        done = run("score", "--bins", "--tracks", self.folder, event)
        self.assertRuns(done)
        self.assertIn("efficiency", done.out)
        self.assertIn("origin, r (mm)", done.out)
        self.assertRuns(run("score", "--plot", self.path("score.svg"), event, tracks))
        drawing = xml.etree.ElementTree.fromstring(self.read("score.svg"))
        marks = [mark[0].text.split(" of ") for mark in drawing.iter("{http://www.w3.org/2000/svg}circle")]
        curve = json.loads(run("score", "--json", event, tracks).out)["total"]["pt_curve"]
        for pair in ([b["found"], b["wanted"]] for b in curve if b["wanted"]):
            self.assertIn(list(map(str, pair)), marks)
        self.assertEqual(sum(b["wanted"] for b in curve), json.loads(run("score", "--json", event, tracks).out)["total"]["n_wanted"])
        self.assertFails(run("score", "--plot", self.path("no", "s.svg"), event, tracks), 1, "s.svg: cannot be written")

    def test_trackml_weights(self):
        event = os.path.join(FORMATS, "trackml", "event000000007-hits.csv")
        tracks = self.text("t.csv", "hit_id,track_id\n10,0\n4,0\n1,0\n2,1\n3,2\n9,2\n")
        done = run("score", "--json", event, tracks)
        self.assertRuns(done)
        total = json.loads(done.out)["total"]
        # track 0: 10, 4 (0.375) of three; track 2: 3, 9 (0.25) of three; track 1 has one of three
        self.assertAlmostEqual(total["trackml"], 0.625)
        self.assertTrue(total["weighted"])

    def test_faults(self):
        event = self.event("event1.npz", 5)
        bare = self.event("event2.npz", 5, particle=None)
        tracks = self.text("t.csv", "hit_id,track_id\n0,0\n")
        self.assertFails(run("score", bare, tracks), 1, "event2.npz: no truth")
        self.assertFails(run("score", event, self.path("absent.csv")), 1, "absent.csv: No such file")
        self.assertFails(run("score", event, self.text("u.csv", "hit_id,track_id\n9999,0\n")), 1, "u.csv: line 2: hit 9999")
        self.assertFails(run("score", "--tracks", self.folder, event), 1, "event1-tracks.csv: No such file")


class Display(Case):
    def drawing(self, *arguments):
        self.assertRuns(run("display", "--out", self.path("d.svg"), *arguments))
        svg = self.read("d.svg")
        self.assertLess(len(svg), 5 << 20)
        xml.etree.ElementTree.fromstring(svg)
        return svg.decode()

    def test_drawings(self):
        event = self.event(number=30)
        self.assertRuns(run("find", "--quiet", "--out", self.path("out"), event))
        self.assertIn("particles with pT", self.drawing(event))
        found = self.drawing(event, self.path("out", "event000000001-tracks.csv"))
        self.assertIn("particles found with pT", found)
        self.assertEqual(self.drawing("--tracks", self.path("out"), event), found)
        self.assertIn("0 particles found with pT &gt; 50 GeV", self.drawing("--pt", 50, "--tracks", self.path("out"), event))
        self.drawing("--r-max", 200, "--z-max", 500, "--tracks", self.path("out"), event)
        bare = self.event("event000000002.npz", 5, particle=None)
        self.assertRuns(run("find", "--quiet", "--out", self.path("out"), bare))
        self.assertIn("track candidates", self.drawing("--tracks", self.path("out"), bare))

    def test_faults(self):
        event = self.event(number=3)
        self.assertFails(run("display", "--out", self.path("no", "d.svg"), event), 1, "cannot be written")
        self.assertFails(run("display", "--out", self.path("d.svg"), self.path("absent")), 1, "absent")
        self.assertFails(run("display", "--out", self.path("d.svg"), event, self.path("absent.csv")), 1, "absent.csv")
        self.assertFalse(os.path.exists(self.path("d.svg")))


class SharedData(Case):
    def setUp(self):
        super().setUp()
        if not os.path.isdir(os.path.join(harness.SHARED, "data")):
            self.skipTest("no shared data (TM_SHARED)")

    def test_few_particles(self):
        names = [os.path.join(harness.SHARED, "data", "few", "event%09d.npz.xz" % i) for i in (0, 10, 16)]
        done = run("find", "--json", "--out", self.path("out"), *names)
        self.assertRuns(done)
        answer = json.loads(done.out)
        for name, row in zip(names, answer["events"]):
            slow = harness.slow_score(harness.read_npz(name), harness.read_tracks(row["output"]))
            self.assertEqual({key: row["score"][key] for key in slow}, slow)
        self.assertGreater(answer["total"]["score"]["efficiency"], 0.95)
        scored = json.loads(run("score", "--json", "--tracks", self.path("out"), *names).out)
        self.assertEqual(scored["total"], answer["total"]["score"])

    def test_public_trackml_event(self):
        base = os.path.join(harness.SHARED, "golden", "events", "gnn_tracking_trackml", "event000000001")
        with gzip.open(base + "-truth.csv.gz", "rt") as file:
            rows = [line.split(",") for line in file.read().splitlines()[1:]]
        numbers = {}
        tracks = self.text("t.csv", "hit_id,track_id\n" + "".join(
            "%s,%d\n" % (row[0], numbers.setdefault(row[1], len(numbers))) for row in rows if row[1] != "0"))
        total = json.loads(run("score", "--json", base + "-hits.csv.gz", tracks).out)["total"]
        self.assertEqual((total["efficiency"], total["fakes"]), (1.0, 0.0))  # the truth itself
        self.assertAlmostEqual(total["trackml"], 1.0)


class Device(Case):
    EVENT = os.path.join(harness.SOURCE, "tests", "data", "event000000010.npz.xz")

    def test_cpu(self):
        self.assertRuns(run("find", "--quiet", "--device", "cpu", self.EVENT))

    def test_unknown(self):
        done = run("find", "--quiet", "--device", "abacus", self.EVENT)
        self.assertNotEqual(done.code, 0)
        self.assertIn("device 'abacus': say auto, cpu, cuda or cuda:N", done.err)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=1)

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_train.py SOURCE_DIR: weights/train on made-up events, without the simulation; skipped without torch.

Whether networks learn something is seen by training them; here: which events a training gets, budgets in steps, what is
written on the way, and that a call that was cut short goes on.
"""
import contextlib
import csv
import io
import lzma
import os
import subprocess
import sys
import tempfile
import types
import unittest
from unittest import mock

SKIPPED = 77

try:
    import numpy as np
    import torch  # noqa: F401
except ImportError:
    print(f"skipped: {sys.executable} has no torch (cmake -DTM_TORCH_PYTHON=… names one that has)")
    sys.exit(SKIPPED)

TRAIN = os.path.join(sys.argv.pop(1), "weights", "train")
sys.path.insert(0, TRAIN)
import choose  # noqa: E402
import data  # noqa: E402
import networks  # noqa: E402
import train  # noqa: E402
import update  # noqa: E402

TINY = ["--embed", "8x1", "--filter", "4x1", "--gnn", "4x1", "--as-simulated", "--eager", "--graph-edges", "3",
        "--edges-per-point", "2", "--minutes", "4"]


def write_event(path, seed):
    """An event of 40 straight tracks through six cylinders, all from the beam line, in the arrays of simulate.py."""
    random = np.random.default_rng(seed)
    tracks, layers = 40, 6
    pt, eta = random.uniform(0.5, 5, tracks), random.uniform(-1.5, 1.5, tracks)
    phi, z0 = random.uniform(-np.pi, np.pi, tracks), random.normal(0, 50, tracks)
    particle = np.repeat(np.arange(tracks), layers)
    r = np.tile(50.0 * np.arange(1, layers + 1), tracks)
    at = {"x": r * np.cos(phi[particle]), "y": r * np.sin(phi[particle]),
          "z": z0[particle] + r * np.sinh(eta[particle])}
    hits, none = len(particle), np.zeros(0, np.int32)
    event = {**{f"{axis}_um": np.rint(1000 * value).astype(np.int32) for axis, value in at.items()},
             "charge_e3": np.full(hits, 300, np.uint16), "size_loc0": np.full(hits, 2, np.uint8),
             "size_loc1": np.full(hits, 1, np.uint8), "particle": particle.astype(np.int16), "extra_hit": none,
             "extra_particle": none, "p_pdg": np.full(tracks, 211, np.int32), "p_process": np.zeros(tracks, np.uint8),
             "p_q": np.ones(tracks, np.int8), "p_vertex": np.ones(tracks, np.uint16),
             "p_px": (pt * np.cos(phi)).astype(np.float32), "p_py": (pt * np.sin(phi)).astype(np.float32),
             "p_pz": (pt * np.sinh(eta)).astype(np.float32), "p_vz": z0.astype(np.float32),
             "p_vx": np.zeros(tracks, np.float32), "p_vy": np.zeros(tracks, np.float32)}
    buffer = io.BytesIO()
    np.savez(buffer, **event)
    with open(path, "wb") as file:
        file.write(lzma.compress(buffer.getvalue()))


def run(script, *arguments):
    return subprocess.run([sys.executable, "-B", os.path.join(TRAIN, script), *arguments], capture_output=True,
                          text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, timeout=400)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Choice(unittest.TestCase):
    def test_share_grows(self):
        """Fewer events are among the more, and two of three are from the short beam spot."""
        self.assertEqual(data.share(144), {"collisions": 96, "collisions_wide": 48})
        before = {"collisions": 0, "collisions_wide": 0}
        for number in range(1, 200):
            now = data.share(number)
            self.assertEqual(sum(now.values()), number)
            self.assertTrue(all(before[folder] <= now[folder] for folder in now))
            before = now

    def test_first_events(self):
        loader = data.Loader(None, types.SimpleNamespace(train_on=None), None)
        loader.known = {f"d/{folder}/event{at:09d}.npz.xz": at for folder in ("collisions_wide", "collisions")
                        for at in (11, 3, 0, 2, 1)}
        self.assertEqual(len(loader.chosen()), 10)
        loader.train_on = 5
        self.assertEqual(loader.chosen(), [f"d/{folder}/event{at:09d}.npz.xz" for folder, number in
                                           (("collisions", 3), ("collisions_wide", 2)) for at in range(number)])

    def test_at_edges(self):
        table = [{"per_point": per_point, "r": r} for per_point, r in ((1.0, 0.3), (4.0, 0.4), (16.0, 0.6))]
        for per_point, r in ((4, 0.4), (2, 0.35), (8, 0.5), (0.5, 0.3), (99, 0.6)):
            self.assertAlmostEqual(choose.at_edges(table, per_point, "r"), r)

    def test_barrel(self):
        """Edges weigh by the eta of their source: W at 0, halfway to 1 at half of BARREL, 1 beyond, for any edge."""
        with tempfile.TemporaryDirectory() as folder:
            write_event(folder + "/event.npz.xz", 1)
            packed = train.ev.load(([folder + "/event.npz.xz"], None, False))
        packed["eta"][:4] = (0, -data.BARREL / 2, data.BARREL, -3.5)
        edges = torch.tensor([[0, 1, 2, 3], [4, 4, 4, 4]])
        weights = {}
        for barrel in (1.0, 3.0):
            loader = data.Loader(None, types.SimpleNamespace(train_on=None, turn=0.0, barrel=barrel, device="cpu"), None)
            event = loader.on_device(dict(packed))
            weights[barrel] = [train.edge_weights(event, edges, torch.tensor(true)) for true in ([False] * 4, [True] * 4)]
        for plain, more in zip(weights[1.0], weights[3.0]):
            np.testing.assert_allclose((more / plain).numpy(), (3, 2, 1, 1), rtol=1e-6)
        np.testing.assert_allclose(weights[1.0][0].numpy(), 1)

    def test_turned(self):
        """Turned and mirrored, tracks come from where they came, and bend as they did."""
        with tempfile.TemporaryDirectory() as folder:
            write_event(folder + "/event.npz.xz", 1)
            event = train.ev.to_device(train.ev.load(([folder + "/event.npz.xz"], None, False)), "cpu")
        column = {name: at for at, (name, _) in enumerate(train.ev.FEATURES)}
        before, signs = train.ev.edge_features(event, event["truth"]).numpy(), set()
        for seed in range(8):
            turned = train.ev.turned(event, np.random.default_rng(seed))
            after = train.ev.edge_features(turned, event["truth"]).numpy()
            sign = (turned["z"][0] / event["z"][0]).sign().item()
            signs.add(sign)
            for at, (name, *_) in enumerate(train.ev.EDGE_FEATURES):
                expected = before[:, at] * (sign if name in ("dz", "deta", "z0") else 1)
                np.testing.assert_allclose(after[:, at], expected, atol=2e-3, err_msg=name)
            again, scale = turned["features"], dict(train.ev.FEATURES)
            phi, cos, sin = (again[:, column[name]] * scale[name] for name in ("phi", "cos_phi", "sin_phi"))
            np.testing.assert_allclose(phi, turned["phi"], atol=1e-5)
            np.testing.assert_allclose(cos, phi.cos(), atol=1e-5)
            np.testing.assert_allclose(sin, phi.sin(), atol=1e-5)
            self.assertLessEqual(phi.abs().max(), np.pi + 1e-5)
            self.assertFalse(np.allclose(phi, event["phi"], atol=1e-3))
            for name in ("r", "rho", "eta", "z"):
                np.testing.assert_allclose(turned[name].abs(), event[name].abs(), rtol=1e-6)
        self.assertEqual(signs, {1, -1})

    def test_widened(self):
        """A network twice as wide says the same, and its twins do not learn the same."""
        torch.manual_seed(5)
        narrow = networks.Interaction(9, 6, 8, 3)
        wide = networks.widened(narrow)
        self.assertEqual(networks.size_of(wide), (16, 3, False))
        inputs = torch.randn(30, 9), torch.randint(30, (2, 90)), torch.randn(90, 6)
        logit = wide(*inputs)
        np.testing.assert_allclose(logit.detach(), narrow(*inputs).detach(), atol=1e-5)
        logit.square().sum().backward()
        for name in ("node_mlp.0", "edge_mlp.0", "edge_mlp.3"):
            grad = wide.get_parameter(name + ".weight").grad
            self.assertGreater((grad[:8] - grad[8:]).abs().max(), 1e-3 * grad.abs().max(), name)

    def test_separated(self):
        """Weights of their own for the steps: the same at first, then each learns its own."""
        torch.manual_seed(7)
        shared = networks.Interaction(9, 6, 8, 3)
        own = networks.separated(shared)
        self.assertEqual((networks.size_of(shared), networks.size_of(own)), ((8, 3, False), (8, 3, True)))
        inputs = torch.randn(30, 9), torch.randint(30, (2, 90)), torch.randn(90, 6)
        logit = own(*inputs)
        np.testing.assert_array_equal(logit.detach(), shared(*inputs).detach())
        logit.square().sum().backward()
        shared(*inputs).square().sum().backward()
        for name in ("node_mlp", "edge_mlp"):
            grads = [own.get_parameter(f"{name}.{step}.0.weight").grad for step in range(3)]
            self.assertGreater((grads[0] - grads[1]).abs().max(), 1e-3 * grads[1].abs().max())
            np.testing.assert_allclose(sum(grads), shared.get_parameter(name + ".0.weight").grad, rtol=1e-3, atol=1e-4)

    def test_room(self):
        """What fills a captured step up changes nothing."""
        torch.manual_seed(6)
        net, n, m = networks.Interaction(9, 6, 8, 2), 30, 90
        inputs = (torch.randn(n, 9), torch.randint(n, (2, m)), torch.randn(m, 6), (torch.rand(m) < 0.3).float(),
                  torch.rand(m))
        self.assertEqual(update.rounded(inputs), (update.ROWS, update.EDGES))
        fixed = update.room(inputs, (n + 7, m + 20))
        for _ in range(2):      # over what was there
            update.fill(fixed, inputs)
            self.assertEqual([len(a) for a in fixed], [n + 7, 2, m + 20, m + 20, m + 20])
            np.testing.assert_allclose(train.gnn_loss(net, *fixed).item(), train.gnn_loss(net, *inputs).item(), rtol=1e-5)
            inputs = tuple(a[:, :m - 30] if len(a) == 2 else a[:m - 30] if len(a) == m else a for a in inputs)

    def test_options(self):
        for arguments, words in ((["--steps", "4,4"], "take three numbers"),
                                 (["--seconds", "a,b,c"], "take three numbers"),
                                 (["--steps", "4,4,4", "--finish"], "only one of them"),
                                 (["--events", "3", "--train-on", "4"], "1 to 3")):
            said, command = io.StringIO(), ["train.py", "--data", "d", "--out", "o", *arguments]
            with mock.patch.object(sys, "argv", command), contextlib.redirect_stderr(said):
                with self.assertRaises(SystemExit):
                    train.parse(train.parser_of_options())
            self.assertIn(words, said.getvalue().splitlines()[-1])


class Run(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.data, self.out = folder.name + "/data", folder.name + "/out"
        for at, (kind, number) in enumerate({"collisions": 2, "collisions_wide": 1, "validation": data.VALIDATION,
                                             "muons": 1, "pions": 1, "decays": 1}.items()):
            os.makedirs(f"{self.data}/{kind}")
            for event in range(number):
                write_event(f"{self.data}/{kind}/event{event:09d}.npz.xz", [at, event])
        self.common = ["--data", self.data, "--out", self.out, "--events", "3", *TINY]

    def test_growth(self):
        result = run("growth.py", *self.common, "--numbers", "1,3", "--steps", "3,2,4")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        found = rows(self.out + "/growth.csv")
        for number in ("1", "3"):
            for stage, steps, figures in (("embed", 3, {"efficiency of 3 per point"}),
                                          ("filter", 2, {"efficiency of 2 per point"}),
                                          ("gnn", 4, {"edge_efficiency", "efficiency", "fakes", "impure"})):
                last = {row["figure"] for row in found
                        if (row["events"], row["stage"], row["step"]) == (number, stage, str(steps))}
                self.assertLessEqual({before + name for name in figures | {"loss"} for before in ("", "seen ")}, last)
            self.assertTrue(os.path.exists(f"{self.out}/{number}/standard.safetensors"))
        losses = {row["events"]: row["value"] for row in found if (row["stage"], row["figure"]) == ("embed", "loss")}
        self.assertNotEqual(losses["1"], losses["3"])
        #   What is there stays; a training that is missing is made up for
        os.remove(self.out + "/1/state.pt")
        result = run("growth.py", *self.common, "--numbers", "1,3", "--steps", "3,2,4")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        again = rows(self.out + "/growth.csv")
        self.assertEqual(again[:len(found)], found)
        self.assertEqual({row["events"] for row in again[len(found):]}, {"1"})
        #   The same beginning, the same draws
        loss = lambda table: [float(row["value"]) for row in table if (row["events"], row["stage"], row["figure"]) ==
                              ("1", "embed", "loss")][-1]
        self.assertAlmostEqual(loss(found), loss(again), delta=1e-3 * loss(found))

    def test_train_goes_on(self):
        """More steps than before: the stage goes on where it was."""
        for steps in ("2,1,1", "2,1,3"):
            result = run("train.py", *self.common, "--train-on", "2", "--steps", steps)
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        found = rows(self.out + "/curve.csv")
        self.assertEqual({row["events"] for row in found}, {"2"})
        self.assertEqual([(row["stage"], row["step"]) for row in found if row["figure"] == "loss"],
                         [("embed", "2"), ("filter", "1"), ("gnn", "1"), ("gnn", "3")])

    def test_own(self):
        """From a file whose steps share their weights to one where each has its own, with jets over the events."""
        result = run("train.py", *self.common, "--gnn", "4x3", "--steps", "2,1,2")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        shared, own = self.out + "/standard.safetensors", self.out + "/own"
        more = [*self.common, "--gnn", "4x3", "--own", "--jets", "--warm", shared, "--out", own]
        os.makedirs(self.data + "/jets")
        for event in range(2):
            write_event(f"{self.data}/jets/event{event:09d}.npz.xz", [9, event])
        result = run("train.py", *more, "--steps", "0,0,3")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertIn("which steps no longer share", result.stdout)
        (before, _), (nets, pipeline) = networks.read(shared), networks.read(own + "/standard.safetensors")
        self.assertEqual(networks.size_of(nets["gnn"]), (4, 3, True))
        self.assertEqual(pipeline["gnn"]["edge_mlp"][0]["tensor"], "gnn.edge_mlp.{step}.0")
        first, second = (nets["gnn"].of_step(step)[1][0].weight for step in (0, 1))
        self.assertGreater((first - second).abs().max(), 0)
        np.testing.assert_array_equal(nets["embed"].mlp[0].weight.detach(), before["embed"].mlp[0].weight.detach())
        #   Five events' points in each: a collision, two guns, two of jets
        self.assertIn("3 events to begin with, 1200 points", result.stdout)


if __name__ == "__main__":
    unittest.main()

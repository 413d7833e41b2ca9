# SPDX-License-Identifier: Apache-2.0
"""Public architectures with random weights, saved by torch as a checkpoint, scripted and traced, and
converted: the engine's logits against torch's.  Usage: test_torch_model.py RUN_STAGES SOURCE_ROOT"""

import contextlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest
import warnings

SKIPPED = 77
RUN = pathlib.Path(sys.argv[1]).resolve()
ROOT = pathlib.Path(sys.argv[2]).resolve()
sys.path.insert(0, str(ROOT / "weights" / "convert"))

try:
    import numpy as np
    import torch
except ImportError:
    print(f"skipped: {sys.executable} has no torch (cmake -DTM_TORCH_PYTHON=… names one that has)")
    sys.exit(SKIPPED)

import torch_model  # noqa: E402
import torch_networks as nets  # noqa: E402

N_POINTS, N_EDGES = 150, 900
LIMIT = 1e-4  # of ‖difference‖/‖torch‖
SCALES = {"r": 1000, "phi": 3.14159265, "z": 1000}
EDGE_SCALES = {
    "dr": 1000,
    "dphi": 3.14159265,
    "dz": 1000,
    "deta": 1,
    "phi_slope": 0.01,
    "rphi_slope": 3,
}
EDGE_CLAMP = 10  # of every edge feature
AROUND = {
    "name": "converted",
    "version": "1",
    "features": [{"name": name, "scale": scale} for name, scale in SCALES.items()],
    "embed": {"architecture": "identity"},
    "radius": {"r": 0.1, "direction": "outward"},
    "tracks": {"cut": 0.5, "builder": "components", "min_points": 3},
}
EDGE_FEATURES = [{"name": n, "scale": s, "clamp": EDGE_CLAMP} for n, s in EDGE_SCALES.items()]


def make_event(seed):
    """x, y, z [n] in mm, and edges [2, E], sorted, none twice."""
    random = np.random.default_rng(seed)
    xyz = (random.normal(size=(3, N_POINTS)) * [[300], [300], [800]]).astype(np.float32)
    pairs = random.choice(N_POINTS * N_POINTS, N_EDGES, replace=False)
    pairs = np.sort(pairs[pairs // N_POINTS != pairs % N_POINTS])
    return xyz, np.stack([pairs // N_POINTS, pairs % N_POINTS])


def features_of(xyz, edges):
    """Node features [n, 3] and edge features [E, 6], as docs/model-file.md says, in double precision."""
    x, y, z = xyz.astype(np.float64)
    r, phi = np.hypot(x, y), np.arctan2(y, x)
    eta = np.arcsinh(z / np.maximum(r, 1e-3))
    a, b = edges
    dr, dphi, dz, deta = r[b] - r[a], phi[b] - phi[a], z[b] - z[a], eta[b] - eta[a]
    dphi = np.where(
        dphi > np.pi, dphi - 2 * np.pi, np.where(dphi <= -np.pi, dphi + 2 * np.pi, dphi)
    )
    slope = dphi / dr
    values = {
        "dr": dr,
        "dphi": dphi,
        "dz": dz,
        "deta": deta,
        "phi_slope": slope,
        "rphi_slope": slope * (r[a] + r[b]) / 2,
    }
    nodes = np.stack(
        [{"r": r, "phi": phi, "z": z}[name] / scale for name, scale in SCALES.items()], -1
    )
    along = [
        np.clip(values[name] / scale, -EDGE_CLAMP, EDGE_CLAMP)
        for name, scale in EDGE_SCALES.items()
    ]
    return torch.from_numpy(nodes), torch.from_numpy(np.stack(along, -1))


def randomise(module, seed):
    """Weights, norms and statistics that are none of torch's beginnings."""
    torch.manual_seed(seed)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.dtype.is_floating_point:
            with torch.no_grad():
                if name.endswith("running_var"):
                    tensor.uniform_(0.01, 0.2)  # so small that eps is seen
                elif tensor.ndim == 1:
                    tensor.add_(0.2 * torch.randn_like(tensor))
                else:
                    tensor.mul_(1.5)
    return module.eval()


class Compare(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(1)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.out = self.folder / "out.safetensors"
        warnings.simplefilter("ignore")  # tracing warns of every len()

    def save(self, module, kind, hyper, inputs):
        path = self.folder / ("model.ckpt" if kind == "checkpoint" else "model.pt")
        if kind == "checkpoint":
            torch.save(
                {"state_dict": module.state_dict(), "hyper_parameters": hyper, "epoch": 1}, path
            )
        else:
            made = torch.jit.script(module) if kind == "script" else torch.jit.trace(module, inputs)
            made.save(str(path))
        return path.name

    def convert(self, **stages):
        """What the converter complains of; nothing when it wrote the model."""
        path = self.folder / "description.json"
        path.write_text(json.dumps({**AROUND, **stages}))
        err = io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            torch_model.main([str(path), str(self.out)])
        return err.getvalue()

    def check(
        self,
        stage,
        module,
        said,
        hyper=None,
        edge_features=False,
        kinds=("checkpoint", "script", "trace"),
    ):
        """said: keys of the stage; those under "checkpoint" or "trace" are for that kind of file alone."""
        randomise(module, 3)
        xyz, edges = make_event(5)
        nodes, along = features_of(xyz, edges)
        for name, values in zip("xyz", xyz):
            np.save(self.folder / f"{name}.npy", values)
        np.save(self.folder / "edges.npy", edges.astype(np.int64))
        inputs = (nodes,) if stage == "embed" else (nodes, torch.from_numpy(edges))
        inputs += (along,) if edge_features else ()
        single = tuple(t.float() if t.is_floating_point() else t for t in inputs)
        for kind in kinds:
            with self.subTest(kind=kind):
                file = self.save(module.float(), kind, hyper or {}, single)
                plain = {k: v for k, v in said.items() if k not in ("checkpoint", "trace")}
                described = {"file": file, **plain, **said.get(kind, {})}
                around = {"edge_features": EDGE_FEATURES} if edge_features else {}
                if stage == "embed":  # a model needs a filter or a gnn as well
                    around["filter"] = self.any_filter()
                self.assertEqual(self.convert(**{**around, stage: described}), "")
                subprocess.run([RUN, self.out, self.folder], check=True)
                with torch.no_grad():
                    exact = module.double()(*inputs).numpy()
                for stages in ("cpu", "ref"):
                    what = "embedding" if stage == "embed" else stage
                    got = np.fromfile(self.folder / f"{what}.{stages}", np.float32).reshape(
                        exact.shape
                    )
                    self.assertGreater(np.std(exact), 1e-3)
                    difference = np.linalg.norm(got - exact) / np.linalg.norm(exact)
                    print(f"{self.id().rpartition('.')[2]}, {kind}, {stages}: {difference:.2g}")
                    self.assertLess(difference, LIMIT)

    def any_filter(self):
        torch.save(nets.make_mlp([6, 1], "").state_dict(), self.folder / "filter.pt")
        return {"architecture": "mlp", "file": "filter.pt", "cut": 0}

    # ---- embeddings ----

    def embedding(self, widths, act, norm, normalize, kinds=("checkpoint", "script", "trace")):
        module = nets.MetricLearning(nets.make_mlp([3, *widths], act, norm), normalize)
        said = {"architecture": "mlp", "normalize": normalize}
        norms = {"": None, "layer": "layer_norm", "bare": "layer_norm", "batch": "batch_norm"}
        said["checkpoint"] = {
            "norm": norms[norm],
            **({"norm_eps": 6e-5} if norm == "batch" else {}),
        }
        self.check("embed", module, said, {"activation": act}, kinds=kinds)

    def test_embedding_tanh(self):
        self.embedding([512] * 4 + [8], "Tanh", "", False)

    def test_embedding_relu_norm(self):
        self.embedding([512] * 4 + [8], "ReLU", "layer", True, kinds=("checkpoint",))

    def test_embedding_silu_wide(self):
        self.embedding([1024] * 6 + [12], "SiLU", "bare", True, kinds=("checkpoint", "script"))

    def test_embedding_batch_norm(self):
        self.embedding([64, 64, 14], "GELU", "batch", False)

    def test_embedding_layerless(self):
        said = {
            "architecture": "layerless_embedding",
            "normalize": False,
            "checkpoint": {"activation": "tanh"},
        }
        self.check("embed", nets.LayerlessEmbedding(3, 64, 3, 8), said)

    # ---- filters ----

    def test_vanilla_filter(self):
        said = {
            "architecture": "vanilla_filter",
            "cut": 0,
            "norm": "layer_norm",
            "checkpoint": {"activation": "tanh"},
        }
        self.check("filter", nets.VanillaFilter(3, 64, 3), said)

    def test_vanilla_filter_hyper(self):
        said = {"architecture": "vanilla_filter", "cut": 0}
        hyper = {"layernorm": True, "batchnorm": False, "hidden_activation": "Tanh"}
        self.check("filter", nets.VanillaFilter(3, 64, 3), said, hyper, kinds=("checkpoint",))

    def test_filter(self):
        hyper = {"layernorm": True, "batchnorm": False, "hidden_activation": "SiLU"}
        self.check(
            "filter",
            nets.Filter(nets.make_mlp([6, 64, 32, 16, 1], "SiLU", "bare")),
            {"architecture": "mlp", "cut": 0},
            hyper,
        )

    def test_filter_dropout(self):
        hyper = {"layernorm": False, "hidden_activation": "ReLU"}
        self.check(
            "filter",
            nets.Filter(nets.make_mlp([6, 64, 32, 1], "ReLU", dropout=True)),
            {"architecture": "mlp", "cut": 0},
            hyper,
        )

    # ---- graph networks ----

    def test_resagnn(self):
        hyper = {"layernorm": True, "hidden_activation": "ReLU", "n_graph_iters": 4}
        self.check(
            "gnn",
            nets.ResAGNN(3, 16, 4, "layer", False),
            {"architecture": "resagnn", "trace": {"steps": 4}},
            hyper,
        )

    def test_resagnn_h_first(self):
        said = {
            "architecture": "resagnn",
            "node_inputs": ["h", "m"],
            "steps": 3,
            "checkpoint": {"activation": "relu", "norm": None},
        }
        self.check("gnn", nets.ResAGNN(3, 16, 3, "", True), said)

    def test_interaction_gnn(self):
        for aggregation in ("sum_max", "mean_max", "mean_sum", "sum", "max", "mean"):
            hyper = {
                "layernorm": True,
                "hidden_activation": "ReLU",
                "output_activation": None,
                "n_graph_iters": 8,
                "aggregation": aggregation,
            }
            said = {
                "architecture": "interaction_gnn",
                "trace": {"steps": 8, "aggregation": aggregation},
            }
            kinds = (
                ("checkpoint", "script", "trace") if aggregation == "sum_max" else ("checkpoint",)
            )
            self.check(
                "gnn", nets.InteractionGNN(3, 32, 8, "layer", aggregation), said, hyper, kinds=kinds
            )

    def recurrent(
        self, hidden, steps, act, norm, end, end_norm, concat, apart, edge_features, **more
    ):
        module = nets.RecurrentInteractionGNN2(
            3,
            len(EDGE_SCALES) if edge_features else 0,
            hidden,
            steps,
            act,
            norm,
            end,
            end_norm,
            concat,
            apart,
        )
        hyper = {
            "layernorm": norm in ("bare", "layer"),
            "batchnorm": norm == "batch",
            "hidden_activation": act,
            "output_activation": end or None,
            "edge_output_transform_final_activation": None,
            "n_graph_iters": steps,
            "concat": concat,
            "in_out_diff_agg": apart,
        }
        said = {
            "architecture": "recurrent_interaction_gnn2",
            "trace": {"steps": steps},
            "checkpoint": {"norm_eps": 6e-5} if norm == "batch" else {},
            **more,
        }
        self.check("gnn", module, said, hyper, edge_features)

    def test_recurrent_concat(self):
        self.recurrent(32, 8, "SiLU", "batch", "SiLU", "batch", True, True, True)

    def test_recurrent_one_sum(self):
        self.recurrent(32, 4, "ReLU", "bare", "Tanh", "", True, False, False)

    def test_recurrent_plain(self):
        self.recurrent(32, 3, "SiLU", "bare", "SiLU", "", False, True, True)

    def test_recurrent_plain_one_sum(self):
        self.recurrent(
            32, 3, "SiLU", "bare", "", "", False, False, False, architecture="interaction_gnn2"
        )

    # ---- what a file of torch itself is refused for ----

    def test_refused(self):
        x = torch.zeros(4, 3)
        batch = nets.MetricLearning(
            torch.nn.Sequential(
                torch.nn.Linear(3, 4),
                torch.nn.BatchNorm1d(4, track_running_stats=False),
                torch.nn.ReLU(),
                torch.nn.Linear(4, 2),
            ),
            False,
        )
        elu = nets.MetricLearning(nets.make_mlp([3, 4, 2], "ELU"), False)
        gelu = nets.MetricLearning(
            torch.nn.Sequential(
                torch.nn.Linear(3, 4), torch.nn.GELU(approximate="tanh"), torch.nn.Linear(4, 2)
            ),
            False,
        )
        silu = nets.MetricLearning(nets.make_mlp([3, 4, 2], "SiLU"), False)
        for module, words in (
            (batch, "without running statistics"),
            (elu, "network.1 is a ELU"),
            (gelu, "network.1 is a GELU"),
            (silu, 'network.1 is a silu, but "activation" says tanh'),
        ):
            for kind in ("script", "trace"):
                file = self.save(module.eval(), kind, {}, (x,))
                said = {"architecture": "mlp", "file": file, "normalize": False}
                said |= {"activation": "tanh"} if module is silu else {}
                self.assertIn(words, self.convert(embed=said))
        frozen = torch.jit.freeze(torch.jit.script(silu.eval()))
        frozen.save(str(self.folder / "frozen.pt"))
        said = {"architecture": "mlp", "file": "frozen.pt", "normalize": False}
        self.assertIn("frozen TorchScript", self.convert(embed=said))
        torch.save(silu.state_dict(), self.folder / "old.pt", _use_new_zipfile_serialization=False)
        self.assertIn("torch before 1.6", self.convert(embed={**said, "file": "old.pt"}))
        torch.save(silu, self.folder / "whole.pt")
        self.assertIn("was a whole module saved?", self.convert(embed={**said, "file": "whole.pt"}))


if __name__ == "__main__":
    torch.set_num_threads(2)
    unittest.main(argv=sys.argv[:1])

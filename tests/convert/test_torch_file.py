# SPDX-License-Identifier: Apache-2.0
"""Files of torch, read and converted without torch.  Usage: test_torch_file.py RUN_STAGES SOURCE_ROOT"""

import collections
import contextlib
import io
import json
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import unittest
import zipfile

SKIPPED = 77
RUN = pathlib.Path(sys.argv[1]).resolve()
ROOT = pathlib.Path(sys.argv[2]).resolve()
sys.path.insert(0, str(ROOT / "weights" / "convert"))

try:
    import numpy as np
except ImportError:
    print("skipped: Python has no numpy")
    sys.exit(SKIPPED)

import safetensors_io  # noqa: E402
import torch_file  # noqa: E402
import torch_model  # noqa: E402
from torch_writer import Module, Storage, Tensor, Writer, write_checkpoint  # noqa: E402

HIDDEN = 4
AROUND = {
    "name": "converted",
    "version": "1",
    "features": [
        {"name": "r", "scale": 1000},
        {"name": "phi", "scale": 3.14159265},
        {"name": "z", "scale": 1000},
    ],
    "radius": {"r": 0.1, "direction": "outward"},
    "tracks": {"cut": 0.5, "builder": "components", "min_points": 3},
}
IDENTITY = {"architecture": "identity"}


def linear(name, width_in, width_out, seed=1):
    random = np.random.default_rng([seed, *name.encode()])
    return {
        f"{name}.weight": random.normal(size=(width_out, width_in)).astype(np.float32),
        f"{name}.bias": random.normal(size=width_out).astype(np.float32),
    }


def norm(name, width, statistics=False):
    ones = np.ones(width, np.float32)
    parts = ("weight", "bias", *(("running_mean", "running_var") if statistics else ()))
    return {f"{name}.{part}": ones for part in parts}


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.path = self.folder / "model.ckpt"
        self.out = self.folder / "out.safetensors"

    def convert(self, **stages):
        """The converter's own words, from the command line's entry; empty when it succeeds."""
        description = self.folder / "description.json"
        description.write_text(json.dumps({**AROUND, "embed": IDENTITY, **stages}))
        self.out.unlink(missing_ok=True)
        err = io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            code = torch_model.main([str(description), str(self.out)])
        self.assertEqual(code, 1 if err.getvalue() else 0)
        self.assertEqual(self.out.exists(), code == 0)
        self.assertLessEqual(err.getvalue().count("\n"), 1)
        return err.getvalue()

    def refused(self, words, **stages):
        self.assertIn(words, self.convert(**stages))

    def embed(self, tensors, hyper=None, **said):
        """Converts these tensors as an embedding."""
        write_checkpoint(self.path, tensors, hyper)
        stage = {"architecture": "mlp", "file": self.path.name, "normalize": True, **said}
        return self.convert(embed={k: v for k, v in stage.items() if v != "absent"})


class Read(Case):
    def test_checkpoint(self):
        tensors = {
            "a.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
            "b": np.array([1.5, -2], np.float64),
            "h": np.array([0.5], np.float16),
            "n": np.array(7, np.int64),
            "none": np.zeros((0, 3), np.float32),
        }
        write_checkpoint(self.path, tensors, {"hidden": 64, "layernorm": True})
        file = torch_file.read(self.path)
        self.assertEqual(file.hyper, {"hidden": 64, "layernorm": True})
        self.assertIsNone(file.layers)
        self.assertEqual(list(file.tensors), list(tensors))
        for name, array in tensors.items():
            np.testing.assert_array_equal(file.tensors[name], array)
            self.assertEqual(file.tensors[name].dtype, array.dtype)

    def test_views(self):
        """A transposed tensor, and two that share a storage."""
        writer = Writer()
        storage = writer.storage(np.arange(12, dtype=np.float32))
        writer.write(
            self.path,
            {"t": Tensor(storage, 0, (3, 2), (1, 3)), "rest": Tensor(storage, 6, (6,), (1,))},
        )
        file = torch_file.read(self.path)
        np.testing.assert_array_equal(file.tensors["t"], [[0, 3], [1, 4], [2, 5]])
        np.testing.assert_array_equal(file.tensors["rest"], np.arange(6, 12))

    def test_script(self):
        """Layers by their classes, whatever they were mangled to; attributes; constants of the code."""
        norm_module = "torch.nn.modules.normalization.___torch_mangle_1.LayerNorm"
        net = Module(
            "torch.nn.modules.container.Sequential",
            training=False,
            **{"0": Module(norm_module, weight=np.ones(3, np.float32), bias=None)},
        )
        writer = Writer("model")
        root = writer.script(Module("acorn.Model", training=False, n_graph_iters=8, net=net))
        code = {
            "__torch__/torch/nn/modules/normalization/___torch_mangle_1.py": "class Other(Module):\n"
            "  eps : Final[float] = 0.5\n"
            "class LayerNorm(Module):\n  eps : Final[float] = 6.0000000000000002e-05\n"
        }
        writer.write(self.path, root, code)
        file = torch_file.read(self.path)
        self.assertEqual(file.hyper["n_graph_iters"], 8)
        self.assertEqual(list(file.tensors), ["net.0.weight"])
        self.assertEqual(
            {name: layer.kind for name, layer in file.layers.items()},
            {"": "Model", "net": "Sequential", "net.0": "LayerNorm"},
        )
        self.assertEqual(file.layers["net.0"].constants, {"eps": 6e-5})

    def test_runs_no_code(self):
        """Pickles that call, import or set something: nothing happens, the rest is read."""
        mark = self.folder / "mark"

        class Call:
            def __init__(self, function, *arguments):
                self.made = (function, arguments)

            def __reduce__(self):
                return self.made

        for evil in (
            Call(os.system, f"touch {mark}"),
            Call(exec, f"open({str(mark)!r}, 'w')"),
            Call(open, str(mark), "w"),
            Call(subprocess.check_call, ["touch", str(mark)]),
        ):
            writer = Writer()
            content = {
                "state_dict": {"w": writer.tensor(np.ones(2, np.float32))},
                "callbacks": evil,
            }
            writer.write(self.path, content)
            self.assertEqual(list(torch_file.read(self.path).tensors), ["w"])
            self.assertFalse(mark.exists())
        # protocol 4 can name an attribute of an attribute
        data = b"\x80\x04\x8c\x02os\x8c\x0bpath.exists\x93\x8c\x01/\x85R."
        Writer().write(self.path, data)
        with self.assertRaisesRegex(ValueError, "neither a state dict"):
            torch_file.read(self.path)

    def test_objects_of_lightning(self):
        """What a checkpoint holds besides is passed over."""
        writer = Writer()
        content = {
            "state_dict": {"w": writer.tensor(np.ones(2, np.float32))},
            "path": pathlib.PurePosixPath("/x"),
            "counter": collections.Counter(a=2),
            "scalar": np.float64(2.5),
            "set": {1, 2},
        }
        writer.write(self.path, content)
        self.assertEqual(list(torch_file.read(self.path).tensors), ["w"])

    def test_broken_files(self):
        write_checkpoint(self.path, {"w": np.ones((3, 4), np.float32)})
        good = self.path.read_bytes()

        def reads(data):
            self.path.write_bytes(data)
            with self.assertRaisesRegex(ValueError, "model.ckpt: "):
                torch_file.read(self.path)

        reads(b"")
        reads(b"\x80\x02}q\x00.")  # as before torch 1.6
        for cut in range(4, len(good), 97):
            reads(good[:cut])
        with self.assertRaises(OSError):
            torch_file.read(self.folder / "none.ckpt")
        with zipfile.ZipFile(self.path, "w") as archive:
            archive.writestr("word/document.xml", "x")
        reads(self.path.read_bytes())
        for data in (
            b"",
            b"\x80\x02",
            b"N.",
            b"}.",
            b"(((((",
            pickle.dumps(["list"]),
            b"\x80\x02" + b"(" * 10**5,
            b"\x80\x02Nr\xff\xff\xff\xef.",  # a memo of 64 GB
            b"\x80\x05\x96" + b"\xff" * 7 + b"\x0f.",  # an array of 2^60 bytes
            b"\x80\x02" + b"]q\x00h\x00a" * 3 + b".",
        ):
            Writer().write(self.path, data)
            reads(self.path.read_bytes())

    def test_tensors_that_reach_out(self):
        for offset, shape, strides in (
            (0, (5,), (1,)),
            (2, (3,), (1,)),
            (0, (2, 2), (2, 2)),
            (-1, (2,), (1,)),
            (0, (-1,), (1,)),
            (0, (2,), (-1,)),
            (0, (2, 2), (1,)),
            (0, (10**9,), (0,)),
            (0, ("2",), (1,)),
            (0, (2.0,), (1,)),
        ):
            writer = Writer()
            storage = writer.storage(np.ones(4, np.float32))
            writer.write(self.path, {"w": Tensor(storage, offset, shape, strides)})
            with self.assertRaisesRegex(ValueError, "model.ckpt: a tensor"):
                torch_file.read(self.path)
        writer = Writer()
        writer.write(self.path, {"w": Tensor(Storage("7", "FloatStorage", 4), 0, (4,), (1,))})
        with self.assertRaisesRegex(ValueError, "no archive/data/7 in it"):
            torch_file.read(self.path)

    def test_compressed_storage(self):
        """As a bomb would be: torch stores its arrays as they are."""
        write_checkpoint(self.path, {"w": np.ones(4, np.float32)})
        with zipfile.ZipFile(self.path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(self.path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in entries.items():
                archive.writestr(name, data)
        with self.assertRaisesRegex(ValueError, "compressed"):
            torch_file.read(self.path)

    def test_modules_without_end(self):
        """2^60 modules made of 60, and one that holds itself."""
        writer = Writer()
        inner = writer.script(Module("M", w=np.ones(1, np.float32)))
        for _ in range(60):
            outer = writer.script(Module("M"))
            outer.__dict__.update(a=inner, b=inner)
            inner = outer
        writer.write(self.path, inner)
        with self.assertRaisesRegex(ValueError, "more than 4096 modules"):
            torch_file.read(self.path)
        round_ = writer.script(Module("M"))
        round_.__dict__["inner"] = round_
        writer.write(self.path, round_)
        with self.assertRaisesRegex(ValueError, "holds itself"):
            torch_file.read(self.path)


class Refuse(Case):
    """What cannot be known or said is refused, with a line that says how to mend it."""

    plain = {**linear("network.0", 3, HIDDEN), **linear("network.2", HIDDEN, 2)}
    bare_norm = {**linear("network.0", 3, HIDDEN), **linear("network.3", HIDDEN, 2)}
    normed = {**bare_norm, **norm("network.1", HIDDEN)}

    def test_activation(self):
        self.assertIn(
            '"activation" cannot be known from the weights: say it under "embed"',
            self.embed(self.plain),
        )
        self.assertEqual(self.embed(self.plain, activation="tanh"), "")
        self.assertEqual(self.embed(self.plain, {"activation": "Tanh"}), "")
        _, pipeline = safetensors_io.read(self.out)
        self.assertEqual(
            [op["op"] for op in pipeline["embed"]["mlp"]], ["linear", "tanh", "linear"]
        )
        self.assertIn(
            "activation 'elu': the model file has relu",
            self.embed(self.plain, {"activation": "ELU"}),
        )
        self.assertIn(
            'say "normalize"', self.embed(self.plain, activation="tanh", normalize="absent")
        )

    def test_norms(self):
        say = "may be a layer norm, or a batch norm without running statistics"
        self.assertIn(say, self.embed(self.normed, activation="relu"))
        self.assertIn('say whether "norm"', self.embed(self.bare_norm, activation="relu"))
        self.assertEqual(self.embed(self.normed, activation="relu", norm="layer_norm"), "")
        self.assertEqual(self.embed(self.bare_norm, {"layernorm": True}, activation="relu"), "")
        tensors, pipeline = safetensors_io.read(self.out)
        np.testing.assert_array_equal(tensors["embed.network.1.weight"], np.ones(HIDDEN))
        np.testing.assert_array_equal(tensors["embed.network.1.bias"], np.zeros(HIDDEN))
        # the same places as linear, activation, dropout
        self.assertEqual(self.embed(self.bare_norm, activation="relu", norm=None), "")
        _, pipeline = safetensors_io.read(self.out)
        self.assertEqual(
            [op["op"] for op in pipeline["embed"]["mlp"]], ["linear", "relu", "linear"]
        )
        self.assertIn(
            "no place for an activation",
            self.embed(self.plain, activation="relu", norm="layer_norm"),
        )
        self.assertIn(
            '"norm" is said to be null', self.embed(self.normed, activation="relu", norm=None)
        )

    def test_batch_norm(self):
        text = self.embed(self.normed, {"batchnorm": True, "layernorm": False}, activation="relu")
        self.assertIn("batch normalisation without running statistics", text)
        counted = {
            **self.bare_norm,
            **norm("network.1", HIDDEN, True),
            "network.1.num_batches_tracked": np.array(3),
        }
        self.assertIn('say "norm_eps"', self.embed(counted, activation="relu"))
        self.assertEqual(self.embed(counted, activation="relu", norm_eps=6e-5), "")
        _, pipeline = safetensors_io.read(self.out)
        self.assertEqual(
            pipeline["embed"]["mlp"][1],
            {"op": "batch_norm", "tensor": "embed.network.1", "eps": 6e-5},
        )

    def test_shapes(self):
        wrong = {**self.plain, **linear("network.2", HIDDEN + 1, 2)}
        self.assertIn(
            "network.2.weight [2, 5] does not fit: 4 values come in",
            self.embed(wrong, activation="relu"),
        )
        wide = {**linear("network.0", 5, HIDDEN), **linear("network.2", HIDDEN, 2)}
        self.assertIn(
            "takes 5 features, but the description has 3", self.embed(wide, activation="relu")
        )
        lost = {**self.plain, "network.2.bias": np.ones(3, np.float32)}
        self.assertIn("network.2.bias [3] does not fit", self.embed(lost, activation="relu"))
        whole = {**self.plain, "network.0.weight": np.ones((4, 3), np.int64)}
        self.assertIn("network.0.weight is int64", self.embed(whole, activation="relu"))
        cube = {**self.plain, "network.0.weight": np.ones((4, 3, 1), np.float32)}
        self.assertIn(
            "network.0 is neither a Linear nor a norm", self.embed(cube, activation="relu")
        )

    def test_unknown_layers(self):
        more = {**self.plain, "attention.q": np.ones(3, np.float32)}
        self.assertIn("unknown layer: tensor attention.q [3]", self.embed(more, activation="relu"))
        self.assertEqual(self.embed(more, activation="relu", ignore=["attention."]), "")
        two = {**self.plain, **linear("net.0", 3, 2)}
        self.assertIn('say "mlp": one of net, network', self.embed(two, activation="relu"))
        self.assertEqual(self.embed(two, activation="relu", mlp="network", ignore=["net."]), "")
        inner = {f"model.{name}": tensor for name, tensor in self.plain.items()}
        self.assertEqual(self.embed(inner, activation="relu", prefix="model."), "")
        self.assertIn(
            "no tensor begins with the prefix", self.embed(inner, activation="relu", prefix="x.")
        )

    def test_descriptions(self):
        self.refused(
            "architecture 'transformer' is not known: say one of mlp",
            embed={"architecture": "transformer"},
        )
        self.refused('say "file"', embed={"architecture": "mlp"})
        self.refused("key 'steps' is not known", embed={"architecture": "mlp", "steps": 3})
        self.refused("embed.file: a string", embed={"architecture": "mlp", "file": 3})
        self.refused("filter: is no JSON object", filter=3)
        self.refused("key 'colour' is not known", colour=3)
        self.refused("No such file", embed={"architecture": "mlp", "file": "lost"})
        for name in torch_model.REFUSED:
            self.refused(
                f"architecture {name} cannot be converted", gnn={"architecture": name, "file": "x"}
            )
        self.path.write_text("not a zip")
        self.refused("no zip file", embed={"architecture": "mlp", "file": self.path.name})

    def interaction(self, parts):
        tensors = {}
        for name, width_in, width_out in (
            ("node_encoder", 3, HIDDEN),
            ("edge_encoder", 2 * HIDDEN, HIDDEN),
            ("node_network", (1 + parts) * HIDDEN, HIDDEN),
            ("edge_network", 3 * HIDDEN, HIDDEN),
            ("output_edge_classifier", 3 * HIDDEN, 1),
        ):
            tensors |= {
                **linear(f"{name}.0", width_in, HIDDEN),
                **linear(f"{name}.2", HIDDEN, width_out),
            }
        return tensors

    def gnn(self, tensors, hyper=None, **said):
        write_checkpoint(
            self.path,
            tensors,
            {
                "hidden_activation": "ReLU",
                "layernorm": False,
                "output_activation": None,
                "n_graph_iters": 3,
                **(hyper or {}),
            },
        )
        stage = {"architecture": "interaction_gnn", "file": self.path.name, **said}
        return self.convert(gnn=stage)

    def test_gnn(self):
        two = self.interaction(2)
        self.assertEqual(self.gnn(two, {"aggregation": "sum_max"}), "")
        self.assertIn('"aggregation" cannot be known', self.gnn(two))
        for what in ("std", ["sum", "std"], "sum_mean_max"):
            self.assertIn("aggregation", self.gnn(two, {"aggregation": what}))
            self.assertIn("cannot be said", self.gnn(two, {"aggregation": what}))
        self.assertIn("aggregates at both ends", self.gnn(two, {"aggregation": "sum"}))
        three = self.interaction(3)
        self.assertIn(
            "node_network takes 16 values, but 12", self.gnn(three, {"aggregation": "sum_max"})
        )
        self.assertIn("undirected", self.gnn(two, {"aggregation": "sum_max", "undirected": True}))
        self.assertIn("steps 'many'", self.gnn(two, {"aggregation": "sum_max"}, steps="many"))
        stepped = {**two, **linear("node_network.0.0", 8, 4)}
        self.assertIn("a network for every step", self.gnn(stepped, {"aggregation": "sum_max"}))
        lost = {name: tensor for name, tensor in two.items() if not name.startswith("edge_network")}
        self.assertIn("no layers under 'edge_network'", self.gnn(lost, {"aggregation": "sum_max"}))


class Golden(Case):
    def test_resagnn(self):
        """The public ResAGNN, written as a checkpoint: its logits are those that were published."""
        shared = pathlib.Path(os.environ.get("TM_SHARED", ROOT.parent / "shared"))
        case = shared / "golden" / "B_gnn_hsf"
        if not case.is_dir():
            self.skipTest("no golden data")
        tensors = {
            p.name[: -len(".npy")]: np.load(p) for p in sorted((case / "weights").glob("*.npy"))
        }
        write_checkpoint(
            self.path, tensors, {"hidden_activation": "ReLU", "layernorm": True, "n_graph_iters": 8}
        )
        columns = [{"name": f"f{i}", "scale": 1} for i in range(3)]
        self.assertEqual(
            self.convert(features=columns, gnn={"architecture": "resagnn", "file": self.path.name}),
            "",
        )
        x, edges = np.load(case / "x.npy"), np.load(case / "edges.npy")
        order = np.lexsort((edges[1], edges[0]))
        np.save(self.folder / "edges.npy", np.ascontiguousarray(edges[:, order].astype(np.int64)))
        for i in range(3):
            np.save(self.folder / f"f{i}.npy", np.ascontiguousarray(x[:, i]))
        for name in "xyz":
            np.save(self.folder / f"{name}.npy", np.zeros(len(x), np.float32))
        subprocess.run([RUN, self.out, self.folder], check=True)
        for stages in ("cpu", "ref"):
            got = np.fromfile(self.folder / f"gnn.{stages}", np.float32)
            for name in ("logits_stored", "logits_torch113_f32", "logits_numpy_f64"):
                self.assertLess(
                    np.abs(got - np.load(case / f"{name}.npy").ravel()[order]).max(), 1e-3
                )
            exact = np.load(case / "logits_numpy_f64.npy").ravel()[order]
            difference = np.linalg.norm(got - exact) / np.linalg.norm(exact)
            print(f"golden ResAGNN, {stages}: relative difference {difference:.2g}")
            self.assertLess(difference, 1e-5)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

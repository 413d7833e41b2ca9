# SPDX-License-Identifier: Apache-2.0
"""weights/convert writes what the loader reads.  Usage: test_convert.py DESCRIBE_MODEL SOURCE_ROOT"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SKIPPED = 77
DESCRIBE = pathlib.Path(sys.argv[1]).resolve()
ROOT = pathlib.Path(sys.argv[2]).resolve()
CONVERT = ROOT / "weights" / "convert"
sys.dont_write_bytecode = True
sys.path.insert(0, str(CONVERT))

try:
    import numpy as np
except ImportError:
    print("skipped: Python has no numpy")
    sys.exit(SKIPPED)

import npy_folder  # noqa: E402
import safetensors_io  # noqa: E402

PIPELINE = {
    "format": 1, "name": "converted", "version": "1", "description": "µ",
    "features": [{"name": "r", "scale": 1000}, {"name": "z", "scale": 1000}],
    "embed": {"mlp": [{"op": "linear", "tensor": "embed"}], "normalize": False},
    "radius": {"r": 0.5, "direction": "outward"},
    "filter": {"inputs": ["x_src", "x_dst"], "cut": 0.5,
               "mlp": [{"op": "linear", "tensor": "filter", "bias": False}]},
    "tracks": {"cut": 0.5, "builder": "components", "min_points": 3},
}


def tensors(dtype=np.float32):
    return {"filter.weight": np.full((1, 4), 0.5, dtype),
            "embed.weight": np.arange(6, dtype=dtype).reshape(3, 2) / 4,
            "embed.bias": np.zeros(3, dtype)}


def describe(path):
    return subprocess.run([DESCRIBE, path], capture_output=True, text=True, check=False)


class Convert(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.out = self.folder / "out.safetensors"

    def check(self, name, parameters, weighted_sum):
        result = describe(self.out)
        self.assertEqual(result.returncode, 0, result.stderr)
        digest = hashlib.sha256(self.out.read_bytes()).hexdigest()
        self.assertEqual(result.stdout.split(), [name, "1", str(parameters), weighted_sum, digest])

    def test_every_type(self):
        expected = format(sum((i + 1) * i / 4 for i in range(6)), ".9g")
        for dtype in (np.float16, np.float32, np.float64):
            safetensors_io.write(self.out, tensors(dtype), PIPELINE)
            self.check("converted", 4 + 6 + 3, expected)

    def test_views_and_byte_order(self):
        """A transposed view and big-endian values become what they stand for."""
        view = tensors()
        view["embed.weight"] = np.ascontiguousarray(view["embed.weight"].T).T
        swapped = {name: array.astype(">f4") for name, array in tensors().items()}
        self.assertEqual(safetensors_io.to_bytes(view, PIPELINE),
                         safetensors_io.to_bytes(tensors(), PIPELINE))
        self.assertEqual(safetensors_io.to_bytes(swapped, PIPELINE),
                         safetensors_io.to_bytes(tensors(), PIPELINE))

    def test_numbers_of_numpy(self):
        """Those of a training script that computed its cuts."""
        filter_ = {**PIPELINE["filter"], "cut": np.float32(0.5)}
        radius = {**PIPELINE["radius"], "k": np.int64(0)}
        self.assertEqual(safetensors_io.to_bytes(tensors(), {**PIPELINE, "filter": filter_}),
                         safetensors_io.to_bytes(tensors(), PIPELINE))
        safetensors_io.write(self.out, tensors(), {**PIPELINE, "radius": radius})
        self.assertEqual(describe(self.out).returncode, 0)
        with self.assertRaises(TypeError):
            safetensors_io.to_bytes(tensors(), {**PIPELINE, "name": {1, 2}})

    def test_read_back(self):
        safetensors_io.write(self.out, tensors(), PIPELINE)
        read, pipeline = safetensors_io.read(self.out)
        self.assertEqual(pipeline, PIPELINE)
        self.assertEqual(sorted(read), sorted(tensors()))
        for name, array in tensors().items():
            np.testing.assert_array_equal(read[name], array)
        again = safetensors_io.to_bytes(dict(reversed(read.items())), pipeline)
        self.assertEqual(again, self.out.read_bytes())

    def test_reader_refuses(self):
        good = safetensors_io.to_bytes(tensors(), PIPELINE)
        for bad in (good[:7], good[:50], good[:-1], good + b"\0",
                    good.replace(b'"F32"', b'"I32"', 1),
                    good.replace(b'"filter.weight"', b'"embed.weight"' + b" ", 1)):
            with self.assertRaises(ValueError):
                safetensors_io.from_bytes(bad)

    def test_writer_refuses(self):
        for name, array in (("a", np.array([1, 2])), ("a", np.array([np.nan], np.float32)),
                            ("a", np.zeros((0, 3), np.float32)), ("a", np.float32(1)),
                            ("", np.ones(1)), ("__metadata__", np.ones(1))):
            with self.assertRaises(ValueError):
                safetensors_io.write(self.out, {**tensors(), name: array}, PIPELINE)
            self.assertEqual(list(self.folder.iterdir()), [])
        with self.assertRaises(ValueError):
            safetensors_io.write(self.out, tensors(), {**PIPELINE, "format": float("nan")})

    def write_folder(self, name, arrays, manifest=False):
        folder = self.folder / name
        folder.mkdir()
        for key, array in arrays.items():
            np.save(folder / f"{key}.npy", array)
        if manifest:
            entries = [[key, list(array.shape), str(array.dtype)] for key, array in arrays.items()]
            (folder / "manifest.json").write_text(json.dumps(entries))
        return str(folder)

    def test_npy_folder(self):
        pipeline = self.folder / "pipeline.json"
        pipeline.write_text(json.dumps(PIPELINE))
        parts = tensors()
        first = self.write_folder("first", {"filter.weight": parts.pop("filter.weight")})
        second = self.write_folder("second", parts, manifest=True)
        arguments = [first, str(pipeline), str(self.out), "--add", second]
        self.assertEqual(npy_folder.main(arguments), 0)
        self.assertEqual(self.out.read_bytes(), safetensors_io.to_bytes(tensors(), PIPELINE))

    def test_npy_folder_refuses(self):
        pipeline = self.folder / "pipeline.json"
        pipeline.write_text(json.dumps(PIPELINE))
        folder = self.write_folder("folder", tensors(), manifest=True)
        rest = [str(pipeline), str(self.out)]
        empty = self.write_folder("empty", {})
        for arguments in ([empty, *rest], [folder, *rest, "--add", folder],
                          [folder, *rest, "--identity", "embed.weight=3"],
                          [folder, *rest, "--identity", "three"],
                          [folder, str(self.folder / "none.json"), str(self.out)]):
            self.assertEqual(npy_folder.main(arguments), 1)
        np.save(pathlib.Path(folder) / "embed.bias.npy", np.zeros(4, np.float32))
        self.assertEqual(npy_folder.main([folder, *rest]), 1)
        self.assertFalse(self.out.exists())

    def test_public_model(self):
        """The public ResAGNN with the pipeline of the examples; 9 more for the identity."""
        shared = pathlib.Path(os.environ.get("TM_SHARED", ROOT.parent / "shared"))
        weights = shared / "golden" / "B_gnn_hsf" / "weights"
        if not weights.is_dir():
            self.skipTest("no golden data")
        pipeline = CONVERT / "examples" / "exatrkx_service_resagnn.json"
        arguments = [str(weights), str(pipeline), str(self.out), "--identity", "embed.weight=3"]
        self.assertEqual(npy_folder.main(arguments), 0)
        self.check("exatrkx-service-resagnn", 44803 + 9, str(1 + 5 + 9))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

# SPDX-License-Identifier: Apache-2.0
"""Reads what torch.save and torch.jit.save write, without torch: needs numpy alone.

    from torch_file import read
    file = read("model.ckpt")
    file.tensors["network.0.weight"]     numpy array, float32 (float16, float64 stay as they are)

Both kinds are zip archives with a pickle that describes and raw arrays that it points to. A pickle can
call any function of Python when it is loaded; the one here is read by an unpickler that knows the four
functions which make tensors, OrderedDict and Namespace, and puts an inert object in the place of all
else. So a file from the net runs no code. What is not such a file, or points outside its arrays, is a
ValueError with one line that names the file.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import pickletools
import re
import reprlib
import sys
import zipfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PICKLE_MAX_BYTES = 16 << 20
STORAGE_MAX_BYTES = 1 << 30  # as TM_MODEL_FILE_MAX_BYTES in nn/model.h
CODE_MAX_BYTES = 16 << 20
LAYERS_MAX = 4096
ZIP_MAGIC = b"PK\3\4"
BFLOAT16 = "bfloat16"  # numpy has no such type: its values are the upper halves of float32

_STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": BFLOAT16,
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1",
    "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip


@dataclass
class Layer:
    """One module of a TorchScript file."""

    kind: str  # its class: "LayerNorm"
    constants: dict[str, Any] = field(
        default_factory=dict
    )  # "eps", "approximate", where the code says so


@dataclass
class TorchFile:
    """What a file holds. Names are those of the state dict: "node_encoder.0.weight"."""

    path: str
    tensors: dict[str, np.ndarray]
    hyper: dict[str, Any]  # hyper-parameters of a checkpoint; plain attributes of a scripted module
    layers: (
        dict[str, Layer] | None
    )  # every module by its name, "" the outermost; None: a checkpoint


class _Inert:
    """Stands for any object that is not needed, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> _Inert:
        return _Inert()

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass

    def add(self, _: Any) -> None:
        pass


class _Dict(dict):  # type: ignore[type-arg]
    """Lightning's AttributeDict, OrderedDict: as a dict; what they keep beside it is dropped."""

    def __setstate__(self, _: Any) -> None:
        pass


class _Namespace(_Dict):
    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


class _Script:
    """A module of a TorchScript file: its class and its attributes."""

    qualified = ""

    def __init__(self, *_: Any) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.attributes = state


_DICTS = {
    "collections.OrderedDict": _Dict,
    "pytorch_lightning.utilities.parsing.AttributeDict": _Dict,
    "lightning.pytorch.utilities.parsing.AttributeDict": _Dict,
    "lightning_fabric.utilities.data.AttributeDict": _Dict,
    "lightning.fabric.utilities.data.AttributeDict": _Dict,
    "argparse.Namespace": _Namespace,
}


def _check_opcodes(data: bytes) -> None:
    """Refuses lengths beyond the end and memo numbers that would make the unpickler take all memory."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(data):
            raise ValueError(f"a broken pickle: memo number {argument}")


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: _Archive, name: str) -> None:
        data = archive.read(name, PICKLE_MAX_BYTES)
        _check_opcodes(data)
        super().__init__(io.BytesIO(data))
        self.archive = archive
        self.folder = name[: -len(".pkl")]

    def find_class(self, module: str, name: str) -> Any:
        """Never imports anything; makes a new object each time, so that a pickle can spoil its own only."""
        if module == "__torch__" or module.startswith("__torch__."):
            return type("Script", (_Script,), {"qualified": f"{module}.{name}"})
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return name
        functions = {
            "torch._utils._rebuild_tensor_v2": lambda *a: self.archive.tensor(*a[:4]),
            "torch._utils._rebuild_tensor": lambda *a: self.archive.tensor(*a[:4]),
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "torch.jit._pickle.restore_type_tag": lambda value, *_: value,
        }
        known = functions.get(f"{module}.{name}") or _DICTS.get(f"{module}.{name}")
        if known in (_Dict, _Namespace):
            return type(known.__name__, (known,), {})
        return known or type("Inert", (_Inert,), {})

    def persistent_load(self, key: Any) -> Any:
        if (
            not isinstance(key, tuple)
            or len(key) < 5
            or key[0] != "storage"
            or key[1] not in _STORAGES
        ):
            raise ValueError(f"an array of a kind that is not known: {reprlib.repr(key)}")
        return self.archive.storage(f"{self.folder}/{key[2]}", _STORAGES[key[1]])


class _Archive:
    """The zip file, and the arrays in it."""

    def __init__(self, file: zipfile.ZipFile) -> None:
        self.zip = file
        self.names = set(file.namelist())
        pickles = [name for name in self.names if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
        if len(pickles) != 1:
            raise ValueError(
                "a zip file, but not one that torch.save or torch.jit.save wrote: no data.pkl"
            )
        self.root = pickles[0][: -len("data.pkl")]
        self.storages: dict[str, np.ndarray] = {}
        order = f"{self.root}byteorder"
        if order in self.names and self.read(order, 16) != b"little":
            raise ValueError(
                "written on a big-endian machine: save it again on a little-endian one"
            )

    def read(self, name: str, limit: int) -> bytes:
        if name not in self.names:
            raise ValueError(f"no {name} in it")
        info = self.zip.getinfo(name)
        if limit == STORAGE_MAX_BYTES and info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed, which torch never does")
        if info.file_size > limit:
            raise ValueError(f"{name} has {info.file_size} bytes, at most {limit} are allowed")
        return self.zip.read(name)

    def storage(self, name: str, dtype: str) -> np.ndarray:
        """Flat array of one storage, read once."""
        if name not in self.storages:
            data = self.read(name, STORAGE_MAX_BYTES)
            plain = np.dtype("<u2" if dtype == BFLOAT16 else dtype)
            flat = np.frombuffer(data, plain, len(data) // plain.itemsize)
            if dtype == BFLOAT16:
                flat = (flat.astype("<u4") << 16).view("<f4")
            self.storages[name] = flat
        return self.storages[name]

    @staticmethod
    def tensor(flat: Any, offset: Any, shape: Any, strides: Any) -> np.ndarray:
        """The view [shape] of a storage; strides are in elements."""
        numbers = [offset, *shape, *strides]
        if not isinstance(flat, np.ndarray) or not all(
            isinstance(n, int) and n >= 0 for n in numbers
        ):
            raise ValueError("a tensor without storage, or with a size that is no number")
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides))
        if len(shape) != len(strides) or (0 not in shape and last >= flat.size):
            raise ValueError(
                f"a tensor of shape {list(shape)} reaches beyond its {flat.size} values"
            )
        if 0 in shape:
            return np.empty(shape, flat.dtype)
        if np.prod(shape, dtype=object) > flat.size:
            raise ValueError(f"a tensor of shape {list(shape)} on {flat.size} values")
        steps = [step * flat.itemsize for step in strides]
        return np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False)

    def unpickle(self) -> Any:
        return _Unpickler(self, f"{self.root}data.pkl").load()

    def constants(self, qualified: str) -> dict[str, Any]:
        """What the code of a class fixes: eps of a norm, the approximation of a gelu."""
        module, _, kind = qualified.rpartition(".")
        name = f"{self.root}code/{module.replace('.', '/')}.py"
        if name not in self.names:
            return {}
        code = self.read(name, CODE_MAX_BYTES).decode("utf-8", "replace")
        match = re.search(rf"^class {re.escape(kind)}\(.*?(?=^class |\Z)", code, re.M | re.S)
        body = match.group(0) if match else ""
        found: dict[str, Any] = {}
        eps = re.search(r"^  eps : Final\[float\] = (\S+)$", body, re.M)
        # traced: the last real number of the call; momentum, where there is one, comes before
        call = re.search(r"torch\.(?:layer|batch)_norm\(([^()]*)\)", body)
        numbers = re.findall(r"(?<![\w.])\d+\.\d*(?:e[-+]?\d+)?", call.group(1)) if call else []
        if eps or numbers:
            found["eps"] = float(f"{float(eps.group(1) if eps else numbers[-1]):.9g}")
        approximate = re.search(r"approximate(?: : Final\[str\] )?=\s*\"(\w+)\"", body)
        if approximate:
            found["approximate"] = approximate.group(1)
        return found


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, tuple, dict))


def _walk(
    archive: _Archive, module: _Script, name: str, file: TorchFile, above: tuple[_Script, ...]
) -> None:
    """Takes the tensors and layers of a TorchScript module and of those in it."""
    if any(module is other for other in above):
        raise ValueError(f"module {name} holds itself")
    assert file.layers is not None
    if len(file.layers) == LAYERS_MAX:
        raise ValueError(f"more than {LAYERS_MAX} modules")
    qualified = re.sub(r"___torch_mangle_\d+\.", "", module.qualified)
    file.layers[name] = Layer(qualified.rpartition(".")[2], archive.constants(module.qualified))
    for key, value in module.attributes.items():
        inner = f"{name}.{key}" if name else str(key)
        if isinstance(value, _Script):
            _walk(archive, value, inner, file, (*above, module))
        elif isinstance(value, np.ndarray):
            file.tensors[inner] = value
        elif not name and _is_plain(value):
            file.hyper[str(key)] = value
            if key in ("params", "hparams") and isinstance(value, dict):
                file.hyper.update(value)


def _state_dict(content: Any) -> dict[str, np.ndarray]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ValueError(
            "neither a state dict nor a checkpoint with one; was a whole module saved?"
        )
    tensors = {str(name): value for name, value in content.items() if isinstance(value, np.ndarray)}
    if not tensors:
        raise ValueError("no tensor in it: a checkpoint has them under state_dict")
    return tensors


def read(path: str | os.PathLike[str]) -> TorchFile:
    """Reads a Lightning checkpoint, a saved state dict or a TorchScript file."""
    label = os.fspath(path)
    with open(path, "rb") as stream:
        magic = stream.read(len(ZIP_MAGIC))
    if magic != ZIP_MAGIC:
        raise ValueError(
            f"{label}: no zip file; what torch before 1.6 wrote, load and save with a newer one"
        )
    try:
        with zipfile.ZipFile(path) as zipped:
            archive = _Archive(zipped)
            content = archive.unpickle()
            if isinstance(content, _Script):
                file = TorchFile(label, {}, {}, {})
                _walk(archive, content, "", file, ())
                if not file.tensors:
                    raise ValueError(
                        "no parameters in it: a frozen TorchScript file has lost their names"
                    )
                return file
            hyper = content.get("hyper_parameters") if isinstance(content, dict) else None
            hyper = dict(hyper) if isinstance(hyper, dict) else {}
            return TorchFile(label, _state_dict(content), hyper, None)
    except Exception as error:  # whatever a broken pickle or zip file leads to
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{label}: {text}") from error


def main() -> int:
    """Lists what is in a file, as a help for writing a description."""
    parser = argparse.ArgumentParser(description="Lists what a torch file holds.")
    parser.add_argument("file")
    try:
        file = read(parser.parse_args().file)
    except (OSError, ValueError) as error:
        print(f"torch_file: {error}", file=sys.stderr)
        return 1
    for name, value in sorted(file.hyper.items()):
        print(f"hyper-parameter {name} = {reprlib.repr(value)}")
    for name, layer in (file.layers or {}).items():
        print(f"layer {name or '(outermost)'}: {layer.kind} {layer.constants or ''}".rstrip())
    for name, tensor in file.tensors.items():
        print(f"tensor {name} {tensor.dtype} {list(tensor.shape)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

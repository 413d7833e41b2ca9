# SPDX-License-Identifier: Apache-2.0
"""Writes what torch.save and torch.jit.save write, without torch; for tests of the reader."""

from __future__ import annotations

import pickle
import types
import zipfile
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage",
            "int64": "LongStorage", "uint8": "ByteStorage"}  # fmt: skip


def _named(module: str, name: str) -> Any:
    """A function that pickles as module.name."""

    def function(*_: Any) -> None:
        pass

    function.__module__, function.__qualname__, function.__name__ = module, name, name
    return function


REBUILD = _named("torch._utils", "_rebuild_tensor_v2")
STORAGE_TYPES = {name: _named("torch", name) for name in STORAGES.values()}


class Storage:
    def __init__(self, key: str, kind: str, size: int) -> None:
        self.key, self.kind, self.size = key, kind, size


class Tensor:
    """A tensor as it is pickled; offset, shape and strides can be made wrong."""

    def __init__(
        self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        self.args = (storage, offset, shape, strides, False, OrderedDict())

    def __reduce__(self) -> Any:
        return REBUILD, self.args


class Module:
    """A module of TorchScript: its class below __torch__, and its attributes in order."""

    def __init__(self, qualified: str, **attributes: Any) -> None:
        self.module, _, self.name = f"__torch__.{qualified}".rpartition(".")
        self.attributes = attributes


class Writer:
    """Collects storages, then writes the archive."""

    def __init__(self, root: str = "archive") -> None:
        self.root = root
        self.storages: list[bytes] = []
        self.modules: dict[str, types.ModuleType] = {}

    def tensor(self, array: np.ndarray) -> Tensor:
        array = np.ascontiguousarray(array)
        storage = self.storage(array)
        strides = tuple(s // array.itemsize for s in array.strides)
        return Tensor(storage, 0, array.shape, strides)

    def storage(self, array: np.ndarray) -> Storage:
        self.storages.append(array.tobytes())
        return Storage(str(len(self.storages) - 1), STORAGES[array.dtype.name], array.size)

    def script(self, module: Module) -> Any:
        """An object of the module's class with its attributes."""
        parts = module.module.split(".")
        for end in range(1, len(parts) + 1):  # importing a module needs those above it
            above = ".".join(parts[:end])
            self.modules.setdefault(above, types.ModuleType(above))
        home = self.modules[module.module]
        if not hasattr(home, module.name):
            setattr(home, module.name, type(module.name, (), {"__module__": module.module}))
        made = getattr(home, module.name)()
        for key, value in module.attributes.items():
            if isinstance(value, Module):
                value = self.script(value)
            made.__dict__[key] = self.tensor(value) if isinstance(value, np.ndarray) else value
        return made

    def pickled(self, content: Any) -> bytes:
        class Pickler(pickle.Pickler):
            def persistent_id(self, obj: Any) -> Any:
                if isinstance(obj, Storage):
                    return ("storage", STORAGE_TYPES[obj.kind], obj.key, "cpu", obj.size)
                return None

        torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
        torch._utils = utils  # type: ignore[attr-defined]
        for name, function in STORAGE_TYPES.items():
            setattr(torch, name, function)
        utils._rebuild_tensor_v2 = REBUILD  # type: ignore[attr-defined]
        stream = BytesIO()
        fake = {"torch": torch, "torch._utils": utils, **self.modules}
        with mock.patch.dict("sys.modules", fake):
            Pickler(stream, protocol=2).dump(content)
        return stream.getvalue()

    def write(self, path: Path, content: Any, code: dict[str, str] | None = None) -> Path:
        """content: a dict with Tensors, what script() gave, or the bytes of a pickle."""
        data = content if isinstance(content, bytes) else self.pickled(content)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{self.root}/data.pkl", data)
            archive.writestr(f"{self.root}/byteorder", "little")
            for key, storage in enumerate(self.storages):
                archive.writestr(f"{self.root}/data/{key}", storage)
            for name, text in (code or {}).items():
                archive.writestr(f"{self.root}/code/{name}", text)
        return path


def write_checkpoint(
    path: Path, tensors: dict[str, np.ndarray], hyper: dict[str, Any] | None = None
) -> Path:
    """A Lightning checkpoint with these tensors and hyper-parameters."""
    writer = Writer()
    state = OrderedDict((name, writer.tensor(array)) for name, array in tensors.items())
    content: dict[str, Any] = {"epoch": 3, "state_dict": state}
    if hyper is not None:
        content["hyper_parameters"] = hyper
    return writer.write(path, content)

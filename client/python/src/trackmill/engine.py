# SPDX-License-Identifier: Apache-2.0
"""The engine in this process: libtrackmill-engine through ctypes, for machines without a broker.

The same engine as in the workers, so the same tracks. The library is looked for where TRACKMILL_ENGINE says
(a file), in this package (a wheel that was built after the C programs carries it), in the build folder of the
checkout that this package is run from, and where the system's linker looks. The weights of a model name:
where TRACKMILL_WEIGHTS says (a folder), in this package, beside the library, in the checkout.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from .columns import NUMBERS, EventLike, Starts, Tracks, event_columns
from .errors import FileError, NoEngineError, TrackmillError, from_code

LIBRARY = "libtrackmill-engine.so"
_ABI = 2  # TM_EMBEDDED_ABI of engine/embedded.h
_TEXT_BYTES = 512  # TM_ERROR_TEXT_BYTES
_LOCAL_CODES = 100  # from here on codes of wire/error.h that never travel
_FILE_CODES = (102, 103)
_ENDING = ".safetensors"
_LEVELS = 4  # folders above the library in which weights/ is looked for: build/client/python/engine/…

_loaded: ctypes.CDLL | None = None
_loading = threading.Lock()


def _checkout() -> Path | None:
    """The root of the source tree that this package is run from, if it is."""
    parents = Path(__file__).resolve().parents
    root = parents[4] if len(parents) > 4 else None
    return root if root and (root / "nn" / "engine.h").is_file() else None


def _libraries() -> Iterator[str]:
    chosen = os.environ.get("TRACKMILL_ENGINE")
    if chosen:
        yield chosen
        return
    yield str(Path(__file__).with_name(LIBRARY))
    if root := _checkout():
        yield str(root / "build" / "client" / "python" / "engine" / LIBRARY)
    yield f"{LIBRARY}.0"  # wherever the linker looks


def _load() -> ctypes.CDLL:
    global _loaded
    with _loading:
        if _loaded:
            return _loaded
        tried = []
        for path in _libraries():
            if "/" in path and not Path(path).is_file():
                tried.append(f"{path}: no such file")
                continue
            try:
                library = ctypes.CDLL(path)
                library.tm_embedded_abi.restype = ctypes.c_int
                abi = library.tm_embedded_abi()
            except (OSError, AttributeError) as error:
                tried.append(f"{path}: {error}")
                continue
            if abi != _ABI:
                tried.append(f"{path}: interface {abi}, this package wants {_ABI}")
                continue
            _declare(library)
            _loaded = library
            return library
    raise NoEngineError(
        "no embedded engine (name a broker, or build the engine with ./run build and install this package "
        f"again, or set TRACKMILL_ENGINE to the path of {LIBRARY}): " + "; ".join(tried)
    )


def _declare(library: ctypes.CDLL) -> None:
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    u32 = ctypes.POINTER(ctypes.c_uint32)
    library.tm_embedded_open.argtypes = [text, text, ctypes.c_int, ctypes.POINTER(pointer), text, size]
    library.tm_embedded_close.argtypes = [ctypes.POINTER(pointer)]
    library.tm_embedded_close.restype = None
    for name in ("model", "hash", "columns", "device"):
        function = getattr(library, f"tm_embedded_{name}")
        function.argtypes, function.restype = [pointer], text
    library.tm_embedded_find.argtypes = [
        pointer, ctypes.c_uint64, ctypes.c_uint32, ctypes.POINTER(text), u32, ctypes.POINTER(pointer), text,
        size,
    ]  # fmt: skip
    library.tm_embedded_tracks.argtypes = [
        pointer, ctypes.POINTER(u32), ctypes.POINTER(u32), ctypes.POINTER(ctypes.POINTER(ctypes.c_float)),
    ]  # fmt: skip
    library.tm_embedded_tracks.restype = ctypes.c_uint32
    library.tm_embedded_starts.argtypes = [pointer, *([ctypes.POINTER(pointer)] * 6)]
    library.tm_embedded_stage.argtypes = [pointer, ctypes.c_uint32, u32]
    library.tm_embedded_stage.restype = text


def find_model(model: str | os.PathLike[str]) -> Path:
    """The weight file of a model: a path, or a name ("standard", "standard@1"). FileError: the places."""
    given = os.fspath(model)
    if "/" in given or given.endswith(_ENDING):
        if not Path(given).is_file():
            raise FileError(f"{given}: no such file")
        return Path(given)
    file = given.partition("@")[0] + _ENDING
    folders: list[Path] = []
    if chosen := os.environ.get("TRACKMILL_WEIGHTS"):
        folders.append(Path(chosen))
    else:
        folders.append(Path(__file__).with_name("weights"))
        for path in _libraries():
            if "/" in path:
                above = Path(path).absolute().parents
                folders += [parent / "share" / "trackmill" / "weights" for parent in above[1:2]]
                folders += [parent / "weights" for parent in above[: _LEVELS + 1]]
        if root := _checkout():
            folders.append(root / "weights")
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    places = ", ".join(dict.fromkeys(map(str, folders)))
    raise FileError(
        f"no model {given}: {file} is in none of {places}; name the file, or set TRACKMILL_WEIGHTS"
    )


class Engine:
    """Finds the tracks of events in this process.

    model: a name ("standard", "standard@1") or the path of a weight file. device: "cpu", "cuda", "cuda:0";
    None takes a GPU where the library can. threads: of the CPU; 0: as many as the process may use.

    One event at a time: `find` may be called from several threads, which then wait for each other. It lets go
    of the interpreter while it computes. NoEngineError, FileError, BackendError: what is missing.
    """

    def __init__(
        self, model: str | os.PathLike[str] = "standard", *, device: str | None = None, threads: int = 0
    ) -> None:
        self._handle = ctypes.c_void_p()
        self._lock = threading.Lock()
        self._library = _load()
        path = find_model(model)
        text = ctypes.create_string_buffer(_TEXT_BYTES)
        status = self._library.tm_embedded_open(
            os.fsencode(path), device.encode() if device else None, threads, ctypes.byref(self._handle), text,
            len(text),
        )  # fmt: skip
        _check(status, text.value)
        self.model: str = self._text("model")  # name@version
        self.weight_hash: str = self._text("hash")  # SHA-256 of the weight file, hexadecimal
        self.device: str = self._text("device")  # in words
        self.columns: list[str] = self._text("columns").split()  # that the model reads beyond x y z
        wanted = os.fspath(model).partition("@")[2]
        if wanted and "/" not in os.fspath(model) and self.model.partition("@")[2] != wanted:
            have = self.model
            self.close()
            raise FileError(f"no model {model}: {path} is {have}")

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Frees the engine; find raises RuntimeError afterwards."""
        if self._handle:
            with self._lock:
                self._library.tm_embedded_close(ctypes.byref(self._handle))

    def find(self, event: EventLike) -> Tracks:
        """The tracks of one event. TrackmillError: why not, as Client.find raises it."""
        columns = {name: np.ascontiguousarray(column) for name, column in event_columns(event).items()}
        n = len(columns["x"])
        types = []
        for name, column in columns.items():
            number = NUMBERS.get(column.dtype)
            if number is None:
                raise ValueError(f"column {name}: the engine has no type for {column.dtype}")
            types.append(number)
        names = (ctypes.c_char_p * len(columns))(*(name.encode() for name in columns))
        data = (ctypes.c_void_p * len(columns))(*(column.ctypes.data for column in columns.values()))
        text = ctypes.create_string_buffer(_TEXT_BYTES)
        start = time.monotonic()
        with self._lock:
            if not self._handle:
                raise RuntimeError("the engine is closed")
            status = self._library.tm_embedded_find(
                self._handle, n, len(columns), names, (ctypes.c_uint32 * len(types))(*types), data, text,
                len(text),
            )  # fmt: skip
            _check(status, text.value)
            offsets, indices, scores = self._take()
            starts = self._take_starts(len(scores))
            stages = self._stages()
        seconds = time.monotonic() - start
        return Tracks(
            offsets, indices, scores, n, model=self.model, weight_hash=self.weight_hash, service_s=seconds,
            total_s=seconds, stages_s=stages, starts=starts,
        )  # fmt: skip

    def _text(self, what: str) -> str:
        value: bytes = getattr(self._library, f"tm_embedded_{what}")(self._handle)
        return value.decode()

    def _take(self) -> tuple[Any, Any, Any]:
        """Own copies of the last event's tracks."""
        offsets, indices = (ctypes.POINTER(ctypes.c_uint32)() for _ in range(2))
        scores = ctypes.POINTER(ctypes.c_float)()
        count = self._library.tm_embedded_tracks(
            self._handle, ctypes.byref(offsets), ctypes.byref(indices), ctypes.byref(scores)
        )
        if count == 0:
            return np.zeros(1, np.uint32), np.empty(0, np.uint32), np.empty(0, np.float32)
        first = np.ctypeslib.as_array(offsets, (count + 1,)).copy()
        return (
            first,
            np.ctypeslib.as_array(indices, (int(first[-1]),)).copy(),
            np.ctypeslib.as_array(scores, (count,)).copy(),
        )

    def _take_starts(self, count: int) -> Starts | None:
        """Own copies of the start values of that many candidates."""
        pointers = [ctypes.c_void_p() for _ in fields(Starts)]
        if not self._library.tm_embedded_starts(self._handle, *map(ctypes.byref, pointers)):
            return None
        arrays: dict[str, Any] = {}
        for column, pointer in zip(fields(Starts), pointers, strict=True):
            kind = ctypes.c_int8 if column.name == "charge" else ctypes.c_float
            values = ctypes.cast(pointer, ctypes.POINTER(kind))
            arrays[column.name] = np.ctypeslib.as_array(values, (count,)).copy()
        return Starts(**arrays)

    def _stages(self) -> dict[str, float]:
        out: dict[str, float] = {}
        us = ctypes.c_uint32()
        i = 0
        while name := self._library.tm_embedded_stage(self._handle, i, ctypes.byref(us)):
            out[name.decode()] = us.value / 1e6
            i += 1
        return out


def _check(status: int, text: bytes) -> None:
    if status == 0:
        return
    words = text.decode(errors="replace")
    if status in _FILE_CODES:
        raise FileError(words)
    if status >= _LOCAL_CODES:
        raise TrackmillError(words)
    raise from_code(status, words)

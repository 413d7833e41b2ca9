# SPDX-License-Identifier: Apache-2.0
"""Reading events and writing tracks, as docs/formats.md says: the same columns as the C reader's.

The truth stays in the files: `trackmill score` reads it.
"""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import limits
from .columns import Array, Event, Tracks
from .errors import FileError

_FILE_BYTES_MAX = 1 << 30
_XZ_MEMORY_BYTES = 512 << 20
_F16_MIN, _F16_MAX = float(np.finfo(np.float16).tiny), float(np.finfo(np.float16).max)
_PACKED = ("", ".gz", ".xz")
_POINTS = ("-hits.csv", "-spacepoint.csv", "-spacepoints.csv")
_FAULTS = (OSError, EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, KeyError, ValueError,
           NotImplementedError, RuntimeError)  # fmt: skip


def read_event(path: str | os.PathLike[str], *, module_id: bool = False) -> Event:
    """The space points in an .npz(.xz), TrackML or ACTS file, or the common start of such files.

    module_id: geometry identifiers too, if the file has them; no gnn model reads them. FileError: file, line
    or row, and column.
    """
    file = _find(Path(path))
    data = _bytes(file)
    name = file.name.removesuffix(".gz").removesuffix(".xz")
    for ending in (".npz", ".csv", "-hits", "-spacepoint", "-spacepoints"):
        name = name.removesuffix(ending)
    if data[:2] == b"PK":
        columns, hit_ids = _npz(file, data, module_id)
    else:
        columns, hit_ids = _csv(file, data, module_id)
    for axis in ("x", "y", "z"):
        bad = ~(np.abs(columns[axis]) <= limits.POSITION_MAX_MM)
        if bad.any():
            row = int(bad.argmax())
            raise FileError(f"{file}: column {axis}, row {row}: not within ±{limits.POSITION_MAX_MM} mm")
    return Event(columns, hit_ids, name)


def write_tracks(path: str | os.PathLike[str], tracks: Tracks, event: Event | None = None) -> None:
    """hit_id,track_id as `trackmill find --out` writes it; the file appears as a whole or not at all."""
    ids = event.hit_ids if event is not None and event.hit_ids is not None else np.arange(tracks.n_points)
    numbers = np.repeat(np.arange(len(tracks)), np.diff(tracks.offsets))
    rows = zip(ids[tracks.indices].tolist(), numbers.tolist(), strict=True)
    text = "hit_id,track_id\n" + "".join(f"{hit},{track}\n" for hit, track in rows)
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="ascii")
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


# ---- files ----


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    for ending in (".npz", *_POINTS):
        for packed in _PACKED:
            candidate = path.with_name(path.name + ending + packed)
            if candidate.is_file():
                return candidate
    raise FileError(f"{path}: no such file, nor one with .npz, -hits.csv or -spacepoint.csv behind")


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _FILE_BYTES_MAX:
            raise FileError(f"{path}: more than 1 GiB")
        data = path.read_bytes()
        source: Any = io.BytesIO(data)
        if data[:2] == b"\x1f\x8b":
            data = gzip.GzipFile(fileobj=source).read(_FILE_BYTES_MAX + 1)
        elif data[:6] == b"\xfd7zXZ\0":
            decoder = lzma.LZMADecompressor(memlimit=_XZ_MEMORY_BYTES)
            data = decoder.decompress(data, _FILE_BYTES_MAX + 1)
            if not decoder.eof and len(data) <= _FILE_BYTES_MAX:
                raise FileError(f"{path}: the file is cut off")
    except FileError:
        raise
    except _FAULTS as error:
        raise FileError(f"{path}: {error}") from None
    if len(data) > _FILE_BYTES_MAX:
        raise FileError(f"{path}: more than 1 GiB when decompressed")
    return data


def _charge(values: npt.NDArray[np.float64]) -> Array:
    small = (values == 0) | ((np.abs(values) >= _F16_MIN) & (np.abs(values) <= _F16_MAX) & (values > 0))
    single = values.astype(np.float32)
    return single.astype(np.float16) if small.all() else single


# ---- numpy archives ----


def _npz(file: Path, data: bytes, module_id: bool) -> tuple[dict[str, Array], Array | None]:
    wanted = (
        "x_um",
        "y_um",
        "z_um",
        "x",
        "y",
        "z",
        "n_cells",
        "size_loc0",
        "size_loc1",
        "charge",
        "charge_e3",
    )
    geometry = ("module_id", "volume", "layer", "module") if module_id else ()
    arrays: dict[str, Array] = {}
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            for name in (*wanted, *geometry):
                if name in archive.files:
                    arrays[name] = archive[name]
    except _FAULTS as error:
        raise FileError(f"{file}: {error}") from None
    columns: dict[str, Array] = {}
    for axis in ("x", "y", "z"):
        if f"{axis}_um" in arrays:
            micro = arrays[f"{axis}_um"]
            if micro.dtype.kind not in "iu":
                raise FileError(f"{file}: array {axis}_um is {micro.dtype}, not whole numbers")
            columns[axis] = (micro / 1000.0).astype(np.float32)
        elif axis in arrays:
            columns[axis] = arrays[axis]
        else:
            raise FileError(f"{file}: neither array {axis}_um nor {axis}")
    for name in ("n_cells", "size_loc0", "size_loc1"):
        if name in arrays:
            columns[name] = arrays[name]
    if "charge" in arrays:
        columns["charge"] = arrays["charge"]
    elif "charge_e3" in arrays:
        columns["charge"] = _charge(arrays["charge_e3"].astype(np.float64) / 1000)
    if module_id and "module_id" in arrays:
        columns["module_id"] = arrays["module_id"].astype(np.uint64)
    elif module_id and {"volume", "layer", "module"} <= arrays.keys():
        columns["module_id"] = _identifier(arrays["volume"], arrays["layer"], arrays["module"])
    n = len(columns["x"]) if columns["x"].ndim == 1 else -1
    for name, column in columns.items():
        if column.shape != (n,):
            raise FileError(f"{file}: array {name} has the shape {column.shape}, x has {columns['x'].shape}")
        if column.dtype.kind not in "iuf":
            raise FileError(f"{file}: array {name} is {column.dtype}, not numbers")
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            raise FileError(f"{file}: array {name}, row {int((~np.isfinite(column)).argmax())}: not finite")
        columns[name] = column.astype(column.dtype.newbyteorder("="), copy=False)
    if n > limits.POINTS_MAX:
        raise FileError(f"{file}: {n} space points; at most {limits.POINTS_MAX}")
    for axis in ("x", "y", "z"):
        columns[axis] = columns[axis].astype(np.float32, copy=False)
    return columns, None


def _identifier(volume: Array, layer: Array, module: Array) -> Array:
    v, y, m = (part.astype(np.uint64) for part in (volume, layer, module))
    out: Array = (v << np.uint64(56)) | (y << np.uint64(36)) | (m << np.uint64(8))
    return out


# ---- CSV ----


class _Table:
    """Columns of text by name."""

    def __init__(self, file: Path, data: bytes | None = None) -> None:
        self.file = file
        try:
            text = (_bytes(file) if data is None else data).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise FileError(f"{file}: not a text file, nor a numpy archive") from None
        rows = [(i, row) for i, row in enumerate(csv.reader(io.StringIO(text)), 1) if row]
        if not rows:
            raise FileError(f"{file}: empty")
        self.names = [name.strip() for name in rows[0][1]]
        self.lines = [i for i, _ in rows[1:]]
        for i, row in rows[1:]:
            if len(row) != len(self.names):
                raise FileError(f"{file}, line {i}: {len(row)} fields instead of {len(self.names)}")
        self.rows = [row for _, row in rows[1:]]

    def first(self, *names: str) -> str:
        """The first of these that is a column."""
        for name in names:
            if name in self.names:
                return name
        raise FileError(f"{self.file}: no column {' or '.join(names)}")

    def texts(self, name: str) -> list[str]:
        at = self.names.index(self.first(name))
        return [row[at] for row in self.rows]

    def _parse(self, name: str, parse: Callable[[str], Any], what: str) -> list[Any]:
        out = []
        for line, text in zip(self.lines, self.texts(name), strict=True):
            try:
                out.append(parse(text))
            except (ValueError, OverflowError):
                raise FileError(f"{self.file}, line {line}, column {name}: {text!r} is not {what}") from None
        return out

    def floats(self, name: str) -> npt.NDArray[np.float64]:
        values = np.array(self._parse(name, float, "a number"), np.float64)
        bad = ~np.isfinite(values)
        if bad.any():
            raise FileError(f"{self.file}, line {self.lines[int(bad.argmax())]}, column {name}: not finite")
        return values

    def singles(self, name: str) -> npt.NDArray[np.float32]:
        """The float nearest to each decimal number, which by way of double it would not always be."""
        doubles = self.floats(name)
        with np.errstate(over="ignore"):
            out = doubles.astype(np.float32)
        middle = (doubles.view(np.uint64) & np.uint64(0x1FFFFFFF)) == np.uint64(0x10000000)
        texts = self.texts(name) if middle.any() else []
        for i in np.flatnonzero(middle):
            try:
                exact = Decimal(texts[i])
            except InvalidOperation:
                continue
            rounded = Decimal(float(doubles[i]))
            if exact != rounded:  # else to even, as numpy did
                down = np.float32(np.nextafter(doubles[i], -np.inf))
                up = np.float32(np.nextafter(doubles[i], np.inf))
                out[i] = up if exact > rounded else down
        return out

    def unsigned(self, name: str) -> npt.NDArray[np.uint64]:
        def parse(text: str) -> int:
            value = int(text)
            if not 0 <= value < 2**64:
                raise ValueError
            return value

        return np.array(self._parse(name, parse, "a whole number from 0"), np.uint64)


def _beside(file: Path, prefix: str, ending: str) -> _Table | None:
    for packed in _PACKED:
        candidate = file.with_name(f"{prefix}{ending}{packed}")
        if candidate.is_file():
            return _Table(candidate)
    return None


def _smallest(values: npt.NDArray[np.int64]) -> Array:
    values = np.clip(values, 0, 65535)
    return values.astype(np.uint8 if not len(values) or values.max() < 256 else np.uint16)


def _csv(file: Path, data: bytes, module_id: bool) -> tuple[dict[str, Array], Array]:
    points = _Table(file, data)
    plain = file.name.removesuffix(".gz").removesuffix(".xz")
    prefix = next((plain.removesuffix(ending) for ending in _POINTS if plain.endswith(ending)), None)
    if prefix is None:
        raise FileError(f"{file}: want .npz, -hits.csv or -spacepoint.csv")
    trackml = plain.endswith("-hits.csv")
    if trackml:
        key, axes, geometry = points.first("hit_id"), ("x", "y", "z"), None
    elif "sp_x" in points.names:
        key, axes, geometry = points.first("measurement_id"), ("sp_x", "sp_y", "sp_z"), "geometry_id"
    else:
        key = points.first("measurement_id_1", "measurement_id")
        axes, geometry = ("x", "y", "z"), "geometry_id_1"
    ids = points.unsigned(key)
    if len(ids) > limits.POINTS_MAX:
        raise FileError(f"{file}: {len(ids)} space points; at most {limits.POINTS_MAX}")
    if trackml:
        values, counts = np.unique(ids, return_counts=True)
        if (counts > 1).any():
            raise FileError(f"{file}: hit_id {values[counts > 1][0]} is there twice")
    columns: dict[str, Array] = {axis: points.singles(name) for axis, name in zip("xyz", axes, strict=True)}
    cells = _beside(file, prefix, "-cells.csv")
    if module_id:
        if trackml and {"volume_id", "layer_id", "module_id"} <= set(points.names):
            parts = [points.unsigned(name) for name in ("volume_id", "layer_id", "module_id")]
            columns["module_id"] = _identifier(*parts)
        elif geometry and geometry in points.names:
            columns["module_id"] = points.unsigned(geometry)
    if cells is not None:
        columns |= _clusters(cells, ids, trackml)
        if module_id and "module_id" not in columns and "geometry_id" in cells.names:
            owners, values = (
                cells.unsigned(cells.first("measurement_id", "hit_id")),
                cells.unsigned("geometry_id"),
            )
            of_cluster = dict(zip(owners.tolist(), values.tolist(), strict=True))
            columns["module_id"] = np.array([of_cluster.get(i, 0) for i in ids.tolist()], np.uint64)
    return columns, ids


def _clusters(cells: _Table, ids: npt.NDArray[np.uint64], trackml: bool) -> dict[str, Array]:
    """Number of cells, extents and charge of the cluster of each point."""
    key = cells.first("hit_id") if trackml else cells.first("measurement_id", "hit_id")
    channels: Sequence[str] = ("ch0", "ch1") if trackml else ("channel0", "channel1")
    owners = cells.unsigned(key)
    extents = [cells.floats(name).astype(np.int64) for name in channels]
    values = cells.floats("value")
    clusters, row_of = np.unique(ids, return_inverse=True)  # points may share a cluster (ACTS, two strips)
    slot = np.searchsorted(clusters, owners)
    known = slot < len(clusters)
    known[known] = clusters[slot[known]] == owners[known]
    if len(owners) and len(ids) and not known.any():
        raise FileError(f"{cells.file}: none of its cells belong to a point of the event")
    slot, values = slot[known], values[known]
    n_cells = np.bincount(slot, minlength=len(clusters))
    out: dict[str, Array] = {"n_cells": _smallest(n_cells[row_of])}
    for axis, extent in enumerate(extents):
        extent = extent[known]
        least = np.full(len(clusters), np.iinfo(np.int64).max)
        most = np.full(len(clusters), np.iinfo(np.int64).min)
        np.minimum.at(least, slot, extent)
        np.maximum.at(most, slot, extent)
        size = np.where(n_cells > 0, np.where(n_cells > 0, most, 0) - np.where(n_cells > 0, least, 0) + 1, 0)
        out[f"size_loc{axis}"] = _smallest(size[row_of])
    charge = np.zeros(len(clusters))
    np.add.at(charge, slot, values)
    out["charge"] = _charge(charge[row_of])
    return out

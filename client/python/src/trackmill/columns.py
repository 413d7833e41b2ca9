# SPDX-License-Identifier: Apache-2.0
"""Named arrays as payloads: events on their way in, tracks on their way out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from . import limits
from .errors import BadEventError, MalformedError, MissingColumnError
from .message import ELEMENT_BYTES, Buffer

Array: TypeAlias = npt.NDArray[Any]

TYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("u1"), 2: np.dtype("i1"), 3: np.dtype("<u2"), 4: np.dtype("<i2"), 5: np.dtype("<f2"),
    6: np.dtype("<u4"), 7: np.dtype("<i4"), 8: np.dtype("<f4"), 9: np.dtype("<u8"), 10: np.dtype("<i8"),
    11: np.dtype("<f8"),
}  # fmt: skip
NUMBERS = {dtype: number for number, dtype in TYPES.items()}

Entries = list[tuple[str, int, int]]


def pack(columns: Mapping[str, Array]) -> tuple[Entries, bytearray]:
    """The field `columns` and the payload. ValueError: a type that the wire does not have, too large."""
    if len(columns) > limits.COLUMNS_MAX:
        raise ValueError(f"{len(columns)} columns; the wire takes {limits.COLUMNS_MAX}")
    entries: Entries = []
    size = 0
    for name, column in columns.items():
        number = NUMBERS.get(column.dtype.newbyteorder("<"))
        if number is None:
            raise ValueError(f"column {name}: the wire has no type for {column.dtype}")
        entries.append((name, number, len(column)))
        size += -(-len(column) * ELEMENT_BYTES[number] // limits.PAYLOAD_ALIGN) * limits.PAYLOAD_ALIGN
    if size > limits.PAYLOAD_MAX_BYTES:
        raise ValueError(f"{size} bytes; the wire takes {limits.PAYLOAD_MAX_BYTES}")
    payload = bytearray(size)
    at = 0
    for (_, number, n), column in zip(entries, columns.values(), strict=True):
        np.frombuffer(payload, TYPES[number], n, at)[:] = column
        at += -(-n * ELEMENT_BYTES[number] // limits.PAYLOAD_ALIGN) * limits.PAYLOAD_ALIGN
    return entries, payload


def unpack(entries: Sequence[tuple[str, int, int]], payload: Buffer) -> dict[str, Array]:
    """The arrays, without a copy; what `message.decode` let pass fits."""
    out: dict[str, Array] = {}
    at = 0
    for name, number, n in entries:
        out[name] = np.frombuffer(payload, TYPES[number], n, at) if n else np.empty(0, TYPES[number])
        at += -(-n * ELEMENT_BYTES[number] // limits.PAYLOAD_ALIGN) * limits.PAYLOAD_ALIGN
    return out


@dataclass(eq=False)
class Event:
    """The space points of one collision event: arrays of one length by name, `x y z` (mm) among them.

    `hit_ids`: what the rows are called in the input; None: their numbers from 0. `name`: for files.
    """

    columns: dict[str, Array]
    hit_ids: Array | None = None
    name: str = ""

    def __len__(self) -> int:
        return len(self.columns["x"]) if "x" in self.columns else 0

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]


EventLike: TypeAlias = Event | Mapping[str, npt.ArrayLike] | Array


def event_columns(event: EventLike) -> dict[str, Array]:
    """The columns of an event in whatever form, x y z as f32. BadEventError, MissingColumnError."""
    given: Mapping[str, npt.ArrayLike]
    if isinstance(event, Event):
        given = event.columns
    elif isinstance(event, np.ndarray):
        if event.dtype.names is None:
            raise BadEventError("an array without named fields; want a structured one, or a dict")
        given = {name: event[name] for name in event.dtype.names}
    else:
        given = event
    out: dict[str, Array] = {}
    for name, values in given.items():
        column = np.asarray(values)
        if column.dtype == np.bool_:
            column = column.astype(np.uint8)
        if name in ("x", "y", "z") and column.dtype.kind in "iuf":
            with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
                column = column.astype(np.float32, copy=False)
        out[name] = column
    check_event(out)
    return out


def check_event(columns: Mapping[str, Array]) -> None:
    """BadEventError, MissingColumnError: breaks the rules of "Events" in wire/SPEC.md."""
    n = len(columns["x"]) if "x" in columns and columns["x"].ndim == 1 else 0
    if n > limits.POINTS_MAX:
        raise BadEventError(f"{n} space points; at most {limits.POINTS_MAX}")
    for name in ("x", "y", "z"):
        if name not in columns:
            raise MissingColumnError(f"the event lacks the column {name}")
    for name, column in columns.items():
        if column.ndim != 1 or len(column) != n:
            raise BadEventError(f"column {name} has the shape {column.shape}, column x {columns['x'].shape}")
    for name in ("x", "y", "z"):
        column = columns[name]
        if column.dtype != np.float32:
            raise BadEventError(f"column {name} is {column.dtype}, not f32")
        bad = ~(np.abs(column) <= limits.POSITION_MAX_MM)  # NaN too
        if bad.any():
            row = int(bad.argmax())
            raise BadEventError(
                f"column {name}, row {row}: {column[row]} exceeds {limits.POSITION_MAX_MM} mm"
            )


@dataclass(frozen=True, eq=False)
class Starts:
    """Start values for a fit of each candidate, at its point of closest approach to the z axis.

    Arrays with an element per candidate. Where charge is 0 there are none for this candidate, and zeros.
    """

    pt: npt.NDArray[np.float32]  # GeV
    phi: npt.NDArray[np.float32]  # of the momentum, radians
    eta: npt.NDArray[np.float32]  # of the momentum
    d0: npt.NDArray[np.float32]  # mm: -x sin(phi) + y cos(phi) of the point
    z0: npt.NDArray[np.float32]  # mm
    charge: npt.NDArray[np.int8]  # e, -1 or 1


@dataclass(frozen=True, eq=False)
class Tracks:
    """The track candidates of one event, as compressed sparse rows.

    Candidate t has the rows `indices[offsets[t]:offsets[t + 1]]` of the event and the score `scores[t]`.
    Iterating yields these rows for each candidate. Times are seconds.
    """

    offsets: npt.NDArray[np.uint32]
    indices: npt.NDArray[np.uint32]
    scores: npt.NDArray[np.float32]
    n_points: int
    model: str = ""  # name@version
    weight_hash: str = ""  # SHA-256 of the model file, hexadecimal
    worker: str = ""
    attempt: int = 1  # 1: the first worker answered
    queue_s: float = 0.0  # in the broker's queue
    service_s: float = 0.0  # from dispatch to result, seen by the broker
    total_s: float = 0.0  # from submit to answer, seen by the client
    stages_s: dict[str, float] = field(default_factory=dict)  # in the worker
    sent_bytes: int = 0
    received_bytes: int = 0
    starts: Starts | None = None  # if the model has them

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, t: int) -> npt.NDArray[np.uint32]:
        if not -len(self) <= t < len(self):
            raise IndexError(f"no candidate {t} among {len(self)}")
        t %= len(self)
        return self.indices[self.offsets[t] : self.offsets[t + 1]]

    def __iter__(self) -> Iterator[npt.NDArray[np.uint32]]:
        bounds = self.offsets.tolist()
        return (self.indices[a:b] for a, b in itertools.pairwise(bounds))

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """For each row of the event the number of its candidate, or -1."""
        out = np.full(self.n_points, -1, np.int32)
        out[self.indices] = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.offsets))
        return out


def check_tracks(columns: Mapping[str, Array], n_points: int) -> tuple[Array, Array, Array]:
    """Own copies of offsets, indices, scores. MalformedError: breaks the rules of "Tracks"."""
    arrays = []
    for name, dtype in (("offsets", np.uint32), ("indices", np.uint32), ("scores", np.float32)):
        column = columns.get(name)
        if column is None or column.dtype != dtype:
            raise MalformedError(f"tracks without a column {name} of {np.dtype(dtype).name}")
        arrays.append(column.astype(dtype))
    offsets, indices, scores = arrays
    if len(offsets) != len(scores) + 1:
        raise MalformedError(f"{len(offsets)} offsets for {len(scores)} scores")
    if offsets[0] != 0 or offsets[-1] != len(indices) or (offsets[1:] < offsets[:-1]).any():
        raise MalformedError("offsets must begin with 0, never fall and end with the number of indices")
    if len(indices):
        if indices.max() >= n_points:
            raise MalformedError(f"an index of {indices.max()} in an event of {n_points} points")
        seen = np.zeros(n_points, np.bool_)
        seen[indices] = True
        if np.count_nonzero(seen) != len(indices):
            raise MalformedError("a row of the event is in the tracks twice")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise MalformedError("a score is not within 0 and 1")
    return offsets, indices, scores


def check_starts(columns: Mapping[str, Array], n_tracks: int) -> Starts | None:
    """Own copies of the start values of n_tracks candidates, None without. MalformedError: why none."""
    names = [f.name for f in fields(Starts)]
    if not any(name in columns for name in names):
        return None
    arrays = {}
    for name in names:
        dtype = np.dtype(np.int8 if name == "charge" else np.float32)
        column = columns.get(name)
        if column is None or column.dtype != dtype or len(column) != n_tracks:
            raise MalformedError(f"start values without a column {name} of {n_tracks} {dtype.name}")
        if not np.isfinite(column).all():
            raise MalformedError(f"a value of {name} is not finite")
        arrays[name] = column.astype(dtype)
    if (np.abs(arrays["charge"].astype(np.int16)) > 1).any():
        raise MalformedError("a charge is not -1, 0 or 1")
    return Starts(**arrays)

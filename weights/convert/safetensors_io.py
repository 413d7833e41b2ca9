# SPDX-License-Identifier: Apache-2.0
"""Reads and writes trackmill model files: a safetensors container with the pipeline as JSON in its
metadata (docs/model-file.md). Needs numpy alone.

    from safetensors_io import write, read
    write("standard.safetensors", {"embed.0.weight": w, ...}, {"format": 1, "name": "standard", ...})
    tensors, pipeline = read("standard.safetensors")

The layout is a function of the content: tensors sorted by name, without gaps, behind a header that
is padded with spaces to a multiple of 8 bytes. The same tensors and pipeline give the same bytes, so
the same SHA-256. Only the container is checked here; the loader in nn/ checks the pipeline.
"""

import json
import os

import numpy as np

METADATA_KEY = "trackmill"
HEADER_MAX_BYTES = 1 << 20  # as in nn/safetensors.h
RANK_MAX = 8

_CODES = {"float16": "F16", "float32": "F32", "float64": "F64"}
_DTYPES = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8")}


def _as_array(name, value):
    """Takes a numpy array or anything that numpy can turn into one (a CPU torch tensor: call
    .detach().cpu() first), as little-endian and contiguous."""
    array = np.asarray(value)
    code = _CODES.get(array.dtype.name)
    if code is None:
        raise ValueError(f"tensor {name}: dtype {array.dtype} is none of float16, float32, float64")
    if array.size == 0:
        raise ValueError(f"tensor {name}: shape {array.shape} holds no element")
    if array.ndim == 0 or array.ndim > RANK_MAX:
        raise ValueError(f"tensor {name}: rank {array.ndim} is outside 1 to {RANK_MAX}")
    if not np.isfinite(array).all():
        raise ValueError(f"tensor {name}: holds a value that is not finite")
    return code, np.ascontiguousarray(array, dtype=_DTYPES[code])


def _as_plain(value):
    """A numpy number in a pipeline (a cut that was computed) as the Python one."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} in the pipeline: JSON has no such type")


def to_bytes(tensors, pipeline):
    """The bytes of the model file of these tensors (name -> array) and this pipeline (dict)."""
    arrays = {name: _as_array(name, value) for name, value in tensors.items()}
    text = json.dumps(pipeline, ensure_ascii=False, allow_nan=False, separators=(",", ":"),
                      default=_as_plain)
    header = {"__metadata__": {METADATA_KEY: text}}
    offset = 0
    for name in sorted(arrays):
        if not name or name == "__metadata__":
            raise ValueError(f"tensor name {name!r} is not allowed")
        code, array = arrays[name]
        header[name] = {
            "dtype": code,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    head = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    head += b" " * (-len(head) % 8)
    if len(head) > HEADER_MAX_BYTES:
        raise ValueError(f"header of {len(head)} bytes, at most {HEADER_MAX_BYTES} are allowed")
    data = b"".join(arrays[name][1].tobytes() for name in sorted(arrays))
    return len(head).to_bytes(8, "little") + head + data


def write(path, tensors, pipeline):
    """Writes the model file, whole or not at all."""
    data = to_bytes(tensors, pipeline)
    partial = f"{os.fspath(path)}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(data)
        os.replace(partial, path)
    except BaseException:
        if os.path.exists(partial):
            os.remove(partial)
        raise


def _no_duplicates(pairs):
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in the JSON")
    return result


def from_bytes(data, label="model"):
    """(tensors, pipeline) of the bytes of a model file; the arrays are copies."""
    if len(data) < 8:
        raise ValueError(f"{label}: {len(data)} bytes, shorter than the header length")
    head_bytes = int.from_bytes(data[:8], "little")
    if head_bytes > HEADER_MAX_BYTES or head_bytes > len(data) - 8:
        raise ValueError(f"{label}: header length {head_bytes} is out of range")
    try:
        header = json.loads(data[8 : 8 + head_bytes], object_pairs_hook=_no_duplicates)
        metadata = header.pop("__metadata__", {})
        if set(metadata) != {METADATA_KEY}:
            raise ValueError(f"__metadata__ must have the one key {METADATA_KEY}")
        pipeline = json.loads(metadata[METADATA_KEY], object_pairs_hook=_no_duplicates)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error
    body = data[8 + head_bytes :]
    tensors = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ValueError(f"{label}: tensor {name}: dtype {entry['dtype']} is not supported")
        first, last = entry["data_offsets"]
        count = 1
        for size in entry["shape"]:
            count *= size
        if first != end or last - first != count * dtype.itemsize or last > len(body):
            raise ValueError(f"{label}: tensor {name}: offsets {first} to {last} do not fit")
        tensors[name] = np.frombuffer(body[first:last], dtype).reshape(entry["shape"]).copy()
        end = last
    if end != len(body):
        raise ValueError(f"{label}: {len(body) - end} bytes behind the last tensor")
    return tensors, pipeline


def read(path):
    """(tensors, pipeline) of a model file."""
    with open(path, "rb") as file:
        return from_bytes(file.read(), os.fspath(path))

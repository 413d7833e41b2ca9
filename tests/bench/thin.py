#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""thin.py EVENT POINTS OUT: an event (npz or npz.xz, docs/formats.md) thinned by whole primary vertices to about
POINTS space points, written as OUT (npz.xz). The same vertices stay for the same numbers; the last one that stays is
the one that passes POINTS."""
import io
import lzma
import sys

import numpy as np


def read(path: str) -> dict[str, np.ndarray]:
    data = open(path, "rb").read()
    with np.load(io.BytesIO(lzma.decompress(data) if path.endswith(".xz") else data)) as arrays:
        return {name: arrays[name] for name in arrays.files}


def thin(event: dict[str, np.ndarray], points: int) -> dict[str, np.ndarray]:
    """All arrays by space point, and the further particles of merged clusters, of the vertices that stay."""
    n = len(event["x_um"])
    if points >= n:
        raise SystemExit(f"thin.py: the event has {n} space points, fewer than {points + 1}")
    vertex = event["p_vertex"][event["particle"]].astype(np.int64)
    numbers, counts = np.unique(vertex, return_counts=True)
    shuffled = np.random.default_rng(1).permutation(len(numbers))
    last = int(np.searchsorted(np.cumsum(counts[shuffled]), points))
    keep = np.isin(vertex, numbers[shuffled[:last + 1]])
    place = np.cumsum(keep) - 1
    out = {name: array[keep] if len(array) == n and not name.startswith(("p_", "extra_")) else array
           for name, array in event.items()}
    extra = keep[event["extra_hit"]]
    out["extra_hit"] = place[event["extra_hit"][extra]].astype(event["extra_hit"].dtype)
    out["extra_particle"] = event["extra_particle"][extra]
    return out


def main() -> None:
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    source, points, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    event = thin(read(source), points)
    buffer = io.BytesIO()
    np.savez(buffer, **event)
    with lzma.open(out, "wb") as file:
        file.write(buffer.getvalue())
    print(f"{out}: {len(event['x_um'])} space points")


main()

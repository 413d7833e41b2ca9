# SPDX-License-Identifier: Apache-2.0
"""Event files and answers of the comparison."""
import csv
import io
import lzma
import os

import numpy as np


def read(path: str) -> np.ndarray:
    """The event as pipeline.COLUMNS: float32 [N, 6], with the charge rounded as it travels to trackmill's workers"""
    with open(path, "rb") as file:
        data = file.read()
    with np.load(io.BytesIO(lzma.decompress(data) if path.endswith(".xz") else data)) as raw:
        charge = (raw["charge_e3"] / 1000).astype(np.float16)
        columns = [raw["x_um"] / 1000, raw["y_um"] / 1000, raw["z_um"] / 1000, raw["size_loc0"], raw["size_loc1"], charge]
    return np.ascontiguousarray(np.stack([column.astype(np.float32) for column in columns], axis=1))


def name(path: str) -> str:
    return os.path.basename(path).split(".")[0]


def read_tracks(path: str, n: int) -> np.ndarray:
    """What `trackmill find --out` wrote: int64 [N], -1 for points without a track"""
    label = np.full(n, -1)
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            label[int(row["hit_id"])] = int(row["track_id"])
    return label


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Share of points that are on the very same track in both, or on none in both"""
    def sets(label: np.ndarray) -> np.ndarray:
        """[N]: a number of the point's track that depends on its points alone"""
        chance = np.random.default_rng(1).integers(1, 1 << 62, len(label), dtype=np.int64)
        total = np.zeros(label.max() + 2, dtype=np.int64)
        np.add.at(total, label, chance)  # wraps; -1 is the last place
        return np.where(label < 0, -1, total[label])
    return float(np.mean(sets(one) == sets(other)))

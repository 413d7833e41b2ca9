# SPDX-License-Identifier: Apache-2.0
"""A worker in ten lines: density clustering of directions (DBSCAN with two neighbours), numpy only.

    python dbscan_worker.py tcp://127.0.0.1:5571
    trackmill find --broker tcp://127.0.0.1:5570 --model dbscan event000000001.npz.xz

Finds stiff tracks from the origin in sparse events, and little else: it shows how, not how well.
"""

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from trackmill import Worker

EPSILON = 0.01  # in phi and eta


def find(columns: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.int64]]:
    """Rows of each candidate, inside out: points join whose cells of phi and eta touch."""
    x, y, z = (columns[axis].astype(np.float64) for axis in "xyz")
    r = np.hypot(x, y) + 1e-9
    cells = np.floor(np.stack([np.arctan2(y, x), np.arcsinh(z / r)]).T / EPSILON).astype(np.int64)
    unique, cell_of = np.unique(cells, axis=0, return_inverse=True)
    number = {(int(phi), int(eta)): i for i, (phi, eta) in enumerate(unique)}
    label = np.arange(len(unique))
    for (phi, eta), i in number.items():
        for j in (number.get((phi + dp, eta + de)) for dp, de in ((0, 1), (1, -1), (1, 0), (1, 1))):
            if j is not None and label[i] != label[j]:
                label[label == label[j]] = label[i]
    of_point = label[cell_of.ravel()]
    groups = (np.flatnonzero(of_point == k) for k in np.unique(of_point))
    return [rows[np.argsort(r[rows])] for rows in groups if len(rows) >= 3]


if __name__ == "__main__":
    Worker(sys.argv[1:] or "tcp://127.0.0.1:5571", find, model="dbscan", version="1").run()

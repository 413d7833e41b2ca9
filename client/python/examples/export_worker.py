# SPDX-License-Identifier: Apache-2.0
"""Any PyTorch pipeline as a worker: a file of torch.export, float32 [N, 3] (x y z, mm) -> integers [N], the
number of each point's track, -1 for none.

    python export_worker.py mine.pt2 tcp://127.0.0.1:5571
    trackmill find --broker tcp://127.0.0.1:5570 --model mine event000000001.npz.xz

In place of a file it may as well be a module of yours, compiled or not.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trackmill import Worker

Array = npt.NDArray[Any]


def tracks(labels: Array) -> tuple[Array, Array, Array]:
    """Offsets, rows and scores (all 1) of the candidates."""
    rows = np.argsort(labels, kind="stable")
    rows = rows[np.searchsorted(labels[rows], 0) :]
    offsets = np.concatenate([[0], np.flatnonzero(np.diff(labels[rows])) + 1, [len(rows)]])
    return offsets, rows, np.ones(len(offsets) - 1, np.float32)


def main() -> None:
    """Command line."""
    path, *brokers = sys.argv[1:]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = torch.export.load(path).module().to(device)

    @torch.no_grad()  # type: ignore[untyped-decorator,unused-ignore]
    def find(columns: dict[str, Array]) -> tuple[Array, Array, Array]:
        points = np.stack([columns[axis] for axis in "xyz"], axis=1)
        labels = pipeline(torch.from_numpy(points).to(device)).cpu().numpy() if len(points) else np.empty(0)
        return tracks(labels)

    find({axis: np.linspace(1, 1000, 1000, dtype="f4") for axis in "xyz"})  # slow once, before anybody waits
    Worker(
        brokers or "tcp://127.0.0.1:5571", find, model=Path(path).stem, hash=path, device=device,
        backend="torch",
    ).run()  # fmt: skip


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Track finders that a worker's process can import."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from trackmill import BadEventError

Columns = dict[str, npt.NDArray[Any]]


def pairs(columns: Columns) -> list[npt.NDArray[np.int64]]:
    """Rows 2k and 2k + 1 are a track; what x of the first point says happens before."""
    first = columns["x"][0] if len(columns["x"]) else 0
    if first == 666:
        raise BadEventError("the number of the beast")
    if first == 13:
        raise RuntimeError("out of luck")
    if first == 9:
        os._exit(9)
    if first == 60:
        time.sleep(600)
    if first == 3:
        time.sleep(0.3)
    n = len(columns["x"])
    return [np.array([i + 1, i]) for i in range(n - n % 2 - 2, -2, -2)]  # in the wrong order


def hold_gil(columns: Columns) -> list[npt.NDArray[np.int64]]:
    """Keeps the interpreter to itself for seconds, as a careless extension does."""
    sum(range(300_000_000))
    return []


def spin(columns: Columns) -> list[npt.NDArray[np.int64]]:
    """Computes in Python for seconds."""
    end = time.monotonic() + 4
    while time.monotonic() < end:
        pass
    return []

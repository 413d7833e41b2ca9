# SPDX-License-Identifier: Apache-2.0
"""examples/export_worker.py with a pipeline that torch.export wrote, where PyTorch is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import DATA, PATIENCE, ROOT, Programs

import trackmill
from trackmill import Client

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
EXAMPLE = ROOT / "client" / "python" / "examples" / "export_worker.py"
SECTOR = 0.01  # of phi


class Sectors(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
    """Points with z > 0, by the sector of their phi."""

    def forward(self, points):  # type: ignore[no-untyped-def]
        sector = torch.floor(torch.atan2(points[:, 1], points[:, 0]) / SECTOR).long()
        return torch.where(points[:, 2] > 0, sector + 1000, -1)


def test_an_exported_pipeline_through_a_broker(programs: Programs, tmp_path: Path) -> None:
    points = torch.zeros(10, 3)
    shapes = ({0: torch.export.Dim("n")},)
    torch.export.save(
        torch.export.export(Sectors(), (points,), dynamic_shapes=shapes), tmp_path / "sectors.pt2"
    )
    broker = programs.broker()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    worker = subprocess.Popen(
        [sys.executable, EXAMPLE, tmp_path / "sectors.pt2", broker.workers], env=environment
    )
    try:
        event = trackmill.read_event(sorted(DATA.glob("event*.npz.xz"))[3])
        with Client(broker.clients, ttl=2 * PATIENCE) as client:
            client.find(event, model="sectors")
            tracks = client.find(event)
            assert tracks.model == "sectors@1"
            assert len(client.find({axis: event[axis][:0] for axis in "xyz"})) == 0
        forward = event["z"] > 0
        phi = torch.atan2(torch.from_numpy(event["y"]), torch.from_numpy(event["x"]))
        sector = torch.floor(phi / SECTOR).numpy()
        assert (np.sort(tracks.indices) == np.flatnonzero(forward)).all()
        assert len(tracks) == len(np.unique(sector[forward])) > 100
        assert all(len(np.unique(sector[rows])) == 1 for rows in tracks)
    finally:
        worker.terminate()
        assert worker.wait(PATIENCE) == 0

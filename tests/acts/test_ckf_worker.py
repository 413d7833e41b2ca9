# SPDX-License-Identifier: Apache-2.0
"""examples/ckf_worker.py: ACTS's own track finding behind a broker, judged by `trackmill score`."""

import json

import ckf_worker
import numpy as np
import pytest
from support import DATA, PATIENCE

import trackmill
from trackmill import Client, Worker


@pytest.fixture(scope="module")
def finder(tmp_path_factory):
    return ckf_worker.Finder(str(tmp_path_factory.mktemp("ckf")))


def test_as_a_worker(programs, tmp_path, finder):
    broker = programs.broker()
    with Worker(broker.workers, finder.find, model="ckf", requires=["module_id"], hash=ckf_worker.__file__), \
            Client(broker.clients, model="ckf", ttl=4 * PATIENCE) as client:
        for name, least in (("event000000020", 0.97), ("event000000040", 0.95)):
            event = trackmill.read_event(DATA / f"{name}.npz.xz", module_id=True)
            tracks = client.find(event)
            assert tracks.model == "ckf@1"
            trackmill.write_tracks(tmp_path / f"{name}-tracks.csv", tracks, event)
            said = json.loads(programs.cli("score", "--json", DATA / f"{name}.npz.xz", tmp_path / f"{name}-tracks.csv"))
            figures = said.get("total", said)
            assert figures["efficiency"] >= least and figures["fakes"] <= 0.01, figures
        empty = {name: event[name][:0] for name in event.columns}
        assert len(client.find(empty)) == 0
        with pytest.raises(trackmill.MissingColumnError, match="module_id"):
            client.find({axis: event[axis] for axis in "xyz"})


def test_points_of_another_detector(finder):
    event = trackmill.read_event(DATA / "event000000020.npz.xz", module_id=True)
    columns = dict(event.columns)
    with pytest.raises(trackmill.BadEventError, match="row 3: the Generic detector has no module 12"):
        finder.find(columns | {"module_id": np.where(np.arange(len(event)) == 3, np.uint64(12), columns["module_id"])})
    with pytest.raises(trackmill.BadEventError, match="is not on module"):
        finder.find(columns | {axis: columns[axis] * np.float32(1.1) for axis in "xyz"})

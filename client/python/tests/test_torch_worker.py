# SPDX-License-Identifier: Apache-2.0
"""examples/torch_worker.py against the C engine, where PyTorch is installed. (It is not installed for these
tests: it is larger than all the rest together.)"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from support import DATA, PATIENCE, ROOT, WEIGHTS, Programs

import trackmill
from trackmill import Client, Engine, Worker

pytest.importorskip("torch", reason="PyTorch is not installed")
sys.path[:0] = [str(ROOT / "client" / "python" / "examples"), str(ROOT / "weights" / "convert")]
import safetensors_io  # noqa: E402
import torch_worker  # noqa: E402

EVENTS = sorted(DATA.glob("event*.npz.xz"))[:4]


def plain(folder: Path) -> Path:
    """The standard model without the steps behind the track builder, which this worker leaves out."""
    tensors, pipeline = safetensors_io.read(WEIGHTS)
    for step in torch_worker.STEPS:
        pipeline["tracks"].pop(step, None)
    safetensors_io.write(folder / "plain.safetensors", tensors, pipeline)
    return folder / "plain.safetensors"


@pytest.mark.skipif("TRACKMILL_ENGINE" not in os.environ, reason="no TRACKMILL_ENGINE")
def test_the_same_candidates_as_the_engine(tmp_path: Path) -> None:
    model = plain(tmp_path)
    pipeline = torch_worker.Pipeline(model, "cpu")
    with Engine(model, device="cpu") as engine:
        for path in EVENTS:
            event = trackmill.read_event(path)
            theirs = engine.find(event)
            offsets, rows, scores = pipeline.find(event.columns)
            ours = {tuple(rows[a:b]): s for a, b, s in zip(offsets, offsets[1:], scores, strict=False)}
            shared = [
                (s, ours[tuple(t)]) for t, s in zip(theirs, theirs.scores, strict=True) if tuple(t) in ours
            ]
            assert len(shared) >= 0.995 * max(len(ours), len(theirs)) > 0, path  # rounding may tip an edge
            assert max(abs(a - b) for a, b in shared) < 1e-3


def test_through_a_broker(programs: Programs, tmp_path: Path) -> None:
    pipeline = torch_worker.Pipeline(plain(tmp_path), "cpu")
    event = trackmill.read_event(EVENTS[1])
    broker = programs.broker()
    with (
        Worker(broker.workers, pipeline.find, model="torch", requires=pipeline.columns, hash=WEIGHTS),
        Client(broker.clients, ttl=PATIENCE) as client,
    ):
        tracks = client.find(event, model="torch")
        assert len(tracks) == len(pipeline.find(event.columns)[2]) > 0
        assert len(client.find({name: event[name][:0] for name in event.columns}, model="torch")) == 0
        with pytest.raises(trackmill.MissingColumnError):
            client.find({axis: event[axis] for axis in "xyz"}, model="torch")


def test_what_it_does_not_know(tmp_path: Path) -> None:
    tensors, pipeline = safetensors_io.read(WEIGHTS)
    for change, text in (({"radius": pipeline["radius"] | {"k": 5}}, "nearest"),
                         ({"embed": pipeline["embed"] | {"features": ["r"]}}, "features")):  # fmt: skip
        safetensors_io.write(tmp_path / "other.safetensors", tensors, pipeline | change)
        with pytest.raises(ValueError, match=text):
            torch_worker.read_model(tmp_path / "other.safetensors")

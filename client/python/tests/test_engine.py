# SPDX-License-Identifier: Apache-2.0
"""The engine in this process, where TRACKMILL_ENGINE names its library."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from support import DATA, PATIENCE, WEIGHTS, Programs

import trackmill
from trackmill import Engine

LIBRARY = os.environ.get("TRACKMILL_ENGINE", "")
needs_library = pytest.mark.skipif(
    not Path(LIBRARY or "/none").is_file(), reason="no TRACKMILL_ENGINE: libtrackmill-engine.so of a build"
)
EVENT = DATA / "event000000020.npz.xz"


@needs_library
def test_as_the_command_line(programs: Programs, tmp_path: Path) -> None:
    programs.cli("find", "--quiet", "--model", WEIGHTS, "--device", "cpu", "--out", tmp_path, EVENT)
    event = trackmill.read_event(EVENT)
    with Engine(WEIGHTS, device="cpu") as engine:
        assert engine.model.startswith("standard@") and len(engine.weight_hash) == 64
        assert set(engine.columns) <= set(event.columns)
        tracks = engine.find(event)
        trackmill.write_tracks(tmp_path / "here.csv", tracks, event)
        assert "gnn" in tracks.stages_s and tracks.total_s > 0 and tracks.model == engine.model
        if tracks.starts is not None:  # of models with a fit
            assert all(len(getattr(tracks.starts, f.name)) == len(tracks) for f in fields(tracks.starts))
            assert set(tracks.starts.charge.tolist()) <= {-1, 0, 1}
            assert (tracks.starts.pt[tracks.starts.charge != 0] > 0.05).all()
        assert len(engine.find({name: event[name][:0] for name in event.columns})) == 0
    assert len(tracks) > 10
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / f"{event.name}-tracks.csv").read_bytes()
    with pytest.raises(RuntimeError, match="closed"):
        engine.find(event)


@needs_library
def test_threads_take_turns() -> None:
    event = trackmill.read_event(EVENT)
    found: list[trackmill.Tracks] = []
    with Engine(WEIGHTS, threads=1) as engine:
        threads = [threading.Thread(target=lambda: found.append(engine.find(event))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert len(found) == 4 and all(np.array_equal(t.indices, found[0].indices) for t in found)


@needs_library
def test_bad_events() -> None:
    good = dict(trackmill.read_event(EVENT).columns)
    with Engine(WEIGHTS) as engine:
        with pytest.raises(trackmill.MissingColumnError, match="charge"):
            engine.find({name: column for name, column in good.items() if name != "charge"})
        with pytest.raises(trackmill.BadEventError, match="column y, row 1"):
            engine.find(good | {"y": np.where(np.arange(len(good["y"])) == 1, np.nan, good["y"])})
        with pytest.raises(ValueError, match="column text"):
            engine.find(good | {"text": np.array(["a"] * len(good["x"]))})


@needs_library
def test_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRACKMILL_WEIGHTS", str(WEIGHTS.parent))
    with Engine("standard") as engine:
        version = engine.model.partition("@")[2]
    Engine(f"standard@{version}").close()
    with pytest.raises(trackmill.FileError, match="no model standard@none"):
        Engine("standard@none")
    with pytest.raises(trackmill.FileError, match=r"no model other: other.safetensors is in none of"):
        Engine("other")
    with pytest.raises(trackmill.FileError, match="no such file"):
        Engine(tmp_path / "lost.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(WEIGHTS.read_bytes()[:1000])
    with pytest.raises(trackmill.FileError, match=r"torn.safetensors"):
        Engine(tmp_path / "torn.safetensors")
    with pytest.raises(trackmill.TrackmillError, match="tpu"):
        Engine("standard", device="tpu")


def test_no_library(tmp_path: Path) -> None:
    """In a process of its own, as a library once loaded stays."""
    code = "import trackmill\ntry: trackmill.Engine()\nexcept trackmill.NoEngineError as error: print(error)"
    (tmp_path / "nothing.so").write_bytes(b"no library")
    for path, why in (
        ("/none/lib.so", "/none/lib.so: no such file"),
        (tmp_path / "nothing.so", "nothing.so: "),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE,
            env={**os.environ, "TRACKMILL_ENGINE": str(path), "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert (
            done.stdout.startswith("no_engine: no embedded engine (name a broker") and why in done.stdout
        ), done

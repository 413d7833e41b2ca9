# SPDX-License-Identifier: Apache-2.0
"""Client and worker with the real broker, the real workers and the real command line."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from finders import hold_gil, pairs, spin
from support import DATA, PATIENCE, ROOT, WEIGHTS, Programs, Scripted, event

import trackmill
from trackmill import AsyncClient, Client, Worker, columns
from trackmill.message import Command
from trackmill.worker import Find

FORMATS = [
    DATA / "formats" / "trackml" / "event000000007-hits.csv",
    DATA / "formats" / "acts" / "event000000003-spacepoint.csv",
    DATA / "formats" / "acts-old" / "event000000004-spacepoint.csv",
]
EVENTS = sorted(DATA.glob("*.npz.xz"))


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.mark.parametrize("path", [*EVENTS, *FORMATS], ids=lambda path: path.name)
@pytest.mark.parametrize("module_id", [False, True], ids=["plain", "module_id"])
def test_the_same_bytes_travel(programs: Programs, path: Path, module_id: bool) -> None:
    """What the command line sends of a file is what this client would."""
    with Scripted() as broker:
        more = ["--with-module-id"] if module_id else []
        process = programs.launch(
            programs.paths["cli"], "find", "--quiet", "--broker", broker.endpoint, "--model", "m", *more, path
        )
        broker.session()
        said = broker.hear(Command.REQUEST)
        process.kill()
    ours = columns.event_columns(trackmill.read_event(path, module_id=module_id))
    entries, payload = columns.pack(ours)
    assert dict((name, (kind, n)) for name, kind, n in said.fields["columns"]) == dict(
        (name, (kind, n)) for name, kind, n in entries
    )
    assert said.payload is not None
    theirs = columns.unpack(said.fields["columns"], said.payload)
    for name, values in ours.items():
        assert values.tobytes() == theirs[name].tobytes(), name
    assert entries == said.fields["columns"] and bytes(payload) == bytes(said.payload)


def test_the_same_tracks_byte_for_byte(programs: Programs, tmp_path: Path) -> None:
    broker = programs.broker()
    programs.worker(broker.workers, "--model", WEIGHTS)
    paths = [*EVENTS[:4], FORMATS[0]]
    programs.cli("find", "--quiet", "--out", tmp_path / "here", *paths)
    (tmp_path / "there").mkdir()
    with Client(broker.clients, model="standard", ttl=4 * PATIENCE) as client:
        events = [trackmill.read_event(path) for path in paths]
        for i, request in client.as_completed(events, in_flight=3):
            tracks = request.result()
            trackmill.write_tracks(tmp_path / "there" / f"{events[i].name}-tracks.csv", tracks, events[i])
            assert tracks.weight_hash in trackmill.status(broker.clients).models.values()
    names = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert len(names) == len(paths) and names == sorted(path.name for path in (tmp_path / "there").iterdir())
    for name in names:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_a_broker_goes_in_the_middle_of_a_job(programs: Programs, how: str) -> None:
    one, two = programs.broker(), programs.broker()
    programs.mock(f"{one.workers},{two.workers}", "name=m,time_ms=10-30", "--slots", "2")
    events = [event(100 + i, seed=i) for i in range(50)]
    with Client([one.clients, two.clients], ttl=PATIENCE) as client:
        got: dict[int, trackmill.Tracks] = {}
        for number, request in client.as_completed(events, in_flight=10):
            assert number not in got
            got[number] = request.result()
            if len(got) == 15:
                getattr(one, how)()
    assert sorted(got) == list(range(50))
    assert [tracks.n_points for _, tracks in sorted(got.items())] == [100 + i for i in range(50)]


def test_a_broker_is_restarted(programs: Programs) -> None:
    """Client and Python worker find back to the same endpoints; no request is lost."""
    clients, workers = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    broker = programs.broker(clients, workers)
    with Worker(workers, pairs, model="m"), Client(clients, ttl=PATIENCE) as client:
        slow = event(4) | {"x": np.array([3, 1, 2, 3], np.float32)}
        requests = [client.submit(slow) for _ in range(6)]
        requests[0].result()
        broker.kill()
        programs.broker(clients, workers)
        for request in requests:
            assert len(request.result(PATIENCE)) == 2


def test_deadline_no_model_cancel(programs: Programs) -> None:
    broker = programs.broker()
    with Client(broker.clients) as client:
        with pytest.raises(trackmill.NoModelError):
            client.find(event(), model="nobody", ttl=0.5)
        worker = programs.mock(broker.workers, "name=m,time_ms=3000")
        with pytest.raises(trackmill.DeadlineError):
            client.find(event(), ttl=0.5)
        request = client.submit(event())
        time.sleep(0.2)
        assert request.cancel()
        end = time.monotonic() + PATIENCE
        while (report := trackmill.status(broker.clients)).running + report.queued:
            assert time.monotonic() < end
            time.sleep(0.05)
        worker.kill()


def test_bad_event_and_missing_column(programs: Programs) -> None:
    broker = programs.broker()
    programs.worker(broker.workers, "--model", WEIGHTS)
    with Client(broker.clients, ttl=PATIENCE) as client, pytest.raises(trackmill.MissingColumnError):
        client.find({axis: np.zeros(5) for axis in "xyz"})


def test_busy_broker_takes_all_in_the_end(programs: Programs) -> None:
    broker = programs.broker("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", "--queue-requests", "2")
    programs.mock(broker.workers, "name=m,time_ms=20")
    with Client(broker.clients, ttl=PATIENCE) as client:
        requests = [client.submit(event(seed=i)) for i in range(20)]
        assert all(request.exception(PATIENCE) is None for request in requests)


def test_many_events_by_asyncio(programs: Programs) -> None:
    broker = programs.broker()
    programs.mock(broker.workers, "name=m,time_ms=1", "--slots", "2")

    async def main() -> int:
        async with AsyncClient(broker.clients, ttl=PATIENCE) as client:
            found = await asyncio.gather(*(client.find(event(50, seed=i)) for i in range(40)))
            return len(found)

    assert asyncio.run(main()) == 40


def test_large_event(programs: Programs) -> None:
    broker = programs.broker()
    programs.mock(broker.workers)
    with Client(broker.clients, ttl=PATIENCE) as client:
        tracks = client.find(event(1_000_000))
        assert tracks.n_points == 1_000_000 and tracks.sent_bytes > 13_000_000


def test_python_worker_asked_by_the_command_line(programs: Programs, tmp_path: Path) -> None:
    broker = programs.broker()
    with Worker(broker.workers, pairs, model="pairs", version="2", name="snake") as worker:
        assert worker.wait_registered(PATIENCE)
        path = EVENTS[0]
        out = programs.cli(
            "find", "--json", "--model", "pairs", "--broker", broker.clients, "--out", tmp_path, path
        )
        row = json.loads(out)["events"][0]
        assert (row["worker"], row["model"], row["candidates"]) == ("snake", "pairs@2", 5)
        lines = (tmp_path / "event000000001-tracks.csv").read_text().splitlines()
        assert lines[:5] == ["hit_id,track_id", "1,0", "0,0", "3,1", "2,1"] and len(lines) == 11


@pytest.mark.parametrize(("find", "processes"), [(spin, False), (hold_gil, True)])
def test_heartbeats_survive_a_busy_find(
    programs: Programs, caplog: pytest.LogCaptureFixture, find: Find, processes: bool
) -> None:
    """Python lets the network thread have the GIL now and then; what does not belongs into a process."""
    broker = programs.broker("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", "--heartbeat", "500ms")
    with (
        Worker(broker.workers, find, model="m", processes=processes),
        Client(broker.clients, ttl=4 * PATIENCE) as client,
    ):
        tracks = client.find(event())
        assert tracks.attempt == 1 and tracks.service_s > 2.5  # longer than a worker may be silent
        assert not caplog.records, caplog.text  # its session never ended


def test_sigterm_drains_the_example(programs: Programs) -> None:
    broker = programs.broker()
    process = subprocess.Popen(
        [sys.executable, ROOT / "client" / "python" / "examples" / "dbscan_worker.py", broker.workers],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        with Client(broker.clients, ttl=PATIENCE) as client:
            tracks = client.find(trackmill.read_event(EVENTS[1]))
            assert len(tracks) > 0 and tracks.model == "dbscan@1"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.communicate()


def test_workers_come_and_go(programs: Programs) -> None:
    """Python and C workers, killed and drained at random: one answer for each event."""
    broker = programs.broker()
    generator = random.Random(5)
    with Client(broker.clients, ttl=2 * PATIENCE) as client:
        requests = [client.submit(event(20, seed=i), model="m") for i in range(60)]
        first = programs.mock(broker.workers, "name=m,version=1,time_ms=10-40")
        same = trackmill.status(broker.clients).models["m@1"]
        for _ in range(3):
            worker = Worker(broker.workers, pairs, model="m", version="1", hash=same, slots=2)
            worker.start()
            assert worker.wait_registered(PATIENCE)
            mock = programs.mock(broker.workers, "name=m,version=1,time_ms=10-40")
            time.sleep(0.2)
            mock.kill() if generator.random() < 0.5 else mock.terminate()
            worker.stop()
            assert worker.join(PATIENCE)
        with Worker(broker.workers, pairs, model="m", version="1", hash=same):
            first.kill()
            for request in requests:
                assert request.result(2 * PATIENCE).attempt <= 4


def test_the_programs_of_the_documentation(programs: Programs, tmp_path: Path) -> None:
    """docs/python.md: its first program, and its worker, as they stand but for the ports."""
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.S
    )
    first = next(block for block in blocks if "write_tracks(" in block)
    ten_lines = next(block for block in blocks if "Worker(" in block)
    broker = programs.broker()
    worker = tmp_path / "sectors.py"
    worker.write_text(ten_lines.replace("tcp://127.0.0.1:5571", broker.workers), encoding="utf-8")
    source = first.replace("tcp://127.0.0.1:5570", broker.clients)
    source = source.replace("event000000010-tracks.csv", str(tmp_path / "tracks.csv"))
    source = source.replace('"tests/data', f'"{DATA}')
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    serving = subprocess.Popen([sys.executable, worker], env=environment)
    try:
        done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "candidates by sectors@1" in done.stdout
        assert (tmp_path / "tracks.csv").read_text().startswith("hit_id,track_id\n")
    finally:
        serving.terminate()
        assert serving.wait(PATIENCE) == 0

# SPDX-License-Identifier: Apache-2.0
"""The worker against a broker that follows a script."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from finders import Columns, pairs
from support import PATIENCE, Array, Scripted, event

import trackmill
from trackmill import Worker, columns
from trackmill.message import Command, Message, encode
from trackmill.worker import as_tracks, model_hash


def register(broker: Scripted, **fields: int) -> Message:
    said = broker.hear(Command.REGISTER)
    broker.welcome(**fields)
    return said


def dispatch(broker: Scripted, serial: int, what: Columns | None = None, ttl_ms: int = 60000) -> Message:
    entries, payload = columns.pack(what if what is not None else event(4))
    attempt = Message(Command.DISPATCH, {}, 7, serial)
    broker.say(
        Command.DISPATCH, attempt, bytes(payload), model="m@1", ttl_ms=ttl_ms, attempt=1, columns=entries
    )
    return attempt


def special(x: float) -> dict[str, Array]:
    return event(4) | {"x": np.array([x, 1, 2, 3], np.float32)}


def failed(broker: Scripted, serial: int) -> tuple[int, str]:
    said = broker.hear(Command.FAILED)
    assert (said.origin, said.serial) == (7, serial)
    return said.fields["code"], said.fields["text"]


class Gate:
    """A find that waits until the test lets it go on."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, what: Columns) -> list[Array]:
        self.entered.release()
        assert self.go.acquire(timeout=PATIENCE)
        return []


def test_an_event_and_its_tracks() -> None:
    with Scripted() as broker, Worker(broker.endpoint, pairs, model="m", slots=2, name="w") as worker:
        said = register(broker)
        assert said.fields["models"] == [("m", "1", model_hash(None, pairs))]
        assert (said.fields["name"], said.fields["slots"]) == ("w", 2)
        assert broker.hear(Command.CREDIT).fields["credit"] == 3
        assert worker.wait_registered(PATIENCE)
        attempt = dispatch(broker, 5)
        started = broker.hear(Command.STARTED)
        assert (started.origin, started.serial) == (attempt.origin, 5)
        result = broker.hear(Command.RESULT)
        assert (result.origin, result.serial) == (7, 5) and result.payload is not None
        tracks = columns.unpack(result.fields["columns"], result.payload)
        assert tracks["indices"].tolist() == [1, 0, 3, 2]  # candidates by their least row
        assert tracks["offsets"].tolist() == [0, 2, 4] and tracks["scores"].tolist() == [1, 1]
        assert [name for name, _ in result.fields["times"]] == ["find"]
        assert broker.hear(Command.CREDIT).fields["credit"] == 1


@pytest.mark.parametrize("processes", [False, True])
def test_failures(processes: bool) -> None:
    with (
        Scripted() as broker,
        Worker(broker.endpoint, pairs, model="m", processes=processes, requires=["x", "n_cells"]),
    ):
        register(broker)
        broker.hear(Command.CREDIT)
        wants: list[tuple[Columns, int, str]] = [
            (special(666), 20, "beast"),
            (special(13), 22, "RuntimeError: out of luck"),
            (special(np.nan), 20, "column x, row 0"),
            (special(1) | {"z": np.zeros(3, np.float32)}, 20, "column z"),
            (special(1) | {"y": np.zeros(4)}, 20, "column y is float64"),
            ({axis: np.zeros(1, np.float32) for axis in "xyz"}, 21, "n_cells"),
            ({axis: np.zeros(1, np.float32) for axis in "xy"}, 21, "column z"),
        ]
        for serial, (what, code, words) in enumerate(wants, 1):
            dispatch(broker, serial, what)
            broker.hear(Command.STARTED)
            got = failed(broker, serial)
            assert got[0] == code and words in got[1]
            assert broker.hear(Command.CREDIT).fields["credit"] == 1
        dispatch(broker, 99)
        broker.hear(Command.STARTED)
        broker.hear(Command.RESULT)


def test_a_process_that_dies_or_hangs_costs_one_event() -> None:
    with (
        Scripted() as broker,
        Worker(broker.endpoint, pairs, model="m", processes=True, attempt_timeout=5) as worker,
    ):
        register(broker)
        broker.hear(Command.CREDIT)
        for serial, x, words in ((1, 9, "died"), (2, 60, "more than 5 s")):
            dispatch(broker, serial, special(x))
            broker.hear(Command.STARTED)
            code, text = failed(broker, serial)
            assert code == 22 and words in text
            broker.hear(Command.CREDIT)
        dispatch(broker, 3)
        broker.hear(Command.STARTED)
        broker.hear(Command.RESULT)
        worker.stop()
        broker.hear(Command.CREDIT)
        broker.hear(Command.DRAIN)


def test_a_thread_that_hangs_ends_the_worker() -> None:
    gate = Gate()
    with Scripted() as broker:
        worker = Worker(broker.endpoint, gate, model="m", hash=bytes(32), attempt_timeout=0.3)
        worker.start()
        register(broker)
        broker.hear(Command.CREDIT)
        dispatch(broker, 1)
        broker.hear(Command.STARTED)
        broker.hear(Command.BYE)
        with pytest.raises(trackmill.BackendError, match="hangs"):
            worker.join(PATIENCE)
        gate.go.release()


def test_heartbeats_while_it_computes() -> None:
    gate = Gate()
    with Scripted(heartbeat_ms=50) as broker, Worker(broker.endpoint, gate, model="m", hash=bytes(32)):
        register(broker)
        dispatch(broker, 1)
        broker.hear(Command.CREDIT)
        broker.hear(Command.STARTED)
        running = 0
        while running < 3:
            running += broker.hear(Command.HEARTBEAT).fields["running"]
        broker.say(Command.PING)
        while broker.hear(Command.PONG, Command.HEARTBEAT).command != Command.PONG:
            pass
        gate.go.release()
        broker.hear(Command.RESULT)


def test_revoke() -> None:
    gate = Gate()
    with Scripted() as broker, Worker(broker.endpoint, gate, model="m", hash=bytes(32)):
        register(broker)
        broker.hear(Command.CREDIT)
        first, second = dispatch(broker, 1), dispatch(broker, 2)
        broker.hear(Command.STARTED)
        broker.say(Command.REVOKE, second)  # has not begun: dropped
        assert broker.hear(Command.CREDIT).fields["credit"] == 1
        broker.say(Command.REVOKE, first)  # runs: its slot is free when it ends
        broker.say(Command.REVOKE, Message(Command.REVOKE, {}, 7, 99))
        broker.nothing()
        gate.go.release()
        assert broker.hear(Command.CREDIT).fields["credit"] == 1
        broker.nothing(0.1)


def test_one_too_many_and_one_too_late() -> None:
    gate = Gate()
    with Scripted() as broker, Worker(broker.endpoint, gate, model="m", hash=bytes(32)):
        register(broker)
        broker.hear(Command.CREDIT)
        dispatch(broker, 1)
        broker.hear(Command.STARTED)
        dispatch(broker, 2, ttl_ms=50)
        dispatch(broker, 3)
        assert failed(broker, 3)[0] == 10
        time.sleep(0.2)  # longer than the second has
        gate.go.release()
        broker.hear(Command.RESULT)
        broker.hear(Command.CREDIT)
        broker.hear(Command.STARTED)
        assert failed(broker, 2)[0] == 12


def test_dispatch_that_cannot_be_read() -> None:
    with Scripted() as broker, Worker(broker.endpoint, pairs, model="m"):
        register(broker)
        broker.hear(Command.CREDIT)
        good = encode(Message(Command.REVOKE, {}, 7, 4))[0]
        broker.say_frames([bytes(good[:5]) + b"\x23" + bytes(good[6:]), b"\x80", b""])
        assert failed(broker, 4)[0] == 2
        assert broker.hear(Command.CREDIT).fields["credit"] == 1


def test_drain() -> None:
    gate = Gate()
    with Scripted() as broker:
        worker = Worker(broker.endpoint, gate, model="m", hash=bytes(32))
        worker.start()
        register(broker)
        broker.hear(Command.CREDIT)
        dispatch(broker, 1)
        broker.hear(Command.STARTED)
        dispatch(broker, 2)
        broker.say(Command.PING)
        broker.hear(Command.PONG)  # so it has the second too
        worker.stop()
        broker.hear(Command.DRAIN)
        assert failed(broker, 2)[0] == 11
        dispatch(broker, 3)
        assert failed(broker, 3)[0] == 11
        assert not worker.join(0.1)
        gate.go.release()
        broker.hear(Command.RESULT)
        broker.hear(Command.BYE)
        assert worker.join(PATIENCE)


@pytest.mark.parametrize("same_epoch", [True, False])
def test_a_new_session_and_what_ran_before(same_epoch: bool) -> None:
    gate = Gate()
    with Scripted() as broker, Worker(broker.endpoint, gate, model="m", hash=bytes(32)):
        register(broker, epoch=7)
        assert broker.hear(Command.CREDIT).fields["credit"] == 2
        dispatch(broker, 1)
        broker.hear(Command.STARTED)
        broker.error(3)  # to some heartbeat
        register(broker, epoch=7 if same_epoch else 8)
        assert broker.hear(Command.CREDIT).fields["credit"] == 1  # a slot is taken still
        gate.go.release()
        if same_epoch:
            assert broker.hear(Command.RESULT).serial == 1
        assert broker.hear(Command.CREDIT).fields["credit"] == 1
        dispatch(broker, 2)
        assert broker.hear(Command.STARTED).serial == 2
        gate.go.release()
        assert broker.hear(Command.RESULT).serial == 2


def test_silence_is_death() -> None:
    with Scripted(heartbeat_ms=200, liveness=10) as broker, Worker(broker.endpoint, pairs, model="m"):
        register(broker)
        broker.hear(Command.CREDIT)
        register(broker)


def test_refused_everywhere() -> None:
    with Scripted() as one, Scripted() as two:
        worker = Worker([one.endpoint, two.endpoint], pairs, model="m")
        worker.start()
        for broker, code in ((one, 6), (two, 1)):
            broker.hear(Command.REGISTER)
            broker.error(code, protocol=2)
        with pytest.raises(trackmill.ModelHashError):
            worker.join(PATIENCE)


def test_busy_comes_again() -> None:
    with Scripted() as broker, Worker(broker.endpoint, pairs, model="m"):
        broker.hear(Command.REGISTER)
        broker.error(10, retry_after_ms=300)
        register(broker)


def test_credit_is_split_and_results_have_a_limit() -> None:
    with (
        Scripted() as one,
        Scripted() as two,
        Worker([one.endpoint, two.endpoint], pairs, model="m", slots=2),
    ):
        register(one, max_payload=39)
        register(two)
        assert one.hear(Command.CREDIT).fields["credit"] == 2
        assert two.hear(Command.CREDIT).fields["credit"] == 1
        dispatch(one, 1)
        one.hear(Command.STARTED)
        assert failed(one, 1)[0] == 5


def test_what_find_may_return() -> None:
    got = as_tracks(([0, 1, 3], [5, 4, 2], [0.25, 0.5]), 6)
    assert [got[name].tolist() for name in ("offsets", "indices", "scores")] == [
        [0, 2, 3],
        [4, 2, 5],
        [0.5, 0.25],
    ]
    assert len(as_tracks([], 0)["indices"]) == 0
    assert as_tracks([[], [1], np.array([0])], 2)["offsets"].tolist() == [
        0,
        1,
        2,
    ]  # empty candidates say nothing
    wrong: list[object] = [[[0], [0]], [[7]], [[-1]], [[0.5]], ([0, 1], [0], [2.0]), ([0], [0], []), None, 3]
    for found in wrong:
        with pytest.raises((ValueError, TypeError, trackmill.MalformedError)):
            as_tracks(found, 3)  # type: ignore[arg-type]


def test_hash(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert model_hash(file, pairs).hex() == model_hash(known, pairs).hex() == known
    assert model_hash(bytes(32), pairs) == bytes(32)
    assert model_hash(None, pairs) == model_hash(Path(__file__).with_name("finders.py"), pairs)
    with pytest.raises(ValueError):
        model_hash(b"short", pairs)
    with pytest.raises(ValueError):
        model_hash(None, len)  # type: ignore[arg-type]


def test_wrong_use() -> None:
    for options in (
        {"model": "a b"},
        {"model": "a@1"},
        {"model": "m", "slots": 0},
        {"model": "m", "slots": 65},
    ):
        with pytest.raises(ValueError):
            Worker("tcp://a:1", pairs, **options)

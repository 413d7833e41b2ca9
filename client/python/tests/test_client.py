# SPDX-License-Identifier: Apache-2.0
"""The client against a broker that follows a script."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support import PATIENCE, Array, Helper, Scripted, event

import trackmill
from trackmill import AsyncClient, Client, columns
from trackmill.message import Command, Message, encode


def test_an_event_and_its_answer() -> None:
    with Scripted() as broker, Client(broker.endpoint, name="tester", model="m") as client:
        request = client.submit(event(), ttl=30, priority=0)
        hello = broker.hear(Command.HELLO)
        assert hello.fields["name"] == "tester" and hello.fields["software"].startswith("trackmill")
        broker.welcome()
        said = broker.hear(Command.REQUEST)
        assert said.fields["model"] == "m" and said.fields["priority"] == 0
        assert 25000 < said.fields["ttl_ms"] <= 30000
        assert said.payload is not None
        got = columns.unpack(said.fields["columns"], said.payload)
        for name, values in event().items():
            assert got[name].tobytes() == values.tobytes() and got[name].dtype == values.dtype
        broker.answer(said)
        tracks = request.result(PATIENCE)
        assert [rows.tolist() for rows in tracks] == [[0, 1]] and tracks.scores.tolist() == [0.5]
        assert (
            tracks.labels.tolist() == [0, 0, -1, -1, -1]
            and len(tracks) == 1
            and tracks[-1].tolist() == [0, 1]
        )
        assert (tracks.model, tracks.weight_hash, tracks.worker) == ("m@1", "00" * 32, "w")
        assert (tracks.queue_s, tracks.service_s, tracks.stages_s) == (1e-5, 0.002, {"gnn": 0.0015})
        assert tracks.attempt == 1 and 0 < tracks.total_s < PATIENCE
        assert tracks.sent_bytes == sum(map(len, broker.frames))
        with pytest.raises(IndexError):
            tracks[1]


def test_forms_of_events() -> None:
    structured = np.zeros(3, [("x", "f8"), ("y", "f4"), ("z", "i4"), ("charge", ">f2")])
    structured["charge"] = [0.5, 1, 2]
    got = columns.event_columns(structured)
    assert [got[axis].dtype for axis in "xyz"] == [np.float32] * 3
    entries, payload = columns.pack(got)
    assert entries[3] == ("charge", 5, 3)
    assert columns.unpack(entries, payload)["charge"].tolist() == [0.5, 1, 2]
    assert len(columns.event_columns({"x": [], "y": [], "z": []})["x"]) == 0
    assert columns.event_columns(trackmill.Event(event()))["n_cells"].dtype == np.uint8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": np.array([1, np.nan, 2, 3, 4])}, "column x, row 1"),
        ({"z": np.full(5, 2e5)}, "column z, row 0"),
        ({"x": np.full(5, 1e300)}, "column x, row 0"),
        ({"y": np.zeros(4)}, "column y has the shape"),
        ({"n_cells": np.zeros((5, 1))}, "column n_cells has the shape"),
        ({"x": np.array(["a"] * 5)}, "column x is"),
    ],
)
def test_bad_events_never_travel(change: dict[str, np.ndarray], words: str) -> None:
    with Client("tcp://127.0.0.1:9") as client:
        with pytest.raises(trackmill.BadEventError, match=words):
            client.submit(event() | change)
        with pytest.raises(trackmill.MissingColumnError, match="column y"):
            client.submit({"x": np.zeros(1), "z": np.zeros(1)})
        with pytest.raises(ValueError, match="no type"):
            client.submit(event() | {"note": np.array(["a"] * 5)})


def test_wrong_use() -> None:
    for brokers in ("nonsense", "", "tcp://host", ["http://a:1"]):
        with pytest.raises(ValueError):
            Client(brokers)
    with pytest.raises(ValueError):
        Client("tcp://a:1", model="a@b@c")
    with pytest.raises(ValueError):
        Client("tcp://a:1", ttl=0)
    client = Client("tcp://127.0.0.1:9")
    with pytest.raises(ValueError):
        client.submit(event(), priority=3)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.submit(event())


def test_window_is_kept() -> None:
    with Scripted() as broker, Client(broker.endpoint) as client:
        requests = [client.submit(event(seed=i)) for i in range(5)]
        broker.session(window=2)
        first, second = broker.hear(Command.REQUEST), broker.hear(Command.REQUEST)
        broker.nothing()
        broker.answer(second)
        third = broker.hear(Command.REQUEST)
        assert (first.serial, second.serial, third.serial) == (1, 2, 3)
        assert first.origin == third.origin
        broker.nothing(0.1)
        assert requests[1].result(PATIENCE) and not requests[0].done()
        assert requests[4].cancel()  # has not travelled: nothing to say
        broker.answer(first)
        assert broker.hear(Command.REQUEST).serial == 4


def test_an_absent_window_is_one() -> None:
    with Scripted() as broker, Client(broker.endpoint) as client:
        client.submit(event()), client.submit(event())
        broker.hear(Command.HELLO)
        broker.say(Command.WELCOME, software="s", epoch=1, heartbeat_ms=1000, liveness=9, max_payload=10000)
        broker.hear(Command.REQUEST)
        broker.nothing()


@pytest.mark.parametrize("code", [2, 5, 12, 14, 15, 20, 21, 22, 23, 77])
def test_errors_of_a_request(code: int) -> None:
    with Scripted() as broker, Client(broker.endpoint) as client:
        request = client.submit(event())
        broker.session()
        broker.error(code, broker.hear(Command.REQUEST))
        error = request.exception(PATIENCE)
        assert isinstance(error, trackmill.TrackmillError)
        assert error.code == code and "says the script" in str(error)


def test_busy_comes_again_later_under_the_same_id() -> None:
    with Scripted() as broker, Client(broker.endpoint) as client:
        request = client.submit(event())
        broker.session()
        said = broker.hear(Command.REQUEST)
        start = time.monotonic()
        broker.error(10, said, retry_after_ms=700)
        again = broker.hear(Command.REQUEST)
        assert time.monotonic() - start >= 0.7
        assert (again.origin, again.serial) == (said.origin, said.serial)
        assert again.fields["ttl_ms"] < said.fields["ttl_ms"]  # less is left
        broker.answer(again)
        assert len(request.result(PATIENCE)) == 1


def test_busy_at_hello() -> None:
    with Scripted() as full, Scripted() as other, Client([full.endpoint, other.endpoint]) as client:
        request = client.submit(event())
        full.hear(Command.HELLO)
        full.error(10, retry_after_ms=500)
        other.session()
        other.answer(other.hear(Command.REQUEST))
        request.result(PATIENCE)


def test_cancel_is_said_and_keeps_its_place_in_the_window() -> None:
    with Scripted() as broker, Client(broker.endpoint) as client:
        one, two = client.submit(event()), client.submit(event())
        broker.session(window=1)
        said = broker.hear(Command.REQUEST)
        assert one.cancel() and one.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            one.result()
        assert concurrent.futures.wait([one], PATIENCE).done == {one}
        cancel = broker.hear(Command.CANCEL)
        assert (cancel.origin, cancel.serial) == (said.origin, said.serial)
        broker.nothing()  # the broker has not had its last word
        broker.error(13, said)
        broker.answer(broker.hear(Command.REQUEST))
        assert two.result(PATIENCE) and not two.cancel()


def test_deadline_when_the_broker_forgets() -> None:
    with Scripted() as broker, Client(broker.endpoint) as client:
        start = time.monotonic()
        request = client.submit(event(), ttl=0.3)
        broker.session()
        said = broker.hear(Command.REQUEST)
        cancel = broker.hear(Command.CANCEL)
        assert cancel.serial == said.serial
        error = request.exception(PATIENCE)
        assert isinstance(error, trackmill.DeadlineError) and isinstance(error, TimeoutError)
        assert time.monotonic() - start >= 0.3


def test_deadline_in_the_window() -> None:
    with Scripted() as broker, Client(broker.endpoint) as client:
        client.submit(event())
        late = client.submit(event(), ttl=0.5)
        broker.session(window=1)
        broker.hear(Command.REQUEST)
        assert isinstance(late.exception(PATIENCE), trackmill.DeadlineError)


def test_nobody_listens() -> None:
    with Client("tcp://127.0.0.1:9,tcp://127.0.0.1:10") as client:
        start = time.monotonic()
        with pytest.raises(trackmill.NoBrokerError, match="nobody listens") as caught:
            client.find(event(), ttl=0.7)
        assert 0.7 <= time.monotonic() - start < 30
        assert isinstance(caught.value, ConnectionError) and "127.0.0.1:10" in str(caught.value)


def test_a_broker_that_says_nothing_is_left() -> None:
    with Scripted() as mute, Scripted() as other, Client([mute.endpoint, other.endpoint]) as client:
        request = client.submit(event())
        mute.hear(Command.HELLO)
        other.session()
        other.answer(other.hear(Command.REQUEST))
        request.result(PATIENCE)


def test_silence_is_death_and_ids_are_kept() -> None:
    with (
        Scripted(heartbeat_ms=200, liveness=10) as first,
        Scripted() as second,
        Client([first.endpoint, second.endpoint]) as client,
    ):
        requests = [client.submit(event()) for _ in range(3)]
        first.session()
        said = [first.hear(Command.REQUEST) for _ in requests]
        first.answer(said[1])
        second.session()
        again = [second.hear(Command.REQUEST) for _ in range(2)]
        assert [(r.origin, r.serial) for r in again] == [(r.origin, r.serial) for r in (said[0], said[2])]
        for request in again:
            second.answer(request)
        assert all(request.result(PATIENCE) for request in requests)


def test_pings_in_both_directions() -> None:
    with Scripted(heartbeat_ms=50) as broker, Client(broker.endpoint):
        broker.session()
        broker.hear(Command.PING)
        broker.say(Command.PING)
        broker.hear(Command.PONG)


def test_pings_while_answers_stream_in() -> None:
    """Receiving is no sign of life to the other side."""
    with Scripted(heartbeat_ms=50) as broker, Client(broker.endpoint):
        broker.session()
        for _ in range(40):
            broker.say(Command.PONG)
            if broker.socket.poll(20):
                broker.hear(Command.PING)
                return
    pytest.fail("no PING")


def test_a_broken_connection_is_noticed_at_once() -> None:
    with Scripted() as second:
        first = Scripted(heartbeat_ms=60000)
        with Client([first.endpoint, second.endpoint]) as client:
            request = client.submit(event())
            first.session()
            first.hear(Command.REQUEST)
            first.close()
            second.session()
            second.answer(second.hear(Command.REQUEST))
            request.result(PATIENCE)


def test_unknown_peer_hello_and_again() -> None:
    with Scripted() as broker, Client(broker.endpoint) as client:
        requests = [client.submit(event()) for _ in range(2)]
        broker.session()
        said = [broker.hear(Command.REQUEST) for _ in requests]
        broker.error(3)
        broker.error(3)  # one for each message
        broker.session()
        for request in said:
            again = broker.hear(Command.REQUEST)
            assert (again.origin, again.serial) == (request.origin, request.serial)
            broker.answer(again)
        assert all(request.result(PATIENCE) for request in requests)


def test_a_broker_that_keeps_forgetting_is_left() -> None:
    with Scripted() as broken, Scripted() as other, Client([broken.endpoint, other.endpoint]) as client:
        request = client.submit(event())
        for _ in range(4):
            broken.session()
            broken.hear(Command.REQUEST)
            broken.error(3)
        other.session()
        other.answer(other.hear(Command.REQUEST))
        request.result(PATIENCE)


def test_busy_makes_the_window_smaller_and_answers_larger() -> None:
    with Scripted() as broker, Client(broker.endpoint) as client:
        requests = [client.submit(event()) for _ in range(4)]
        broker.session(window=4)
        said = [broker.hear(Command.REQUEST) for _ in requests]
        for refused in said[1:]:
            broker.error(10, refused, retry_after_ms=0)
        broker.nothing(1.0)  # one is there, one is allowed
        broker.answer(said[0])
        assert [broker.hear(Command.REQUEST).serial for _ in range(2)] == [2, 3]
        broker.nothing(0.1)


@pytest.mark.parametrize("of_request", [False, True])
def test_draining(of_request: bool) -> None:
    with Scripted() as first, Scripted() as second, Client([first.endpoint, second.endpoint]) as client:
        one = client.submit(event())
        first.session()
        kept = first.hear(Command.REQUEST)
        two = client.submit(event())
        other = first.hear(Command.REQUEST)
        first.error(11, other if of_request else None)
        second.session()
        three = client.submit(event())
        moved = second.hear(Command.REQUEST)
        if of_request:
            assert moved.serial == other.serial
            second.answer(moved)
            moved = second.hear(Command.REQUEST)
        else:
            first.answer(other)
        assert moved.serial == other.serial + 1
        second.answer(moved)
        first.answer(kept)
        first.hear(Command.BYE)
        for request in (one, two, three):
            request.result(PATIENCE)


def test_bye_of_the_broker() -> None:
    with Scripted() as first, Scripted() as second, Client([first.endpoint, second.endpoint]) as client:
        request = client.submit(event())
        first.session()
        first.hear(Command.REQUEST)
        first.say(Command.BYE, text="stops")
        second.session()
        second.answer(second.hear(Command.REQUEST))
        request.result(PATIENCE)


def test_another_version_everywhere_is_the_end() -> None:
    with Scripted() as one, Scripted() as two, Client([one.endpoint, two.endpoint]) as client:
        request = client.submit(event())
        one.hear(Command.HELLO)
        one.error(1, protocol=2)
        two.hear(Command.HELLO)
        header, fields = encode(Message(Command.WELCOME, {
            "software": "s", "epoch": 1, "heartbeat_ms": 50, "liveness": 5, "max_payload": 1}))  # fmt: skip
        two.say_frames([bytes(header[:4]) + b"\2" + bytes(header[5:]), fields])
        assert isinstance(request.exception(PATIENCE), trackmill.VersionError)


def test_another_version_of_one_broker() -> None:
    with Scripted() as new, Scripted() as ours, Client([new.endpoint, ours.endpoint]) as client:
        request = client.submit(event())
        new.hear(Command.HELLO)
        new.error(1, protocol=2)
        ours.session()
        ours.answer(ours.hear(Command.REQUEST))
        request.result(PATIENCE)


def test_too_large_for_the_broker() -> None:
    with Scripted() as broker, Client(broker.endpoint) as client:
        request = client.submit(event(1000))
        broker.session(max_payload=500)
        assert isinstance(request.exception(PATIENCE), trackmill.TooLargeError)
        broker.nothing(0.1)


@pytest.mark.parametrize(
    "tracks",
    [
        {"offsets": [0, 2], "indices": [0, 5], "scores": [1]},
        {"offsets": [0, 2], "indices": [1, 1], "scores": [1]},
        {"offsets": [1, 2], "indices": [0, 1], "scores": [1]},
        {"offsets": [0, 1], "indices": [0, 1], "scores": [1]},
        {"offsets": [0, 2, 1, 3], "indices": [0, 1, 2], "scores": [1, 1, 1]},
        {"offsets": [0, 2], "indices": [0, 1], "scores": [1.5]},
        {"offsets": [0, 2], "indices": [0, 1], "scores": [np.nan]},
        {"offsets": [0, 2], "indices": [0, 1], "scores": []},
        {"offsets": [0, 2], "indices": [0, 1]},
        {"offsets": [], "indices": [], "scores": []},
    ],
)
def test_wrong_tracks(tracks: dict[str, list[float]]) -> None:
    types = {"offsets": np.uint32, "indices": np.uint32, "scores": np.float32}
    with Scripted() as broker, Client(broker.endpoint) as client:
        request = client.submit(event())
        broker.session()
        arrays = {name: np.array(values).astype(types[name]) for name, values in tracks.items()}
        broker.answer(broker.hear(Command.REQUEST), arrays)
        assert isinstance(request.exception(PATIENCE), trackmill.MalformedError)


STARTS: dict[str, list[float]] = {
    "pt": [1.5],
    "phi": [-2],
    "eta": [0.5],
    "d0": [0.1],
    "z0": [30],
    "charge": [-1],
}


def answer_with(starts: dict[str, list[float]]) -> tuple[BaseException | None, Any]:
    """What becomes of an answer of one candidate with these columns of start values."""
    tracks: dict[str, Array] = {
        "offsets": np.array([0, 2], np.uint32),
        "indices": np.array([0, 1], np.uint32),
        "scores": np.array([0.5], np.float32),
    }
    for name, values in starts.items():
        tracks[name] = np.array(values).astype(np.int8 if name == "charge" else np.float32)
    with Scripted() as broker, Client(broker.endpoint) as client:
        request = client.submit(event())
        broker.session()
        broker.answer(broker.hear(Command.REQUEST), tracks)
        error = request.exception(PATIENCE)
        return error, None if error else request.result().starts


def test_start_values() -> None:
    error, starts = answer_with(STARTS)
    assert error is None
    assert {name: getattr(starts, name).tolist() for name in ("phi", "z0", "charge")} == {
        "phi": [-2], "z0": [30], "charge": [-1],
    }  # fmt: skip
    assert answer_with({}) == (None, None)


@pytest.mark.parametrize(
    "wrong",
    [{"pt": [np.nan]}, {"charge": [2]}, {"z0": [1, 2]}, {"eta": None}],
)
def test_wrong_start_values(wrong: dict[str, Any]) -> None:
    columns = {name: values for name, values in {**STARTS, **wrong}.items() if values is not None}
    assert isinstance(answer_with(columns)[0], trackmill.MalformedError)


def test_an_answer_that_cannot_be_read() -> None:
    with Scripted() as broker, Client(broker.endpoint) as client:
        request = client.submit(event())
        broker.session()
        said = broker.hear(Command.REQUEST)
        header = (
            bytes(said_frame)
            if (said_frame := encode(Message(Command.CANCEL, {}, said.origin, said.serial))[0])
            else b""
        )
        broker.say_frames([b"junk"])
        broker.say_frames([header[:5] + b"\x11" + header[6:], b"\x80", b""])
        assert isinstance(request.exception(PATIENCE), trackmill.MalformedError)


def test_strangers_and_repeated_answers_are_ignored() -> None:
    with Scripted() as broker, Client(broker.endpoint) as client:
        one, two = client.submit(event()), client.submit(event())
        broker.session()
        first, second = broker.hear(Command.REQUEST), broker.hear(Command.REQUEST)
        broker.answer(Message(Command.REQUEST, {}, first.origin ^ 1 or 3, first.serial))
        broker.error(22, Message(Command.REQUEST, {}, first.origin, 99))
        broker.answer(first)
        broker.answer(first)
        broker.error(22, first)
        broker.welcome(window=1)
        broker.answer(second)
        assert one.result(PATIENCE) and two.result(PATIENCE)


def test_close_cancels_and_says_bye() -> None:
    with Scripted() as broker:
        with Client(broker.endpoint) as client:
            request = client.submit(event())
            broker.session()
            broker.hear(Command.REQUEST)
        assert request.cancelled()
        broker.hear(Command.BYE)


def test_held_bytes_are_bounded() -> None:
    with Scripted() as broker, Client(broker.endpoint, max_bytes=1000) as client:
        request = client.submit(event(50))
        with pytest.raises(trackmill.BusyError):
            client.submit(event(50))
        broker.session()
        broker.answer(broker.hear(Command.REQUEST))
        request.result(PATIENCE)
        client.submit(event(50))


def test_as_completed_in_order_of_answers_with_bad_ones() -> None:
    with Scripted() as broker, Client(broker.endpoint) as client:
        taken: list[int] = []

        def source() -> Iterator[trackmill.EventLike]:
            for i in range(6):
                taken.append(i)
                yield event(seed=i) if i != 3 else {"x": [1.0], "y": [], "z": []}

        def serve() -> None:
            broker.session()
            a, b = broker.hear(Command.REQUEST), broker.hear(Command.REQUEST)
            assert len(taken) == 2
            broker.answer(b)
            broker.answer(a)
            for _ in range(3):
                broker.answer(broker.hear(Command.REQUEST))

        helper = Helper(serve)
        got = [(i, request.exception()) for i, request in client.as_completed(source(), in_flight=2)]
        helper.done()
        assert [i for i, _ in got][:2] == [1, 0] and sorted(i for i, _ in got) == list(range(6))
        assert [i for i, error in got if error] == [3]
        assert isinstance(dict(got)[3], trackmill.BadEventError)


def test_as_completed_left_early_cancels() -> None:
    with Scripted() as broker, Client(broker.endpoint) as client:
        results = client.as_completed([event()] * 5, in_flight=2)

        def serve() -> None:
            broker.session()
            broker.answer(broker.hear(Command.REQUEST))

        helper = Helper(serve)
        next(results)
        helper.done()
        broker.hear(Command.REQUEST)
        results.close()  # type: ignore[attr-defined]
        broker.hear(Command.CANCEL)


def test_asyncio() -> None:
    async def main(broker: Scripted) -> None:
        def serve() -> None:
            broker.session()
            for _ in range(4):
                broker.answer(broker.hear(Command.REQUEST))
            broker.error(22, broker.hear(Command.REQUEST))
            broker.hear(Command.REQUEST)
            broker.hear(Command.CANCEL)

        helper = Helper(serve)
        async with AsyncClient(broker.endpoint, ttl=PATIENCE) as client:
            assert len(await client.find(event())) == 1
            events: list[trackmill.EventLike] = [event(), {"x": [1.0], "y": [], "z": []}, event(), event()]
            got = {i: future.exception() async for i, future in client.as_completed(events, in_flight=3)}
            assert sorted(got) == [0, 1, 2, 3] and isinstance(got[1], trackmill.BadEventError)
            assert [got[i] for i in (0, 2, 3)] == [None] * 3
            with pytest.raises(trackmill.BackendError):
                await client.find(event())
            task = asyncio.create_task(client.find(event()))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(helper.done)

    with Scripted() as broker:
        asyncio.run(main(broker))


def test_status() -> None:
    with Scripted() as broker:
        fields: dict[str, Any] = {
            name: i for i, name in enumerate(["running", "queued", "workers", "clients", "answered"])
        }
        models = [["m", "1", bytes(32)]]

        def serve() -> None:
            broker.hear(Command.STATUS)
            broker.say(Command.REPORT, software="s", models=models, uptime_ms=1500, **fields)

        helper = Helper(serve)
        report = trackmill.status(broker.endpoint, PATIENCE)
        helper.done()
        assert report.models == {"m@1": "00" * 32} and report.uptime_s == 1.5 and report.answered == 4
    with pytest.raises(trackmill.NoBrokerError, match="nobody listens"):
        trackmill.status("tcp://127.0.0.1:9")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here")
def test_a_child_must_not_use_it() -> None:
    with Client("tcp://127.0.0.1:9") as client:
        client._pid += 1
        with pytest.raises(RuntimeError, match="fork"):
            client.submit(event())
        client._pid -= 1

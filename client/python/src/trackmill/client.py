# SPDX-License-Identifier: Apache-2.0
"""The client: events to brokers, tracks back.

The public methods put commands into a queue; a thread of its own owns the sockets and all other state
(the client's state table of wire/SPEC.md). Every request ends once, as its future.
"""

from __future__ import annotations

import concurrent.futures
import heapq
import itertools
import os
import random
import secrets
import socket as _socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import zmq

from . import limits
from .columns import Entries, EventLike, Tracks, check_starts, check_tracks, event_columns, pack, unpack
from .errors import (
    BusyError,
    DeadlineError,
    DrainingError,
    MalformedError,
    NoBrokerError,
    TooLargeError,
    TrackmillError,
    UnexpectedError,
    UnknownPeerError,
    VersionError,
    from_code,
)
from .link import SOFTWARE, Backoff, Bell, Link, parse_endpoints
from .message import Buffer, Command, Message, clean_text, decode, encode, is_model, read_header

_HELLO_S = limits.HELLO_TIMEOUT_MS / 1000
_GRACE_S = limits.DEADLINE_GRACE_MS / 1000


class Request(concurrent.futures.Future[Tracks]):
    """The future of one event's tracks: result(), exception(), add_done_callback(), … of the standard
    library, whose wait() and as_completed() take it too. result() raises TrackmillError."""

    def __init__(self, serial: int, cancel: Callable[[Request], None]) -> None:
        super().__init__()
        self._serial = serial
        self._cancel = cancel

    def cancel(self) -> bool:
        """Ends the request here at once, and takes it from broker and worker. False: it has ended."""
        if not super().cancel():
            return False
        self._cancel(self)
        return True


@dataclass(slots=True, eq=False)
class _Job:
    """A request as the thread sees it."""

    serial: int
    future: Request
    n_points: int
    fields: dict[str, Any]
    entries: Entries
    payload: Buffer
    submitted: float
    deadline: float
    on: _Session | None = None  # in flight there; None: pending
    sent_bytes: int = 0
    last_error: TrackmillError | None = None


class _Session:
    """One connection and what is in flight on it."""

    def __init__(self, link: Link, now: float) -> None:
        self.link = link
        self.state = "hello"  # hello, up, leaving
        self.said_hello = now
        self.window = 1  # the broker's word
        self.allowed = 1  # of these; less after busy
        self.unknowns = 0  # unknown_peer in a row
        self.max_payload = limits.PAYLOAD_MAX_BYTES
        self.jobs: set[int] = set()
        self.cancelled: set[int] = set()  # given up here, their last word still to come
        self.paused_until = 0.0
        self.last_ping = now

    @property
    def in_flight(self) -> int:
        return len(self.jobs) + len(self.cancelled)


class Client:
    """Finds the tracks of events with the workers behind `brokers`.

    brokers: endpoints ("tcp://a:5570,tcp://b:5570", or a list), tried in this order, round and round.
    model: "name" or "name@version"; None: the only one there is. ttl: seconds that a request may take.
    name: shown in the broker's log. max_bytes: events held at most; submit raises BusyError beyond.

    Does not wait for a connection. May be used from several threads; not by a child after fork().
    """

    def __init__(
        self,
        brokers: str | Iterable[str],
        *,
        model: str | None = None,
        ttl: float = limits.TTL_DEFAULT_MS / 1000,
        name: str | None = None,
        max_bytes: int = 1 << 30,
    ) -> None:
        self._endpoints = parse_endpoints(brokers)
        self._model, self._ttl, self._max_bytes = _check_model(model), _check_ttl(ttl), max_bytes
        self._name = clean_text(name or f"{_socket.gethostname()}:{os.getpid()}", limits.NAME_MAX)
        self._pid = os.getpid()
        self._serials = itertools.count(1)
        self._commands: deque[tuple[str, Any]] = deque()
        self._bell = Bell()
        self._lock = threading.Lock()
        self._held_bytes = 0
        self._closed = False
        self._engine = _Engine(self)
        self._thread = threading.Thread(target=self._engine.run, name="trackmill-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancels what is in flight, says BYE, ends the thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if os.getpid() == self._pid:
            self._post("close", None)
            self._thread.join()
            self._bell.close()

    def submit(
        self,
        event: EventLike,
        *,
        model: str | None = None,
        ttl: float | None = None,
        priority: int = limits.PRIORITY_DEFAULT,
    ) -> Request:
        """Copies the event and queues it; does not wait. ttl: seconds from now. priority: 0 is first, 2 last.

        BadEventError, MissingColumnError, TooLargeError: never travels. BusyError: max_bytes reached, take
        some answers first.
        """
        if os.getpid() != self._pid:
            raise RuntimeError("a client must not be used after fork(); make a new one in the child")
        if not 0 <= priority < limits.PRIORITIES:
            raise ValueError(f"priority {priority} is not 0 to {limits.PRIORITIES - 1}")
        model = self._model if model is None else _check_model(model)
        ttl = self._ttl if ttl is None else _check_ttl(ttl)
        now = time.monotonic()
        columns = event_columns(event)
        try:
            entries, payload = pack(columns)
        except ValueError as error:
            raise TooLargeError(str(error)) if "bytes" in str(error) else error from None
        fields: dict[str, Any] = {"priority": priority, "columns": entries}
        if model:
            fields["model"] = model
        encode(Message(Command.REQUEST, fields | {"ttl_ms": 1}, 1, 1, b""))  # complain here
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            if self._held_bytes and self._held_bytes + len(payload) > self._max_bytes:
                raise BusyError(f"{self._held_bytes} bytes of events are in flight; take some answers first")
            self._held_bytes += len(payload)
        future = Request(next(self._serials), self._on_cancel)
        job = _Job(future._serial, future, len(columns["x"]), fields, entries, payload, now, now + ttl)
        self._post("submit", job)
        return future

    def find(
        self,
        event: EventLike,
        *,
        model: str | None = None,
        ttl: float | None = None,
        priority: int = limits.PRIORITY_DEFAULT,
    ) -> Tracks:
        """The tracks of one event. TrackmillError: why not."""
        request = self.submit(event, model=model, ttl=ttl, priority=priority)
        try:
            return request.result()
        finally:
            request.cancel()  # interrupted

    def as_completed(
        self,
        events: Iterable[EventLike],
        *,
        in_flight: int = 8,
        model: str | None = None,
        ttl: float | None = None,
        priority: int = limits.PRIORITY_DEFAULT,
    ) -> Iterator[tuple[int, Request]]:
        """(number of the event, its ended request), in the order of answers; one for each event.

        Takes from `events` no more than `in_flight` ahead, so that it may be a generator that reads files.
        An event that submit refuses is an ended request with that error.
        """
        if in_flight < 1:
            raise ValueError("in_flight must be 1 or more")
        numbers: dict[Request, int] = {}
        done: deque[Request] = deque()
        ready = threading.Condition()

        def ended(future: concurrent.futures.Future[Tracks]) -> None:
            assert isinstance(future, Request)
            with ready:
                done.append(future)
                ready.notify()

        source = enumerate(events)
        try:
            while True:
                for number, event in itertools.islice(source, in_flight - len(numbers)):
                    try:
                        request = self.submit(event, model=model, ttl=ttl, priority=priority)
                    except TrackmillError as error:
                        request = Request(0, lambda _: None)
                        request.set_exception(error)
                    numbers[request] = number
                    request.add_done_callback(ended)
                if not numbers:
                    return
                with ready:
                    ready.wait_for(lambda: len(done) > 0)
                    request = done.popleft()
                yield numbers.pop(request), request
        finally:
            for request in numbers:
                request.cancel()

    def _on_cancel(self, request: Request) -> None:
        self._post("cancel", request)

    def _post(self, what: str, argument: Any) -> None:
        self._commands.append((what, argument))
        self._bell.ring()

    def _release(self, job: _Job) -> None:
        with self._lock:
            self._held_bytes -= len(job.payload)


def _check_model(model: str | None) -> str:
    if model and not is_model(model):
        raise ValueError(f"{model!r} is no model; want name or name@version")
    return model or ""


def _check_ttl(ttl: float) -> float:
    if not 0 < ttl <= limits.TTL_MAX_MS / 1000:
        raise ValueError(f"a ttl of {ttl} s; want more than 0 and at most {limits.TTL_MAX_MS // 1000}")
    return ttl


class _Engine:
    """The thread: owns sockets, sessions and jobs."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.origin = secrets.randbits(64) or 1
        self.jobs: dict[int, _Job] = {}
        self.pending: list[tuple[int, int]] = []  # (priority, serial), a heap; may name jobs that have ended
        self.timers: list[tuple[float, int]] = []  # (time, serial), a heap; as above
        self.session: _Session | None = None
        self.leaving: list[_Session] = []
        self.next_broker = 0
        self.connect_at = 0.0
        self.backoff = Backoff()
        self.refusals: dict[str, TrackmillError] = {}  # by endpoint: why it has no session now

    # ---- the loop ----

    def run(self) -> None:
        try:
            while self.commands():
                now = time.monotonic()
                self.connect(now)
                self.expire(now)
                self.pump(now)
                self.beat(now)
                self.poll(now)
        finally:
            self.stop()

    def sessions(self) -> list[_Session]:
        return [*([self.session] if self.session else []), *self.leaving]

    def poll(self, now: float) -> None:
        poller = zmq.Poller()
        poller.register(self.client._bell.fileno(), zmq.POLLIN)
        for session in self.sessions():
            link = session.link
            poller.register(link.socket, zmq.POLLIN | (zmq.POLLOUT if link.waiting else 0))
            poller.register(link.monitor, zmq.POLLIN)
        poller.poll(int(max(0.0, min(self.wake_times(now)) - now) * 1000) + 1)
        now = time.monotonic()
        self.client._bell.silence()
        for session in self.sessions():
            session.link.flush()
            for frames in session.link.receive(now):
                if session in self.sessions():  # a message before this one may have ended it
                    self.handle(session, frames, now)
            if session.link.broken and session in self.sessions():
                self.lose(session, NoBrokerError(session.link.broken), now)

    def wake_times(self, now: float) -> Iterator[float]:
        yield now + 3600
        if not self.session:
            yield self.connect_at
        if self.timers:
            yield self.timers[0][0]
        for session in self.sessions():
            link = session.link
            if session.state == "hello":
                yield session.said_hello + _HELLO_S
                continue
            yield min(link.last_sent, max(link.last_received, session.last_ping)) + link.heartbeat_s
            yield link.silent_at(now)
            if session.paused_until > now:
                yield session.paused_until

    def commands(self) -> bool:
        while self.client._commands:
            what, argument = self.client._commands.popleft()
            if what == "close":
                return False
            if what == "submit":
                self.jobs[argument.serial] = argument
                self.wait(argument)
                heapq.heappush(self.timers, (argument.deadline, argument.serial))
            else:
                job = self.jobs.get(argument._serial)
                if job:
                    self.give_up(job, time.monotonic())
                    self.end(job)
        return True

    def stop(self) -> None:
        now = time.monotonic()
        for session in self.sessions():
            if session.state != "hello":
                session.link.forget()
                session.link.say(Command.BYE, now)
            session.link.close(limits.LINGER_MS)
        for what, argument in list(self.client._commands):
            if what == "submit":
                self.jobs[argument.serial] = argument
        for job in list(self.jobs.values()):
            job.future.cancel()
            self.end(job)
        self.context.term()

    # ---- requests ----

    def end(self, job: _Job, error: BaseException | None = None, tracks: Tracks | None = None) -> None:
        """The one end of a request. Cancelled futures take nothing, but their waiters must be told."""
        del self.jobs[job.serial]
        if job.on:
            job.on.jobs.discard(job.serial)
            job.on = None
        self.client._release(job)
        if not job.future.set_running_or_notify_cancel():
            return
        if tracks is not None:
            job.future.set_result(tracks)
        else:
            job.future.set_exception(error)

    def give_up(self, job: _Job, now: float) -> None:
        """Tells the broker, which owes us a last word: until then the request is one of its window."""
        session = job.on
        if session:
            session.jobs.discard(job.serial)
            session.cancelled.add(job.serial)
            job.on = None
            session.link.send(Message(Command.CANCEL, {}, self.origin, job.serial), now)

    def unsend(self, serials: Iterable[int]) -> None:
        """Pending again."""
        for serial in serials:
            if serial in self.jobs:
                self.wait(self.jobs[serial])

    def wait(self, job: _Job) -> None:
        job.on = None
        heapq.heappush(self.pending, (job.fields["priority"], job.serial))

    def expire(self, now: float) -> None:
        while self.timers and self.timers[0][0] <= now:
            _, serial = heapq.heappop(self.timers)
            job = self.jobs.get(serial)
            if job is None:
                continue
            if job.on and now < job.deadline + _GRACE_S:  # its broker will say so
                heapq.heappush(self.timers, (job.deadline + _GRACE_S, serial))
                continue
            self.give_up(job, now)
            self.end(job, self.why_late(job, now))

    def why_late(self, job: _Job, now: float) -> TrackmillError:
        seconds = f"{job.deadline - job.submitted:g} s"
        if self.session and self.session.state == "up":
            because = f" ({job.last_error})" if job.last_error else ""
            return DeadlineError(f"no answer within {seconds}{because}")
        brokers = "; ".join(
            f"{endpoint}: {self.refusals.get(endpoint, 'no answer')}" for endpoint in self.client._endpoints
        ).replace("no_broker: ", "")
        return NoBrokerError(f"no broker within {seconds}: {brokers}")

    def pump(self, now: float) -> None:
        """Sends what is pending, as far as the window goes."""
        if len(self.refusals) == len(self.client._endpoints):
            for error in self.refusals.values():
                if not isinstance(error, VersionError):
                    break
            else:  # nobody will ever understand us
                for unsent in [job for job in self.jobs.values() if job.on is None]:
                    self.end(unsent, VersionError(error.text))
        session = self.session
        if not session or session.state != "up" or now < session.paused_until:
            return
        while self.pending and session.in_flight < session.allowed:
            job = self.jobs.get(heapq.heappop(self.pending)[1])
            if job is None or job.on:
                continue
            if len(job.payload) > session.max_payload:
                size, most = len(job.payload), session.max_payload
                self.end(
                    job, TooLargeError(f"the event has {size} bytes, {session.link.endpoint} takes {most}")
                )
                continue
            left_ms = max(1, -int((now - job.deadline) * 1000 // 1))  # rounded up: never early
            message = Message(
                Command.REQUEST, job.fields | {"ttl_ms": left_ms}, self.origin, job.serial, job.payload
            )
            frames = encode(message)
            job.sent_bytes = sum(len(frame) for frame in frames)
            job.on = session
            session.jobs.add(job.serial)
            session.link.send_frames(frames, now)

    # ---- sessions ----

    def connect(self, now: float) -> None:
        if self.session or now < self.connect_at:
            return
        endpoint = self.client._endpoints[self.next_broker % len(self.client._endpoints)]
        self.next_broker += 1
        link = Link(self.context, endpoint, limits.PAYLOAD_MAX_BYTES, now)
        self.session = _Session(link, now)
        if link.broken:
            self.lose(self.session, NoBrokerError(link.broken), now)
        else:
            self.hello(self.session, now)

    def hello(self, session: _Session, now: float) -> None:
        session.state, session.said_hello = "hello", now
        session.link.send(Message(Command.HELLO, {"software": SOFTWARE, "name": self.client._name}), now)

    def lose(self, session: _Session, error: TrackmillError, now: float, wait: float | None = None) -> None:
        """This session is over: close, all of it is pending again, next broker."""
        self.refusals[session.link.endpoint] = error
        session.link.close()
        self.unsend(session.jobs)
        if session is self.session:
            self.session = None
            self.connect_at = now + (self.backoff.wait() if wait is None else wait)
        else:
            self.leaving.remove(session)

    def leave(self, session: _Session, error: TrackmillError, now: float) -> None:
        """The broker drains: nothing new goes there, what is in flight may end there."""
        if session.state != "up":
            return
        self.refusals[session.link.endpoint] = error
        session.state = "leaving"
        self.session = None
        self.leaving.append(session)
        self.connect_at = now + (0 if len(self.client._endpoints) > 1 else self.backoff.wait())
        self.left(session, now)

    def left(self, session: _Session, now: float) -> None:
        if session.state == "leaving" and not session.in_flight and session in self.leaving:
            session.link.say(Command.BYE, now)
            session.link.close(limits.LINGER_MS)
            self.leaving.remove(session)

    def beat(self, now: float) -> None:
        for session in self.sessions():
            link = session.link
            if session.state == "hello":
                if now - session.said_hello > _HELLO_S:
                    self.lose(session, NoBrokerError("no answer"), now)
            elif now > link.silent_at(now):
                self.lose(session, NoBrokerError(f"silent for {link.silence_s:g} s"), now)
            elif (
                now - link.last_sent >= link.heartbeat_s
                or now - max(link.last_received, session.last_ping) >= link.heartbeat_s
            ):
                session.last_ping = now
                link.say(Command.PING, now)

    # ---- messages ----

    def handle(self, session: _Session, frames: list[Buffer], now: float) -> None:
        try:
            message = decode(frames)
        except VersionError as error:
            self.lose(session, error, now)
            return
        except MalformedError as error:
            self.handle_malformed(session, frames, error, now)
            return
        if message.command == Command.WELCOME and session.state == "hello":
            session.link.welcome(message.fields)
            session.window = session.allowed = message.fields.get("window", 1)
            session.max_payload = message.fields["max_payload"]
            session.state, session.last_ping = "up", now
            self.refusals.pop(session.link.endpoint, None)
            self.backoff.reset()
        elif message.command == Command.ERROR:
            if message.serial == 0 or message.fields["code"] in (VersionError.code, UnknownPeerError.code):
                self.handle_session_error(session, message, now)
            elif message.origin == self.origin:
                self.handle_request_error(session, message, now)
        elif session.state == "hello":
            return
        elif message.command == Command.PING:
            session.link.say(Command.PONG, now)
        elif message.command == Command.BYE:
            text = message.fields.get("text") or "the broker left"
            self.lose(session, DrainingError(text), now)
        elif message.command == Command.ANSWER and message.origin == self.origin:
            self.handle_answer(session, message, frames, now)

    def handle_malformed(
        self, session: _Session, frames: list[Buffer], error: TrackmillError, now: float
    ) -> None:
        """An ANSWER that cannot be read ends its request; anything else is ignored."""
        try:
            header = read_header(frames[0])
        except TrackmillError:
            return
        if header.command == Command.ANSWER and header.origin == self.origin:
            session.cancelled.discard(header.serial)
            job = self.jobs.get(header.serial)
            if job and job.on is session:
                self.end(job, MalformedError(f"the answer of {session.link.endpoint}: {error.text}"))
            self.left(session, now)

    def handle_session_error(self, session: _Session, message: Message, now: float) -> None:
        fields = message.fields
        error = from_code(fields["code"], fields["text"], fields.get("retry_after_ms", 0))
        if session.state == "hello":
            if isinstance(error, UnknownPeerError):
                return  # to something said before HELLO
            wait = None
            if isinstance(error, BusyError):
                wait = max(error.retry_after, limits.RETRY_AFTER_MS / 1000) * random.uniform(1, 1.5)
            self.lose(session, error, now, wait)
        elif isinstance(error, DrainingError):
            self.leave(session, error, now)
        elif isinstance(error, UnknownPeerError):
            session.unknowns += 1
            if session.state == "leaving" or session.unknowns > limits.UNKNOWNS_MAX:
                self.lose(session, error, now)
                return
            session.link.forget()
            self.unsend(session.jobs)
            session.jobs.clear()
            session.cancelled.clear()
            self.hello(session, now)
        elif isinstance(error, VersionError | MalformedError | UnexpectedError):
            self.lose(session, error, now)

    def handle_request_error(self, session: _Session, message: Message, now: float) -> None:
        fields = message.fields
        error = from_code(fields["code"], fields["text"], fields.get("retry_after_ms", 0))
        session.cancelled.discard(message.serial)
        job = self.jobs.get(message.serial)
        if job and job.on is session:
            job.last_error = error
            session.jobs.discard(job.serial)
            if isinstance(error, BusyError):
                self.unsend([job.serial])
                session.allowed = max(1, session.in_flight)
                until = now + max(error.retry_after, limits.RETRY_AFTER_MS / 1000) * random.uniform(1, 1.5)
                session.paused_until = max(session.paused_until, until)
            elif isinstance(error, DrainingError):
                self.unsend([job.serial])
            else:
                self.answered(session)
                self.end(job, error)
        if isinstance(error, DrainingError):
            self.leave(session, error, now)
        self.left(session, now)

    def answered(self, session: _Session) -> None:
        session.unknowns = 0
        session.allowed = min(session.window, session.allowed + 1)

    def handle_answer(self, session: _Session, message: Message, frames: list[Buffer], now: float) -> None:
        session.cancelled.discard(message.serial)
        job = self.jobs.get(message.serial)
        self.answered(session)
        if job and job.on is session:
            fields = message.fields
            assert message.payload is not None
            try:
                columns = unpack(fields["columns"], message.payload)
                offsets, indices, scores = check_tracks(columns, job.n_points)
                starts = check_starts(columns, len(scores))
            except MalformedError as error:
                self.end(job, MalformedError(f"the answer of worker {fields['worker']}: {error.text}"))
            else:
                tracks = Tracks(
                    offsets, indices, scores, job.n_points,
                    model=fields["model"], weight_hash=fields["hash"].hex(), worker=fields["worker"],
                    attempt=fields["attempt"], queue_s=fields["queue_us"] / 1e6,
                    service_s=fields["service_us"] / 1e6, total_s=now - job.submitted,
                    stages_s={name: us / 1e6 for name, us in fields["times"]}, sent_bytes=job.sent_bytes,
                    received_bytes=sum(len(frame) for frame in frames), starts=starts,
                )  # fmt: skip
                self.end(job, tracks=tracks)
        self.left(session, now)

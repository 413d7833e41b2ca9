# SPDX-License-Identifier: Apache-2.0
"""The worker: any Python function as a track finder behind brokers.

Three kinds of threads. The network thread owns sockets, sessions and attempts (the worker's state table of
wire/SPEC.md) and never computes. Each slot has a thread that calls the function, or has a process call it.
The caller of `run` waits, and takes the signals.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import inspect
import logging
import multiprocessing
import os
import platform
import signal
import socket as _socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import FrameType, TracebackType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import zmq

from . import limits
from .columns import Array, check_event, check_tracks, pack, unpack
from .errors import (
    BackendError,
    BadEventError,
    DeadlineError,
    MalformedError,
    MissingColumnError,
    ModelHashError,
    NoMemoryError,
    TooLargeError,
    TrackmillError,
    UnknownPeerError,
    VersionError,
    from_code,
)
from .link import SOFTWARE, Backoff, Bell, Link, parse_endpoints
from .message import Buffer, Command, Message, clean_text, decode, encode, is_model, read_header

log = logging.getLogger("trackmill.worker")

Found: TypeAlias = Iterable[npt.ArrayLike] | tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]
Find: TypeAlias = Callable[[dict[str, Array]], Found]
Hash: TypeAlias = bytes | str | os.PathLike[str] | None

_HELLO_S = limits.HELLO_TIMEOUT_MS / 1000


def as_tracks(found: Found, n_points: int) -> dict[str, Array]:
    """The columns of a RESULT from what a function found, in the order of the wire. ValueError: no tracks.

    found: a tuple (offsets, indices, scores), or a list of the rows of each candidate (which get score 1).
    """
    if isinstance(found, tuple):
        offsets, indices, scores = (np.asarray(part) for part in found)
    else:
        rows = [np.asarray(candidate) for candidate in found]
        rows = [candidate for candidate in rows if len(candidate)]  # an empty one is float64
        offsets = np.cumsum([0] + [len(candidate) for candidate in rows])
        indices = np.concatenate(rows) if rows else np.empty(0, np.int64)
        scores = np.ones(len(rows), np.float32)
    if len(indices) and indices.dtype.kind not in "iu":
        raise ValueError(f"the rows of candidates are {indices.dtype}, not whole numbers")
    if len(indices) and indices.min() < 0:
        raise ValueError("a row below 0")
    if len(offsets) == 0 or len(offsets) != len(scores) + 1:
        raise ValueError(f"{len(offsets)} offsets for {len(scores)} scores")
    offsets = offsets.astype(np.int64, casting="same_kind")  # differences of unsigned ones never fall
    if offsets[0] != 0 or offsets[-1] != len(indices) or (np.diff(offsets) < 0).any():
        raise ValueError("offsets must begin with 0, never fall and end with the number of indices")
    lengths = np.diff(offsets)
    keep = lengths > 0  # a candidate without points says nothing
    least = np.minimum.reduceat(indices, offsets[:-1][keep]) if keep.any() else np.empty(0, np.int64)
    order = np.flatnonzero(keep)[np.argsort(least, kind="stable")]
    begins = np.concatenate([[0], np.cumsum(lengths[order])])
    moved = np.repeat(offsets[:-1][order] - begins[:-1], lengths[order])  # of each row, from its new place
    columns: dict[str, Array] = {
        "offsets": begins.astype(np.uint32),
        "indices": indices[np.arange(len(moved)) + moved].astype(np.uint32),
        "scores": np.asarray(scores)[order].astype(np.float32),
    }
    check_tracks(columns, n_points)
    return columns


def call(find: Find, columns: dict[str, Array], requires: Sequence[str]) -> tuple[dict[str, Array], float]:
    """The columns of the RESULT and the seconds of `find`; TrackmillError: the FAILED. Runs in a slot."""
    check_event(columns)
    for name in requires:
        if name not in columns:
            raise MissingColumnError(f"the event lacks the column {name}")
    start = time.monotonic()
    try:
        found = find(columns)
    except (BadEventError, MissingColumnError, NoMemoryError, BackendError):
        raise
    except MemoryError as error:
        raise NoMemoryError(str(error) or "not enough memory") from error
    except Exception as error:
        log.exception("find failed")
        raise BackendError(f"{type(error).__name__}: {error}") from error
    seconds = time.monotonic() - start
    try:
        return as_tracks(found, len(columns["x"])), seconds
    except (ValueError, TypeError, IndexError, MalformedError) as error:
        raise BackendError(f"find returned no tracks: {error}") from error


def _call_in_process(
    find: Find, columns: dict[str, Array], requires: Sequence[str]
) -> tuple[dict[str, Array], float] | tuple[int, str]:
    """As call; errors as (code, text), which surely can be pickled."""
    try:
        return call(find, columns, requires)
    except TrackmillError as error:
        return error.code, error.text


def _process_start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker drains; the process ends with it
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def model_hash(hash: Hash, find: Find) -> bytes:
    """32 bytes that name the weights: as given (bytes, hex), of a file, or of the source of `find`."""
    if isinstance(hash, bytes):
        digest = hash
    elif isinstance(hash, str) and len(hash) == 2 * limits.HASH_BYTES:
        digest = bytes.fromhex(hash)
    elif hash is not None:
        digest = hashlib.sha256(Path(hash).read_bytes()).digest()
    else:
        try:
            file = inspect.getsourcefile(inspect.unwrap(find))
            digest = hashlib.sha256(Path(file or "").read_bytes()).digest()
        except (TypeError, OSError):
            raise ValueError("find has no source file to take a hash of; give hash=") from None
    if len(digest) != limits.HASH_BYTES:
        raise ValueError(f"a hash of {len(digest)} bytes; want {limits.HASH_BYTES} (SHA-256)")
    return digest


@dataclass(slots=True, eq=False)
class _Attempt:
    session: _Session
    broker: int
    epoch: int
    origin: int
    serial: int
    columns: dict[str, Array]
    deadline: float
    state: str = "queued"  # queued, running, dropped
    started: float = 0.0


@dataclass(slots=True, eq=False)
class _Session:
    """One broker of the worker."""

    broker: int
    endpoint: str
    share: int  # of credit
    link: Link | None = None
    state: str = "closed"  # closed, registering, ready, draining, refused
    since: float = 0.0
    connect_at: float = 0.0
    epoch: int = 0
    max_payload: int = limits.PAYLOAD_MAX_BYTES
    last_heartbeat: float = 0.0
    backoff: Backoff = field(default_factory=Backoff)
    held: int = 0  # attempts of this broker that have not ended; each holds one credit
    error: TrackmillError | None = None


class Worker:
    """Serves find(columns) -> candidates as `model`@`version` behind `brokers` (their worker ports).

    find: gets the event's columns (x y z in mm, f32, finite; others as they came; read-only arrays of one
    length) and returns a list of the rows of each candidate, or a tuple (offsets, indices, scores).
    BadEventError and MissingColumnError tell the client; other exceptions send the event to another worker.
    hash: names the weights: 32 bytes, 64 hexadecimal digits, or a file; None: the source file of `find`.
    slots: events at once. processes: one process for each slot, for a find that holds the GIL; find must
    then be importable (no lambda). requires: columns that the event must have. attempt_timeout: seconds after
    which an event hangs: its process is ended, or, with threads, `run` raises BackendError.
    """

    def __init__(
        self,
        brokers: str | Iterable[str],
        find: Find,
        *,
        model: str,
        version: str = "1",
        hash: Hash = None,
        slots: int = 1,
        processes: bool = False,
        requires: Sequence[str] = (),
        name: str | None = None,
        device: str = "cpu",
        backend: str = "python",
        max_payload: int = limits.PAYLOAD_MAX_BYTES,
        attempt_timeout: float = limits.ATTEMPT_TIMEOUT_MS / 1000,
    ) -> None:
        endpoints = parse_endpoints(brokers)
        if not is_model(f"{model}@{version}") or "@" in model + version:
            raise ValueError(f"model {model!r}, version {version!r}: want 1 to 63 of A-Z a-z 0-9 . _ -")
        if not 1 <= slots <= limits.SLOTS_MAX:
            raise ValueError(f"{slots} slots; want 1 to {limits.SLOTS_MAX}")
        if not 1 <= max_payload <= limits.PAYLOAD_MAX_BYTES:
            raise ValueError(f"max_payload {max_payload}; want 1 to {limits.PAYLOAD_MAX_BYTES}")
        self._find, self._requires, self._slots, self._processes = find, tuple(requires), slots, processes
        self._max_payload, self._attempt_timeout = max_payload, attempt_timeout
        digest = model_hash(hash, find)
        self._register: dict[str, Any] = {
            "software": SOFTWARE,
            "name": clean_text(name or f"{_socket.gethostname()}:{os.getpid()}", limits.NAME_MAX),
            "max_payload": max_payload,
            "device": clean_text(device or platform.machine(), limits.NAME_MAX),
            "backend": clean_text(backend, limits.NAME_MAX),
            "slots": slots,
            "models": [(model, version, digest)],
        }
        encode(Message(Command.REGISTER, self._register))
        total = slots + 1  # the next event is there when a slot becomes free
        shares = [
            max(1, total // len(endpoints) + (i < total % len(endpoints))) for i in range(len(endpoints))
        ]
        self._sessions = [_Session(i, e, s) for i, (e, s) in enumerate(zip(endpoints, shares, strict=True))]
        self._attempts: dict[tuple[int, int, int], _Attempt] = {}  # (broker, origin, serial)
        self._queue: SimpleQueue[_Attempt | None] = SimpleQueue()
        self._events: deque[tuple[str, Any]] = deque()  # to the network thread
        self._bell = Bell()
        self._draining = self._stopping = False
        self._error: TrackmillError | None = None
        self._done = threading.Event()
        self._registered = threading.Event()
        self._thread: threading.Thread | None = None

    # ---- for the caller ----

    def start(self) -> None:
        """Serves in threads of its own, until `stop`. A worker starts once."""
        if self._thread:
            raise RuntimeError("the worker was started already")
        self._thread = threading.Thread(target=self._network, name="trackmill-worker", daemon=True)
        self._thread.start()
        for i in range(self._slots):
            threading.Thread(target=self._slot, name=f"trackmill-slot-{i}", daemon=True).start()

    def stop(self) -> None:
        """Drains: what runs is finished, what waits is handed back. Does not wait; see `join`."""
        self._events.append(("drain", None))
        self._bell.ring()

    def join(self, timeout: float | None = None) -> bool:
        """Waits for the end; False: not yet. TrackmillError: all brokers refused, or an event hung."""
        if not self._done.wait(timeout):
            return False
        if self._error:
            raise self._error
        return True

    def wait_registered(self, timeout: float | None = None) -> bool:
        """Whether a broker has accepted this worker, once."""
        return self._registered.wait(timeout)

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then drains; a second signal ends the process at once.

        The signals are taken only in the main thread. Raises as `join`.
        """
        signals = 0

        def on_signal(number: int, frame: FrameType | None) -> None:
            nonlocal signals
            signals += 1
            if signals > 1:
                os._exit(4)
            self.stop()

        old: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            old = {s: signal.signal(s, on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            self.start()
            while not self.join(1.0):
                pass
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._done.wait()

    # ---- slots ----

    def _slot(self) -> None:
        pool: concurrent.futures.ProcessPoolExecutor | None = None
        while (attempt := self._queue.get()) is not None:
            if attempt.state == "dropped":
                continue
            self._tell("begin", attempt)
            try:
                if time.monotonic() > attempt.deadline:
                    raise DeadlineError("no time left when a slot was free")
                if self._processes:
                    pool = pool or self._pool()
                    result, seconds = self._in_process(pool, attempt)
                else:
                    result, seconds = call(self._find, attempt.columns, self._requires)
            except TrackmillError as error:
                if isinstance(error, _PoolGone):
                    pool = None
                self._tell("failed", (attempt, error))
            except Exception as error:  # a fault of ours must not stop the slot
                log.exception("slot")
                self._tell("failed", (attempt, BackendError(f"{type(error).__name__}: {error}")))
            else:
                self._tell("result", (attempt, result, seconds))
        if pool:
            pool.shutdown()

    def _pool(self) -> concurrent.futures.ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # fork() would copy sockets and locks
        return concurrent.futures.ProcessPoolExecutor(1, context, _process_start)

    def _in_process(
        self, pool: concurrent.futures.ProcessPoolExecutor, attempt: _Attempt
    ) -> tuple[dict[str, Array], float]:
        future = pool.submit(_call_in_process, self._find, attempt.columns, self._requires)
        try:
            out = future.result(self._attempt_timeout)
        except (TimeoutError, concurrent.futures.TimeoutError):
            for process in list(getattr(pool, "_processes", {}).values()):
                process.kill()
            pool.shutdown(wait=False)
            raise _PoolGone(f"find took more than {self._attempt_timeout:g} s") from None
        except concurrent.futures.BrokenExecutor:
            pool.shutdown(wait=False)
            raise _PoolGone("the process of the slot died") from None
        if isinstance(out[0], int):
            raise from_code(out[0], str(out[1]))
        return out

    def _tell(self, what: str, argument: Any) -> None:
        self._events.append((what, argument))
        self._bell.ring()

    # ---- the network thread ----

    def _network(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            while not self._over():
                now = time.monotonic()
                self._take(now)
                for session in self._sessions:
                    self._step(context, session, now)
                self._watch(now)
                self._poll(now)
        except Exception as error:
            log.exception("network thread")
            self._error = BackendError(f"{type(error).__name__}: {error}")
        finally:
            now = time.monotonic()
            for session in self._sessions:
                if session.link:
                    if session.state in ("ready", "draining"):
                        session.link.say(Command.BYE, now)
                    session.link.close(limits.LINGER_MS)
            for _ in range(self._slots):
                self._queue.put(None)
            context.term()
            self._done.set()

    def _over(self) -> bool:
        if self._error:
            return True
        if all(session.state == "refused" for session in self._sessions):
            self._error = self._sessions[0].error
            return True
        return self._draining and not self._attempts and not self._events

    def _take(self, now: float) -> None:
        while self._events:
            what, argument = self._events.popleft()
            if what == "drain":
                self._drain(now)
            elif what == "begin":
                self._begin(argument, now)
            elif what == "failed":
                attempt, error = argument
                self._fail(attempt, error, now)
            else:
                attempt, columns, seconds = argument
                self._finish(attempt, columns, seconds, now)

    def _poll(self, now: float) -> None:
        poller = zmq.Poller()
        poller.register(self._bell.fileno(), zmq.POLLIN)
        for session in self._sessions:
            if session.link:
                poller.register(
                    session.link.socket, zmq.POLLIN | (zmq.POLLOUT if session.link.waiting else 0)
                )
                poller.register(session.link.monitor, zmq.POLLIN)
        if not self._events and not self._over():
            poller.poll(int(max(0.0, min(self._wake_times(now)) - now) * 1000) + 1)
        now = time.monotonic()
        self._bell.silence()
        for session in self._sessions:
            link = session.link
            if not link:
                continue
            link.flush()
            for frames in link.receive(now):
                if session.link is link:
                    self._handle(session, link, frames, now)
            if link.broken and session.link is link:
                self._lose(session, link.broken, now)

    def _wake_times(self, now: float) -> Iterator[float]:
        yield now + 3600
        for session in self._sessions:
            if session.state == "closed":
                yield session.connect_at
            elif session.state == "registering":
                yield session.since + _HELLO_S
            elif session.link:
                yield session.last_heartbeat + session.link.heartbeat_s
                yield session.link.silent_at(now)
        if not self._processes:
            for attempt in self._attempts.values():
                if attempt.state == "running":
                    yield attempt.started + self._attempt_timeout

    def _step(self, context: zmq.Context[zmq.Socket[bytes]], session: _Session, now: float) -> None:
        """What time does to a session."""
        link = session.link
        if session.state == "closed" and now >= session.connect_at and not self._draining:
            session.link = link = Link(context, session.endpoint, self._max_payload, now)
            session.state, session.since = "registering", now
            if link.broken:
                self._lose(session, link.broken, now)
            else:
                link.send(Message(Command.REGISTER, self._register), now)
        elif session.state == "registering" and now - session.since > _HELLO_S:
            self._lose(session, "no answer", now)
        elif session.state in ("ready", "draining") and link:
            if now > link.silent_at(now):
                self._lose(session, f"silent for {link.silence_s:g} s", now)
            elif now - session.last_heartbeat >= link.heartbeat_s:
                session.last_heartbeat = now
                running = sum(a.state == "running" for a in self._attempts.values())
                link.send(Message(Command.HEARTBEAT, {"running": running}), now)

    def _watch(self, now: float) -> None:
        """A thread cannot be stopped: end the worker, so that somebody starts another."""
        if self._processes:
            return
        for attempt in self._attempts.values():
            if attempt.state == "running" and now - attempt.started > self._attempt_timeout:
                self._error = BackendError(f"find took more than {self._attempt_timeout:g} s: it hangs")

    def _lose(self, session: _Session, why: str, now: float, wait: float | None = None) -> None:
        """The session is over: what has not begun is dropped, what runs goes on: we may be back in time."""
        log.warning("%s: %s", session.endpoint, why)
        if session.link:
            session.link.close()
        session.link, session.state = None, "closed"
        session.connect_at = now + (session.backoff.wait() if wait is None else wait)
        for attempt in list(self._attempts.values()):
            if attempt.session is session and attempt.state == "queued":
                self._end(attempt, now)

    def _refuse(self, session: _Session, error: TrackmillError) -> None:
        log.error("%s refuses this worker: %s", session.endpoint, error)
        if session.link:
            session.link.close()
        session.link, session.state, session.error = None, "refused", error

    # ---- messages ----

    def _handle(self, session: _Session, link: Link, frames: list[Buffer], now: float) -> None:
        try:
            message = decode(frames)
        except VersionError as fault:
            self._refuse(session, fault)
            return
        except MalformedError as fault:
            self._handle_malformed(session, link, frames, fault, now)
            return
        fields = message.fields
        if message.command == Command.WELCOME:
            if session.state == "registering":
                link.welcome(fields)
                session.epoch, session.max_payload = fields["epoch"], fields["max_payload"]
                session.state, session.last_heartbeat = "ready", 0.0
                session.backoff.reset()
                if self._draining:
                    link.send(Message(Command.DRAIN, {"text": "told to leave"}), now)
                    session.state = "draining"
                self._credit(session, session.share - session.held, now)
                log.info("registered at %s", session.endpoint)
                self._registered.set()
        elif message.command == Command.ERROR and message.serial == 0:
            error = from_code(fields["code"], fields["text"], fields.get("retry_after_ms", 0))
            if session.state == "registering":
                if isinstance(error, ModelHashError | VersionError | MalformedError):
                    self._refuse(session, error)
                elif not isinstance(error, UnknownPeerError):
                    wait = error.retry_after or limits.RECONNECT_MAX_MS / 1000
                    self._lose(session, str(error), now, wait)
            elif isinstance(error, UnknownPeerError):
                self._lose(session, str(error), now)
            else:
                log.warning("%s: %s", session.endpoint, error)
        elif session.state not in ("ready", "draining"):
            return
        elif message.command == Command.DISPATCH:
            self._dispatch(session, link, message, now)
        elif message.command == Command.REVOKE:
            attempt = self._attempts.get((session.broker, message.origin, message.serial))
            if attempt and attempt.state == "queued":
                self._end(attempt, now)
            elif attempt:
                attempt.epoch = 0  # nobody waits for its answer; its credit comes back when it ends
        elif message.command == Command.PING:
            link.say(Command.PONG, now)
        elif message.command == Command.BYE:
            self._lose(session, fields.get("text") or "the broker left", now)

    def _handle_malformed(
        self, session: _Session, link: Link, frames: list[Buffer], error: TrackmillError, now: float
    ) -> None:
        try:
            header = read_header(frames[0])
        except TrackmillError:
            return
        if header.command == Command.DISPATCH and session.state in ("ready", "draining"):
            self._say_failed(link, header.origin, header.serial, error, now)
            self._credit(session, 1, now)

    def _dispatch(self, session: _Session, link: Link, message: Message, now: float) -> None:
        key = (session.broker, message.origin, message.serial)
        if session.state == "draining":
            self._say_failed(link, message.origin, message.serial, from_code(11, "the worker leaves"), now)
        elif session.held >= session.share or key in self._attempts:
            self._say_failed(link, message.origin, message.serial, from_code(10, "no credit was left"), now)
        else:
            assert message.payload is not None
            columns = unpack(message.fields["columns"], message.payload)
            for column in columns.values():
                column.flags.writeable = False
            deadline = now + message.fields["ttl_ms"] / 1000
            attempt = _Attempt(
                session, session.broker, session.epoch, message.origin, message.serial, columns, deadline
            )
            self._attempts[key] = attempt
            session.held += 1
            self._queue.put(attempt)

    # ---- attempts ----

    def _credit(self, session: _Session, credit: int, now: float) -> None:
        if session.state == "ready" and session.link and credit > 0:
            session.link.send(Message(Command.CREDIT, {"credit": credit}), now)

    def _end(self, attempt: _Attempt, now: float) -> None:
        """The attempt holds no credit any more."""
        if self._attempts.pop((attempt.broker, attempt.origin, attempt.serial), None) is attempt:
            attempt.state = "dropped"
            attempt.session.held -= 1
            self._credit(attempt.session, 1, now)

    def _listener(self, attempt: _Attempt) -> Link | None:
        """Who still wants to hear of this attempt: its broker in the same run, even in a new session."""
        session = attempt.session
        same = session.state in ("ready", "draining") and session.epoch == attempt.epoch
        return session.link if same and attempt.state != "dropped" else None

    def _begin(self, attempt: _Attempt, now: float) -> None:
        link = self._listener(attempt)
        if attempt.state == "queued":
            attempt.state, attempt.started = "running", now
            if link:
                link.send(Message(Command.STARTED, {}, attempt.origin, attempt.serial), now)

    def _say_failed(self, link: Link, origin: int, serial: int, error: TrackmillError, now: float) -> None:
        text = clean_text(error.text, limits.TEXT_MAX)
        link.send(Message(Command.FAILED, {"code": error.code, "text": text}, origin, serial), now)

    def _fail(self, attempt: _Attempt, error: TrackmillError, now: float) -> None:
        link = self._listener(attempt)
        if link:
            self._say_failed(link, attempt.origin, attempt.serial, error, now)
        self._end(attempt, now)

    def _finish(self, attempt: _Attempt, columns: Mapping[str, Array], seconds: float, now: float) -> None:
        link = self._listener(attempt)
        if link:
            entries, payload = pack(columns)
            if len(payload) > attempt.session.max_payload:
                size, most = len(payload), attempt.session.max_payload
                self._fail(attempt, TooLargeError(f"tracks of {size} bytes, the broker takes {most}"), now)
                return
            times = [("find", min(int(seconds * 1e6), 2**32 - 1))]
            fields = {"columns": entries, "times": times}
            link.send(Message(Command.RESULT, fields, attempt.origin, attempt.serial, payload), now)
        self._end(attempt, now)

    def _drain(self, now: float) -> None:
        if self._draining:
            return
        self._draining = True
        for session in self._sessions:
            if session.state == "ready" and session.link:
                session.link.send(Message(Command.DRAIN, {"text": "told to leave"}), now)
                session.state = "draining"
        for attempt in list(self._attempts.values()):
            if attempt.state == "queued":
                self._fail(attempt, from_code(11, "the worker leaves"), now)


class _PoolGone(BackendError):
    """The process of a slot is no more; the next event gets a new one."""

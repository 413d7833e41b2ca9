# SPDX-License-Identifier: Apache-2.0
"""What client and worker share: one DEALER connection to one broker, and how long to wait for the next."""

from __future__ import annotations

import contextlib
import random
import re
import socket
from collections import deque
from collections.abc import Iterable, Sequence

import zmq
from zmq.utils.monitor import recv_monitor_message

from . import limits
from .message import Buffer, Command, Message, encode

SOFTWARE = "trackmill-python/0.1.0"
_COPY_BYTES = 65536  # smaller frames are copied: cheaper than sharing them with libzmq

_ENDPOINT = re.compile(r"tcp://.+:\d+|ipc://.+|inproc://.+")


def parse_endpoints(brokers: str | Iterable[str]) -> list[str]:
    """Endpoints from a list or a string with commas. ValueError: not one."""
    texts = brokers.split(",") if isinstance(brokers, str) else list(brokers)
    endpoints = [text.strip() for text in texts if text.strip()]
    for endpoint in endpoints:
        if not _ENDPOINT.fullmatch(endpoint):
            raise ValueError(f"{endpoint!r} is no endpoint; want tcp://HOST:PORT or ipc://PATH")
    if not endpoints:
        raise ValueError("no broker; want tcp://HOST:PORT, or several separated by commas")
    return endpoints


class Link:
    """One connection to one broker, for one session. Belongs to one thread.

    What libzmq cannot take yet waits in a queue here; `flush` tries again. A connection that breaks or
    cannot be made shows in `broken`; libzmq would make a new one quietly, in which there is no session.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, max_payload: int, now: float
    ) -> None:
        self.endpoint = endpoint
        self.broken = ""  # why, once it is
        self.heartbeat_s = limits.HEARTBEAT_MAX_MS / 1000  # until WELCOME says
        self.silence_s = float("inf")
        self.last_sent = self.last_received = now
        self.sent_bytes = 0
        self._queue: deque[Sequence[Buffer]] = deque()
        self._uploads: deque[zmq.MessageTracker] = deque()  # payloads that libzmq has not sent yet
        self._last_upload = now
        self.socket = context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.IMMEDIATE, 1)
        self.socket.set(zmq.RCVHWM, 0)
        self.socket.set(zmq.MAXMSGSIZE, max(max_payload, limits.MAP_MAX_BYTES) + limits.FRAME_EXTRA_BYTES)
        self.socket.set(zmq.IPV6, 1)
        events = zmq.Event.DISCONNECTED | zmq.Event.CONNECT_RETRIED
        self.monitor = self.socket.get_monitor_socket(events)
        try:
            self.socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.broken = f"cannot connect: {error}"

    def welcome(self, fields: dict[str, int]) -> None:
        self.heartbeat_s = fields["heartbeat_ms"] / 1000
        self.silence_s = self.heartbeat_s * fields["liveness"]

    def send(self, message: Message, now: float) -> None:
        self.send_frames(encode(message), now)

    def say(self, command: Command, now: float) -> None:
        """A message about the session without fields."""
        self.send_frames(encode(Message(command)), now)

    def send_frames(self, frames: Sequence[Buffer], now: float) -> None:
        self.last_sent = now
        self._queue.append(frames)
        self.flush()

    def flush(self) -> None:
        while self._queue:
            frames = self._queue[0]
            share = len(frames) > 2 and len(frames[2]) >= _COPY_BYTES
            try:
                tracker = self.socket.send_multipart(frames, zmq.NOBLOCK, copy=not share, track=share)
                if tracker is not None:
                    self._uploads.append(tracker)
            except zmq.Again:
                return
            self._queue.popleft()

    def forget(self) -> None:
        """Drops what has not left yet."""
        self._queue.clear()

    @property
    def waiting(self) -> bool:
        return bool(self._queue)

    def receive(self, now: float) -> list[list[Buffer]]:
        """All messages that have come. Notices a broken connection, and what came before it broke."""
        out: list[list[Buffer]] = []
        self._drain(out)
        while self.monitor.poll(0):
            event = recv_monitor_message(self.monitor)["event"]
            self._drain(out)
            broke = event == zmq.Event.DISCONNECTED
            self.broken = self.broken or ("the connection broke" if broke else "nobody listens there")
        if out:
            self.last_received = now
        return out

    def _drain(self, out: list[list[Buffer]]) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                out.append([frame.buffer for frame in self.socket.recv_multipart(zmq.NOBLOCK, copy=False)])

    def silent_at(self, now: float) -> float:
        """When the broker is to be taken for dead. Behind a payload on a slow line PINGs do not arrive."""
        while self._uploads and self._uploads[0].done:
            self._uploads.popleft()
            self._last_upload = now
        if self._uploads:
            self._last_upload = now
        at = max(self.last_received, self._last_upload) + self.silence_s
        return min(at, self.last_received + max(self.silence_s, limits.UPLOAD_MAX_MS / 1000))

    def close(self, linger_ms: int = 0) -> None:
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(linger_ms)


class Backoff:
    """How long to wait before the next connection: doubling, with some chance in it."""

    def __init__(self) -> None:
        self._next = limits.RECONNECT_MIN_MS / 1000

    def reset(self) -> None:
        self._next = limits.RECONNECT_MIN_MS / 1000

    def wait(self) -> float:
        out = self._next * random.uniform(0.75, 1.25)
        self._next = min(2 * self._next, limits.RECONNECT_MAX_MS / 1000)
        return out


class Bell:
    """Wakes a thread that polls; may be rung from any thread, and from signal handlers."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)

    def fileno(self) -> int:
        return self._read.fileno()

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # full: it rings already; closed: nobody listens
            self._write.send(b"\0")

    def silence(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._read.recv(4096):
                pass

    def close(self) -> None:
        self._read.close()
        self._write.close()

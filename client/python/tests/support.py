# SPDX-License-Identifier: Apache-2.0
"""What the tests share: events, a broker that follows a script, the real programs."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zmq

from trackmill import columns, limits
from trackmill.message import Command, Message, decode, encode

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data"
WEIGHTS = ROOT / "weights" / "standard.safetensors"
PATIENCE = 60.0  # seconds, for anything that should take one: sanitizers and busy machines

Array = npt.NDArray[Any]


def event(n: int = 5, seed: int = 1) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    out: dict[str, Array] = {axis: generator.uniform(-1000, 1000, n).astype(np.float32) for axis in "xyz"}
    out["n_cells"] = np.full(n, 2, np.uint8)
    return out


class Scripted:
    """A ROUTER that hears and says what the test wants; runs in the test's own thread."""

    def __init__(
        self, endpoint: str = "tcp://127.0.0.1:*", heartbeat_ms: int = 1000, liveness: int = 100
    ) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.bind(endpoint)
        last: Any = self.socket.get(zmq.LAST_ENDPOINT)
        self.endpoint = str(last.rstrip(b"\0").decode())
        self.heartbeat_ms, self.liveness = heartbeat_ms, liveness
        self.peer = b""
        self.frames: list[bytes] = []

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close(0)
        self.context.term()

    def hear(self, *commands: Command, timeout: float = PATIENCE) -> Message:
        """The next message, which must be one of these; PINGs and HEARTBEATs are answered or skipped."""
        end = time.monotonic() + timeout
        while True:
            left = max(0, int((end - time.monotonic()) * 1000))
            assert self.socket.poll(left), f"nothing came within {timeout} s; wanted {commands}"
            self.peer, *self.frames = self.socket.recv_multipart()
            message = decode(self.frames)
            if message.command in commands:
                return message
            if message.command == Command.PING:
                self.say(Command.PONG)
                continue
            assert message.command in (Command.PONG, Command.HEARTBEAT), message

    def nothing(self, seconds: float = 0.3) -> None:
        """Asserts that nothing but signs of life comes for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.socket.poll(int(left * 1000)):
                self.peer, *frames = self.socket.recv_multipart()
                assert decode(frames).command in (Command.PING, Command.PONG, Command.HEARTBEAT)

    def say(
        self, command: Command, of: Message | None = None, payload: bytes | None = None, **fields: Any
    ) -> None:
        origin, serial = (of.origin, of.serial) if of else (0, 0)
        self.say_frames(encode(Message(command, fields, origin, serial, payload)))

    def say_frames(self, frames: Any) -> None:
        self.socket.send_multipart([self.peer, *frames])

    def welcome(self, **fields: Any) -> None:
        ours: dict[str, Any] = {
            "software": "script",
            "epoch": 7,
            "heartbeat_ms": self.heartbeat_ms,
            "liveness": self.liveness,
        }
        self.say(Command.WELCOME, **(ours | {"max_payload": limits.PAYLOAD_MAX_BYTES, "window": 4} | fields))

    def session(self, **fields: Any) -> None:
        self.hear(Command.HELLO)
        self.welcome(**fields)

    def answer(self, request: Message, tracks: Mapping[str, Array] | None = None) -> None:
        tracks = tracks or {
            "offsets": np.array([0, 2], np.uint32),
            "indices": np.array([0, 1], np.uint32),
            "scores": np.array([0.5], np.float32),
        }
        entries, payload = columns.pack(tracks)
        self.say(
            Command.ANSWER, request, bytes(payload), model="m@1", hash=bytes(32), attempt=1, columns=entries,
            times=[["gnn", 1500]], queue_us=10, service_us=2000, worker="w",
        )  # fmt: skip

    def error(self, code: int, of: Message | None = None, **fields: Any) -> None:
        self.say(Command.ERROR, of, code=code, text="says the script", **fields)


class Helper(threading.Thread):
    """Runs a function beside the test; `done` raises what it raised."""

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.function, self.error = function, None
        self.start()

    def run(self) -> None:
        try:
            self.function()
        except BaseException as error:
            self.error = error  # type: ignore[assignment]

    def done(self) -> None:
        self.join(PATIENCE)
        assert not self.is_alive()
        if self.error:
            raise self.error


class Programs:
    """The real broker, worker and command line; ends what it started."""

    def __init__(self, folder: Path) -> None:
        found = {
            name: os.environ.get(f"TRACKMILL_{name.upper()}", "") for name in ("broker", "worker", "cli")
        }
        self.missing = [name for name, path in found.items() if not Path(path or "/none").is_file()]
        self.paths = found
        self.folder = folder
        self.running: list[subprocess.Popen[str]] = []
        self.logs = 0

    def launch(self, *arguments: object) -> subprocess.Popen[str]:
        self.logs += 1
        with open(self.folder / f"log-{self.logs}", "w") as log:
            process = subprocess.Popen(
                [str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                text=True, env={**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
            )  # fmt: skip
        self.running.append(process)
        return process

    def line(self, process: subprocess.Popen[str], start: str) -> str:
        assert process.stdout
        for line in process.stdout:
            if line.startswith(start):
                return line
        raise AssertionError(f"it ended without saying {start}: see {self.folder}")

    def broker(
        self, clients: str = "tcp://127.0.0.1:*", workers: str = "tcp://127.0.0.1:*", *more: object
    ) -> Broker:
        process = self.launch(
            self.paths["broker"],
            "--client-endpoint",
            clients,
            "--worker-endpoint",
            workers,
            "--http",
            "off",
            *more,
        )
        words = dict(word.split("=", 1) for word in self.line(process, "ready").split()[1:])
        return Broker(process, words["clients"], words["workers"])

    def worker(self, endpoints: str, *arguments: object) -> subprocess.Popen[str]:
        process = self.launch(self.paths["worker"], "--broker", endpoints, *arguments)
        for _ in endpoints.split(","):
            self.line(process, "registered")
        return process

    def mock(self, endpoints: str, settings: str = "name=m", *more: object) -> subprocess.Popen[str]:
        return self.worker(endpoints, "--backend", "mock", "--model", settings, *more)

    def cli(self, *arguments: object) -> str:
        done = subprocess.run(
            [self.paths["cli"], *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=4 * PATIENCE, env={**os.environ, "TRACKMILL_WEIGHTS": str(ROOT / "weights")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stop(self) -> None:
        for process in self.running:
            process.kill()
        for process in self.running:
            process.wait()
            if process.stdout:
                process.stdout.close()


class Broker:
    def __init__(self, process: subprocess.Popen[str], clients: str, workers: str) -> None:
        self.process, self.clients, self.workers = process, clients, workers

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

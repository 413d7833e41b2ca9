# SPDX-License-Identifier: Apache-2.0
"""What a broker says of itself."""

from __future__ import annotations

import time
from dataclasses import dataclass

import zmq

from . import limits
from .errors import NoBrokerError, from_code
from .link import Link, parse_endpoints
from .message import Command, decode


@dataclass(frozen=True)
class Report:
    broker: str
    software: str
    models: dict[str, str]  # name@version: SHA-256 of the model file, hexadecimal
    running: int
    queued: int
    workers: int
    clients: int
    answered: int
    uptime_s: float


def status(broker: str, timeout: float = limits.HELLO_TIMEOUT_MS / 1000) -> Report:
    """Asks one broker, on a connection of its own. NoBrokerError: no answer within `timeout` seconds."""
    (endpoint,) = parse_endpoints([broker])
    end = time.monotonic() + timeout
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    link = Link(context, endpoint, limits.PAYLOAD_MAX_BYTES, time.monotonic())
    try:
        link.say(Command.STATUS, time.monotonic())
        while not link.broken:
            left = end - time.monotonic()
            if left <= 0:
                raise NoBrokerError(f"{endpoint} did not answer within {timeout:g} s")
            poller = zmq.Poller()
            poller.register(link.socket, zmq.POLLIN | (zmq.POLLOUT if link.waiting else 0))
            poller.register(link.monitor, zmq.POLLIN)
            poller.poll(int(left * 1000) + 1)
            link.flush()
            for frames in link.receive(time.monotonic()):
                message = decode(frames)
                fields = message.fields
                if message.command == Command.ERROR:
                    raise from_code(fields["code"], fields["text"])
                if message.command == Command.REPORT:
                    counts = {k: fields[k] for k in ("running", "queued", "workers", "clients", "answered")}
                    models = {f"{name}@{version}": digest.hex() for name, version, digest in fields["models"]}
                    return Report(
                        endpoint, fields["software"], models, uptime_s=fields["uptime_ms"] / 1000, **counts
                    )
        raise NoBrokerError(f"{endpoint}: {link.broken}")
    finally:
        link.close()
        context.term()

# SPDX-License-Identifier: Apache-2.0
"""Track finding as a service for high-energy physics.

from trackmill import Client, read_event
with Client("tcp://broker:5570") as client:
    tracks = client.find(read_event("event000000001.npz.xz"))
    for rows in tracks:
        ...
"""

from .aio import AsyncClient
from .client import Client, Request
from .columns import Event, EventLike, Starts, Tracks
from .engine import Engine
from .errors import (
    AttemptsError,
    BackendError,
    BadEventError,
    BusyError,
    DeadlineError,
    DrainingError,
    FileError,
    MalformedError,
    MissingColumnError,
    ModelHashError,
    NoBrokerError,
    NoEngineError,
    NoMemoryError,
    NoModelError,
    RequestCancelledError,
    TooLargeError,
    TrackmillError,
    UnexpectedError,
    UnknownPeerError,
    VersionError,
)
from .event_file import read_event, write_tracks
from .status import Report, status
from .worker import Worker

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AttemptsError",
    "BackendError",
    "BadEventError",
    "BusyError",
    "Client",
    "DeadlineError",
    "DrainingError",
    "Engine",
    "Event",
    "EventLike",
    "FileError",
    "MalformedError",
    "MissingColumnError",
    "ModelHashError",
    "NoBrokerError",
    "NoEngineError",
    "NoMemoryError",
    "NoModelError",
    "Report",
    "Request",
    "RequestCancelledError",
    "Starts",
    "TooLargeError",
    "TrackmillError",
    "Tracks",
    "UnexpectedError",
    "UnknownPeerError",
    "VersionError",
    "Worker",
    "read_event",
    "status",
    "write_tracks",
]  # fmt: skip

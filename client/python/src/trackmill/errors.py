# SPDX-License-Identifier: Apache-2.0
"""One exception for each error code of wire/SPEC.md, and two for what the wire knows nothing of."""

from __future__ import annotations


class TrackmillError(Exception):
    """Why there are no tracks. `code`: on the wire, 0 if made here. `name`: the code's name. `retry`: the
    same request may succeed if it is sent again."""

    code = 0
    name = "error"
    retry = False

    def __init__(self, text: str = "", retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.text = text
        self.retry_after = retry_after  # seconds; only of `busy`

    def __str__(self) -> str:
        return f"{self.name}: {self.text}" if self.text else self.name


class VersionError(TrackmillError):
    """Client and broker speak different versions of the protocol: update the older."""

    code, name = 1, "version"


class MalformedError(TrackmillError):
    """A message that breaks the rules of the wire."""

    code, name = 2, "malformed"


class UnknownPeerError(TrackmillError):
    """The broker has no session on this connection."""

    code, name, retry = 3, "unknown_peer", True


class UnexpectedError(TrackmillError):
    """A sound message at a moment at which it is not allowed."""

    code, name = 4, "unexpected"


class TooLargeError(TrackmillError):
    """The event is larger than broker or workers take."""

    code, name = 5, "too_large"


class ModelHashError(TrackmillError):
    """Another worker serves the same model and version with other weights."""

    code, name = 6, "model_hash"


class BusyError(TrackmillError):
    """Queue, window or memory is full."""

    code, name, retry = 10, "busy", True


class DrainingError(TrackmillError):
    """The peer is shutting down."""

    code, name, retry = 11, "draining", True


class DeadlineError(TrackmillError, TimeoutError):
    """The request's time ran out."""

    code, name, retry = 12, "deadline", True


class RequestCancelledError(TrackmillError):
    """The broker ended the request as cancelled. (After Request.cancel() the future itself is cancelled.)"""

    code, name = 13, "cancelled"


class AttemptsError(TrackmillError):
    """Workers died, hung or failed on this event too often."""

    code, name = 14, "attempts"


class NoModelError(TrackmillError):
    """No worker serves the model; or several are served and none was asked for."""

    code, name, retry = 15, "no_model", True


class BadEventError(TrackmillError, ValueError):
    """Values not finite or absurd, columns of unequal length."""

    code, name = 20, "bad_event"


class MissingColumnError(TrackmillError):
    """The model needs a column that the event lacks."""

    code, name = 21, "missing_column"


class BackendError(TrackmillError):
    """The worker's track finder failed."""

    code, name, retry = 22, "backend", True


class NoMemoryError(TrackmillError):
    """Not enough memory for this event on that worker."""

    code, name, retry = 23, "no_memory", True


class NoBrokerError(TrackmillError, ConnectionError):
    """No broker answered within the request's time. Never on the wire."""

    name, retry = "no_broker", True


class NoEngineError(TrackmillError, OSError):
    """There is no engine library for this process. Never on the wire."""

    name = "no_engine"


class FileError(TrackmillError, ValueError):
    """An event file that cannot be read: file, line or row, column. Never on the wire."""

    name = "file"


BY_CODE: dict[int, type[TrackmillError]] = {
    cls.code: cls
    for cls in (
        VersionError, MalformedError, UnknownPeerError, UnexpectedError, TooLargeError, ModelHashError,
        BusyError, DrainingError, DeadlineError, RequestCancelledError, AttemptsError, NoModelError,
        BadEventError, MissingColumnError, BackendError, NoMemoryError,
    )
}  # fmt: skip


def from_code(code: int, text: str, retry_after_ms: int = 0) -> TrackmillError:
    """The exception for an error on the wire; unknown codes are final and keep their number."""
    cls = BY_CODE.get(code)
    if cls is None:
        error = TrackmillError(text)
        error.code, error.name = code, f"error {code}"
        return error
    return cls(text, retry_after_ms / 1000)

# SPDX-License-Identifier: Apache-2.0
"""Messages of wire/SPEC.md as frames, and back. Everything that comes from outside is checked here.

`decode` believes no length and no count before it has seen the bytes, so MessagePack is read by the
few lines below instead of a library; the library writes.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack

from . import limits
from .errors import MalformedError, TrackmillError, VersionError

Buffer = bytes | bytearray | memoryview

MAGIC = b"TMIL"
_HEADER = struct.Struct("<4sBBHQQ")


class Command(enum.IntEnum):
    HELLO = 0x01
    WELCOME = 0x02
    PING = 0x03
    PONG = 0x04
    BYE = 0x05
    ERROR = 0x06
    REQUEST = 0x10
    ANSWER = 0x11
    CANCEL = 0x12
    STATUS = 0x13
    REPORT = 0x14
    REGISTER = 0x20
    HEARTBEAT = 0x21
    CREDIT = 0x22
    DISPATCH = 0x23
    STARTED = 0x24
    RESULT = 0x25
    FAILED = 0x26
    REVOKE = 0x27
    DRAIN = 0x28


# name: (kind, least, greatest), in the order in which they are written
FIELDS: dict[str, tuple[str, int, int]] = {
    "software": ("str", 1, limits.SOFTWARE_MAX),
    "name": ("str", 1, limits.NAME_MAX),
    "code": ("uint", 1, limits.CODE_MAX),
    "text": ("str", 0, limits.TEXT_MAX),
    "retry_after_ms": ("uint", 0, limits.TTL_MAX_MS),
    "protocol": ("uint", 0, 255),
    "epoch": ("uint", 1, 2**64 - 1),
    "heartbeat_ms": ("uint", limits.HEARTBEAT_MIN_MS, limits.HEARTBEAT_MAX_MS),
    "liveness": ("uint", 1, limits.LIVENESS_MAX),
    "window": ("uint", 1, limits.WINDOW_MAX),
    "max_payload": ("uint", 1, limits.PAYLOAD_MAX_BYTES),
    "model": ("model", 0, limits.MODEL_REF_MAX),
    "hash": ("bin", limits.HASH_BYTES, limits.HASH_BYTES),
    "ttl_ms": ("uint", 1, limits.TTL_MAX_MS),
    "priority": ("uint", 0, limits.PRIORITIES - 1),
    "attempt": ("uint", 1, 2**32 - 1),
    "columns": ("array", 1, limits.COLUMNS_FIELD_MAX),
    "times": ("array", 1, limits.TIMES_FIELD_MAX),
    "queue_us": ("uint", 0, limits.COUNT_MAX),
    "service_us": ("uint", 0, limits.COUNT_MAX),
    "worker": ("str", 1, limits.NAME_MAX),
    "device": ("str", 1, limits.NAME_MAX),
    "backend": ("str", 1, limits.NAME_MAX),
    "slots": ("uint", 1, limits.SLOTS_MAX),
    "models": ("array", 1, limits.MODELS_FIELD_MAX),
    "credit": ("uint", 1, limits.CREDIT_MAX),
    "running": ("uint", 0, limits.COUNT_MAX),
    "queued": ("uint", 0, limits.COUNT_MAX),
    "workers": ("uint", 0, limits.COUNT_MAX),
    "clients": ("uint", 0, limits.COUNT_MAX),
    "answered": ("uint", 0, limits.COUNT_MAX),
    "uptime_ms": ("uint", 0, limits.COUNT_MAX),
}


class Rule(NamedTuple):
    id: str  # "zero", "set", "either"
    payload: bool
    required: tuple[str, ...]
    optional: tuple[str, ...]


def _rule(id: str, payload: bool, required: str = "", optional: str = "") -> Rule:
    return Rule(id, payload, tuple(required.split()), tuple(optional.split()))


COMMANDS: dict[Command, Rule] = {
    Command.HELLO: _rule("zero", False, "software", "name"),
    Command.WELCOME: _rule("zero", False, "software epoch heartbeat_ms liveness max_payload", "name window"),
    Command.PING: _rule("zero", False),
    Command.PONG: _rule("zero", False),
    Command.BYE: _rule("zero", False, "", "text"),
    Command.ERROR: _rule("either", False, "code text", "retry_after_ms protocol"),
    Command.REQUEST: _rule("set", True, "columns", "model ttl_ms priority"),
    Command.ANSWER: _rule("set", True, "model hash attempt columns times queue_us service_us worker"),
    Command.CANCEL: _rule("set", False),
    Command.STATUS: _rule("zero", False),
    Command.REPORT: _rule(
        "zero", False, "software models running queued workers clients answered uptime_ms", "name"
    ),
    Command.REGISTER: _rule("zero", False, "software name max_payload device backend slots models"),
    Command.HEARTBEAT: _rule("zero", False, "", "running"),
    Command.CREDIT: _rule("zero", False, "credit"),
    Command.DISPATCH: _rule("set", True, "model ttl_ms attempt columns"),
    Command.STARTED: _rule("set", False),
    Command.RESULT: _rule("set", True, "columns times"),
    Command.FAILED: _rule("set", False, "code text"),
    Command.REVOKE: _rule("set", False),
    Command.DRAIN: _rule("zero", False, "", "text"),
}

# type number: bytes of an element
ELEMENT_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 2, 6: 4, 7: 4, 8: 4, 9: 8, 10: 8, 11: 8}


@dataclass(slots=True)
class Message:
    """`fields` has columns as [name, type, n], times as [name, us], models as [name, version, hash]."""

    command: Command
    fields: dict[str, Any] = field(default_factory=dict)
    origin: int = 0
    serial: int = 0
    payload: Buffer | None = None


class Header(NamedTuple):
    command: Command
    origin: int
    serial: int


# ---- writing ----


def encode(message: Message) -> list[Buffer]:
    """The frames. ValueError: a field of ours breaks the rules."""
    rule = COMMANDS[message.command]
    for name in rule.required:
        if name not in message.fields:
            raise ValueError(f"{message.command.name} without {name}")
    fields = {name: message.fields[name] for name in FIELDS if name in message.fields}
    if len(fields) != len(message.fields) or not fields.keys() <= {*rule.required, *rule.optional}:
        raise ValueError(f"{message.command.name} has no such field among {', '.join(message.fields)}")
    packed: bytes = msgpack.packb(fields, use_bin_type=True)
    if len(packed) > limits.MAP_MAX_BYTES:
        raise ValueError(f"the fields of {message.command.name} take more than {limits.MAP_MAX_BYTES} bytes")
    header = _HEADER.pack(MAGIC, limits.PROTOCOL_VERSION, message.command, 0, message.origin, message.serial)
    if not rule.payload:
        return [header, packed]
    if message.payload is None:
        raise ValueError(f"{message.command.name} without a payload")
    return [header, packed, message.payload]


def clean_text(text: str, most: int) -> str:
    """What the wire takes of any string: no control characters, at most so many bytes of UTF-8."""
    text = "".join(" " if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in text)
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")


# ---- MessagePack ----


class _Str(bytes):
    """A MessagePack string, before anybody has looked whether it is UTF-8."""


class _Ext(bytes):
    """A MessagePack extension: of no use to this protocol."""


_FIXED = {
    0xCA: struct.Struct(">f"), 0xCB: struct.Struct(">d"),
    0xCC: struct.Struct(">B"), 0xCD: struct.Struct(">H"), 0xCE: struct.Struct(">I"),
    0xCF: struct.Struct(">Q"),
    0xD0: struct.Struct(">b"), 0xD1: struct.Struct(">h"), 0xD2: struct.Struct(">i"),
    0xD3: struct.Struct(">q"),
}  # fmt: skip
_LENGTH = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4,
           0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}  # fmt: skip


class _Reader:
    """Reads one MessagePack value after the other; maps become lists of pairs."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, n: int) -> bytes:
        if n > len(self.data) - self.at:
            raise MalformedError("the map is cut off")
        self.at += n
        return self.data[self.at - n : self.at]

    def count(self, least: int, n: int) -> int:
        if n * least > len(self.data) - self.at:
            raise MalformedError("a count beyond the bytes of the map")
        return n

    def value(self, depth: int = 1) -> Any:
        tag = self.take(1)[0]
        if tag < 0x80:
            return tag
        if tag >= 0xE0:
            return tag - 256
        if tag < 0x90:
            return self.pairs(tag & 15, depth)
        if tag < 0xA0:
            return self.array(tag & 15, depth)
        if tag < 0xC0:
            return _Str(self.take(tag & 31))
        if tag in _FIXED:
            return _FIXED[tag].unpack(self.take(_FIXED[tag].size))[0]
        if tag == 0xC0:
            return None
        if tag in (0xC2, 0xC3):
            return tag == 0xC3
        if 0xD4 <= tag <= 0xD8:
            return _Ext(self.take(1 + (1 << (tag - 0xD4))))
        if tag not in _LENGTH:
            raise MalformedError("no MessagePack")
        n = int.from_bytes(self.take(_LENGTH[tag]), "big")
        if tag <= 0xC6:
            return self.take(n)
        if tag <= 0xC9:
            return _Ext(self.take(1 + n))
        if tag <= 0xDB:
            return _Str(self.take(n))
        return self.array(n, depth) if tag <= 0xDD else self.pairs(n, depth)

    def array(self, n: int, depth: int) -> list[Any]:
        if depth > limits.MAP_MAX_DEPTH:
            raise MalformedError("containers nest too deep")
        return [self.value(depth + 1) for _ in range(self.count(1, n))]

    def pairs(self, n: int, depth: int) -> tuple[tuple[Any, Any], ...]:
        if depth > limits.MAP_MAX_DEPTH:
            raise MalformedError("containers nest too deep")
        return tuple((self.value(depth + 1), self.value(depth + 1)) for _ in range(self.count(2, n)))


# ---- reading ----

_PART = r"[A-Za-z0-9._-]{1,63}"  # NAME_MAX
_MODEL = re.compile(rf"{_PART}(@{_PART})?")
_NAME = re.compile(_PART)
_COLUMN = re.compile(r"[a-z0-9_]+")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def is_model(text: str, *, resolved: bool = False) -> bool:
    return bool(_MODEL.fullmatch(text)) and (not resolved or "@" in text)


def _uint(value: Any, least: int, most: int, what: str) -> int:
    if type(value) is not int or not least <= value <= most:
        raise MalformedError(f"{what} must be a whole number from {least} to {most}")
    return value


def _text(value: Any, least: int, most: int, what: str) -> str:
    if type(value) is not _Str or not least <= len(value) <= most:
        raise MalformedError(f"{what} must be a string of {least} to {most} bytes")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedError(f"{what} is not UTF-8") from None
    if _CONTROL.search(text):
        raise MalformedError(f"{what} has a control character")
    return text


def _entries(value: Any, width: int, most: int, what: str) -> Iterable[list[Any]]:
    if type(value) is not list or len(value) > most:
        raise MalformedError(f"{what} must be an array of at most {most}")
    for entry in value:
        if type(entry) is not list or len(entry) != width:
            raise MalformedError(f"an entry of {what} must be an array of {width}")
    return value


def _columns(value: Any) -> list[tuple[str, int, int]]:
    out: list[tuple[str, int, int]] = []
    seen: set[str] = set()
    for name, kind, n in _entries(value, 3, limits.COLUMNS_MAX, "columns"):
        text = _text(name, 1, limits.COLUMN_NAME_MAX, "a column's name")
        if not _COLUMN.fullmatch(text) or text in seen:
            raise MalformedError(f"column {text} is there twice, or not of a-z 0-9 _")
        seen.add(text)
        if type(kind) is not int or kind not in ELEMENT_BYTES:
            raise MalformedError(f"column {text}: no such type")
        out.append((text, kind, _uint(n, 0, 2**64 - 1, f"column {text}: n")))
    return out


def _times(value: Any) -> list[tuple[str, int]]:
    return [
        (_text(name, 1, limits.STAGE_NAME_MAX, "a stage's name"), _uint(us, 0, 2**32 - 1, "a stage's time"))
        for name, us in _entries(value, 2, limits.STAGES_MAX, "times")
    ]


def _models(value: Any) -> list[tuple[str, str, bytes]]:
    out: list[tuple[str, str, bytes]] = []
    for name, version, digest in _entries(value, 3, limits.MODELS_MAX, "models"):
        texts = [_text(part, 1, limits.NAME_MAX, "a model's name or version") for part in (name, version)]
        if not all(_NAME.fullmatch(text) for text in texts):
            raise MalformedError("a model's name or version has other characters than A-Z a-z 0-9 . _ -")
        if type(digest) is not bytes or len(digest) != limits.HASH_BYTES:
            raise MalformedError(f"a model's hash must be {limits.HASH_BYTES} bytes")
        if (texts[0], texts[1]) in [entry[:2] for entry in out]:
            raise MalformedError(f"model {texts[0]}@{texts[1]} is there twice")
        out.append((texts[0], texts[1], digest))
    return out


_ARRAYS = {"columns": _columns, "times": _times, "models": _models}


def _check_field(command: Command, name: str, value: Any, size: int) -> Any:
    kind, least, most = FIELDS[name]
    if kind == "uint":
        return _uint(value, least, most, name)
    if kind == "bin":
        if type(value) is not bytes or not least <= len(value) <= most:
            raise MalformedError(f"{name} must be {most} bytes")
        return value
    if kind == "array":
        if size > most:
            raise MalformedError(f"{name} takes more than {most} bytes")
        return _ARRAYS[name](value)
    text = _text(value, least, most, name)
    if kind == "model":
        resolved = command in (Command.ANSWER, Command.DISPATCH)
        if not is_model(text, resolved=resolved) and (text or resolved):
            raise MalformedError(f"model must be {'' if resolved else 'name or '}name@version")
    return text


def read_header(frame: Buffer) -> Header:
    """VersionError, MalformedError: not a header of ours."""
    if len(frame) != limits.HEADER_BYTES:
        raise MalformedError(f"the header has {len(frame)} bytes instead of {limits.HEADER_BYTES}")
    magic, version, number, flags, origin, serial = _HEADER.unpack(frame)
    if magic != MAGIC:
        raise MalformedError("not a trackmill message")
    if version != limits.PROTOCOL_VERSION:
        raise VersionError(f"the peer speaks protocol version {version}, this side {limits.PROTOCOL_VERSION}")
    if flags:
        raise MalformedError("a flag is set")
    try:
        command = Command(number)
    except ValueError:
        raise MalformedError(f"no command 0x{number:02x}") from None
    rule = COMMANDS[command].id
    if (origin == 0) != (serial == 0) or (rule == "zero" and origin) or (rule == "set" and not origin):
        raise MalformedError(f"the id of {command.name} must be {rule}")
    return Header(command, origin, serial)


def _read_map(command: Command, data: bytes) -> dict[str, Any]:
    if len(data) > limits.MAP_MAX_BYTES:
        raise MalformedError(f"the map has more than {limits.MAP_MAX_BYTES} bytes")
    rule = COMMANDS[command]
    known = {name.encode(): name for name in (*rule.required, *rule.optional)}
    reader = _Reader(data)
    tag = reader.take(1)[0]
    if 0x80 <= tag < 0x90:
        n = tag & 15
    elif tag in (0xDE, 0xDF):
        n = int.from_bytes(reader.take(_LENGTH[tag]), "big")
    else:
        raise MalformedError("frame 1 is no map")
    fields: dict[str, Any] = {}
    for _ in range(reader.count(2, n)):
        key = reader.value(2)
        if type(key) is not _Str:
            raise MalformedError("a key is no string")
        start = reader.at
        value = reader.value(2)
        name = known.get(key)
        if name is None:
            continue
        if name in fields:
            raise MalformedError(f"{name} is there twice")
        fields[name] = _check_field(command, name, value, reader.at - start)
    if reader.at != len(data):
        raise MalformedError("bytes after the map")
    for name in rule.required:
        if name not in fields:
            raise MalformedError(f"{command.name} without {name}")
    return fields


def _check_payload(columns: Sequence[tuple[str, int, int]], payload: Buffer) -> None:
    view = memoryview(payload)
    left = len(view)
    if left > limits.PAYLOAD_MAX_BYTES:
        raise MalformedError(f"the payload has more than {limits.PAYLOAD_MAX_BYTES} bytes")
    for name, kind, n in columns:
        size = n * ELEMENT_BYTES[kind]
        padding = -size % limits.PAYLOAD_ALIGN
        if size + padding > left:
            raise MalformedError(f"column {name} is longer than the payload")
        start = len(view) - left + size
        if any(view[start : start + padding]):
            raise MalformedError(f"the padding after column {name} is not zero")
        left -= size + padding
    if left:
        raise MalformedError(f"{left} bytes after the last column")


def decode(frames: Sequence[Buffer]) -> Message:
    """VersionError, MalformedError: refused. The payload is not copied."""
    if not frames:
        raise MalformedError("no frame")
    header = read_header(frames[0])
    rule = COMMANDS[header.command]
    if len(frames) != (3 if rule.payload else 2):
        raise MalformedError(f"{header.command.name} has {len(frames)} frames")
    fields = _read_map(header.command, bytes(frames[1]))
    payload = frames[2] if rule.payload else None
    if payload is not None:
        _check_payload(fields["columns"], payload)
    return Message(header.command, fields, header.origin, header.serial, payload)


__all__ = [
    "COMMANDS", "FIELDS", "Buffer", "Command", "Header", "Message", "TrackmillError", "clean_text", "decode",
    "encode", "is_model", "read_header",
]  # fmt: skip

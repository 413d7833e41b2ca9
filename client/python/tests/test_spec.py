# SPDX-License-Identifier: Apache-2.0
"""Every table and test vector of wire/SPEC.md against trackmill.message."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trackmill import columns, errors, limits, message

SPEC = (Path(__file__).parents[3] / "wire" / "SPEC.md").read_text(encoding="utf-8")
VECTORS: list[dict[str, Any]] = [
    json.loads(block) for block in re.findall(r"```vector\n(.*?)```", SPEC, re.S)
]
MESSAGES = [v for v in VECTORS if "command" in v]
REFUSALS = [v for v in VECTORS if "refuse" in v]


def name_of(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def frames_of(vector: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(frame) for frame in vector["frames"]]


def fields_of(vector: dict[str, Any]) -> dict[str, Any]:
    """The fields as `decode` gives them: hashes as bytes, entries as tuples."""
    fields = dict(vector["fields"])
    if "hash" in fields:
        fields["hash"] = bytes.fromhex(fields["hash"])
    for name in ("columns", "times"):
        if name in fields:
            fields[name] = [tuple(entry) for entry in fields[name]]
    if "models" in fields:
        fields["models"] = [(n, v, bytes.fromhex(h)) for n, v, h in fields["models"]]
    return fields


def table(heading: str) -> list[list[str]]:
    """The cells of the first table behind a heading, without its head."""
    lines = SPEC.split(f"\n## {heading}\n")[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    return rows


def test_there_are_vectors() -> None:
    assert len(MESSAGES) > 30 and len(REFUSALS) > 40
    assert {v["command"] for v in MESSAGES} == {c.name for c in message.Command}


@pytest.mark.parametrize("vector", MESSAGES, ids=name_of)
def test_decode(vector: dict[str, Any]) -> None:
    got = message.decode(frames_of(vector))
    assert got.command.name == vector["command"]
    assert (got.origin, got.serial) == (int(vector["origin"], 16), int(vector["serial"], 16))
    assert got.fields == fields_of(vector)
    if "values" in vector:
        assert got.payload is not None
        arrays = columns.unpack(got.fields["columns"], got.payload)
        assert {name: array.tolist() for name, array in arrays.items()} == vector["values"]


@pytest.mark.parametrize("vector", [v for v in MESSAGES if v.get("canonical", True)], ids=name_of)
def test_encode(vector: dict[str, Any]) -> None:
    fields = fields_of(vector)
    payload = None
    if "values" in vector:
        arrays = {n: np.array(vector["values"][n], columns.TYPES[t]) for n, t, _ in fields["columns"]}
        entries, payload = columns.pack(arrays)
        assert entries == fields["columns"]
    got = message.Message(
        message.Command[vector["command"]],
        fields,
        int(vector["origin"], 16),
        int(vector["serial"], 16),
        payload,
    )
    assert [bytes(frame) for frame in message.encode(got)] == frames_of(vector)


@pytest.mark.parametrize("vector", REFUSALS, ids=name_of)
def test_refuse(vector: dict[str, Any]) -> None:
    with pytest.raises(errors.TrackmillError) as caught:
        message.decode(frames_of(vector))
    assert caught.value.name == vector["refuse"]


def test_every_cut_and_flip_is_survived() -> None:
    """Damaged messages decode or are refused; nothing else ever escapes."""
    for vector in MESSAGES:
        frames = frames_of(vector)
        for which, frame in enumerate(frames):
            for at in range(len(frame)):
                for damaged in (frame[:at], frame[:at] + bytes([frame[at] ^ 0xFF]) + frame[at + 1 :]):
                    with contextlib.suppress(errors.MalformedError, errors.VersionError):
                        message.decode([*frames[:which], damaged, *frames[which + 1 :]])


def test_field_table() -> None:
    rows = table("Fields")
    want = {row[0]: (row[1], *(int(bound) for bound in row[2].split("…"))) for row in rows}
    assert list(want.items()) == list(message.FIELDS.items())


def test_command_table() -> None:
    rows = table("Commands")
    assert [int(row[0], 16) for row in rows] == [int(c) for c in message.Command]
    for row in rows:
        command = message.Command[row[1]]
        rule = message.COMMANDS[command]
        words = row[5].split()
        assert rule.id == row[3] and rule.payload == (row[4] == "yes")
        assert rule.required == tuple(w.strip("*") for w in words if w.startswith("**"))
        assert rule.optional == tuple(w for w in words if not w.startswith("**"))


def test_error_table() -> None:
    rows = table("Error codes")
    assert {int(row[0]) for row in rows} == set(errors.BY_CODE)
    for row in rows:
        error = errors.from_code(int(row[0]), "x")
        assert (error.name, error.retry) == (row[1], row[2] == "yes")
    unknown = errors.from_code(77, "new")
    assert unknown.code == 77 and not unknown.retry and "77" in str(unknown)


def test_limits_table() -> None:
    rows = {row[0].removeprefix("TM_"): int(row[1]) for row in table("Limits and timing")}
    ours = {name: value for name, value in vars(limits).items() if name in rows}
    assert len(ours) > 35
    assert ours == {name: rows[name] for name in ours}


def test_encode_refuses_our_own_mistakes() -> None:
    for bad in (
        message.Message(message.Command.HELLO),
        message.Message(message.Command.HELLO, {"software": "x", "credit": 1}),
        message.Message(message.Command.REQUEST, {"columns": []}, 1, 1),
        message.Message(message.Command.BYE, {"text": "x" * 5000}),
    ):
        with pytest.raises(ValueError):
            message.encode(bad)


def test_clean_text() -> None:
    assert message.clean_text("a\nb\x9bc", 99) == "a b c"
    assert message.clean_text("é" * 9, 5) == "éé"

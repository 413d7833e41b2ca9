# SPDX-License-Identifier: Apache-2.0
"""Reading events as docs/formats.md says. test_service.py compares with what the C reader sends."""

from __future__ import annotations

import gzip
import lzma
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import DATA

from trackmill import Event, FileError, Tracks, read_event, write_tracks


def trackml(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"event7-{name}.csv").write_text(text)
    return folder / "event7-hits.csv"


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


MICRO: dict[str, Any] = {"x_um": [32500, -1], "y_um": [0, 2], "z_um": [7, 8]}


def test_trackml() -> None:
    event = read_event(DATA / "formats" / "trackml" / "event000000007-hits.csv")
    assert (
        event.hit_ids is not None
        and event.hit_ids[:3].tolist() == [10, 4, 7]
        and event.name == "event000000007"
    )
    assert event["x"][:3].tolist() == [32.5, 71.0, 115.25] and event["x"].dtype == np.float32
    assert (event["n_cells"][0], event["size_loc0"][0], event["size_loc1"][0]) == (3, 2, 2)
    assert event["charge"][:2].tolist() == [0.875, 0.75] and event["charge"].dtype == np.float16
    assert event["n_cells"].dtype == np.uint8 and "module_id" not in event.columns


def test_common_start_and_compression(tmp_path: Path) -> None:
    source = DATA / "formats" / "trackml"
    want = read_event(source / "event000000007")
    for path in source.iterdir():
        with gzip.open(tmp_path / f"{path.name}.gz", "wb") as file:
            file.write(path.read_bytes())
    shutil.copy(tmp_path / "event000000007-cells.csv.gz", tmp_path / "x")
    (tmp_path / "event000000007-cells.csv.gz").unlink()
    with lzma.open(tmp_path / "event000000007-cells.csv.xz", "wb") as out:
        out.write((source / "event000000007-cells.csv").read_bytes())
    got = read_event(tmp_path / "event000000007")
    assert got.columns.keys() == want.columns.keys() and got.name == want.name
    assert all(got[name].tobytes() == want[name].tobytes() for name in want.columns)


def test_npz(tmp_path: Path) -> None:
    path = npz(tmp_path / "e.npz", **MICRO, charge_e3=[500, 0], size_loc0=np.array([3, 4], "u2"), other=[[1]])
    event = read_event(path)
    assert event["x"].tolist() == [32.5, np.float32(-0.001)] and event["size_loc0"].dtype == np.uint16
    assert event["charge"].dtype == np.float16 and event.hit_ids is None and len(event) == 2
    assert read_event(npz(path, **MICRO, charge_e3=[70_000_000, 0]))["charge"].dtype == np.float32
    assert read_event(npz(path, **MICRO, charge=[1.0, 2.0]))["charge"].dtype == np.float64
    assert read_event(npz(path, x=[1], y=[2.5], z=[3]))["y"].tolist() == [2.5]


def test_geometry(tmp_path: Path) -> None:
    path = npz(tmp_path / "e.npz", **MICRO, volume=[8, 9], layer=[2, 4], module=[1, 3])
    assert read_event(path, module_id=True)["module_id"].tolist() == [
        (8 << 56) | (2 << 36) | 256,
        (9 << 56) | (4 << 36) | 768,
    ]


def test_decimal_numbers_become_the_nearest_float(tmp_path: Path) -> None:
    """Rounding to double first and then to float would be wrong for these."""
    one_up, half = np.nextafter(np.float32(1), np.float32(2)), Fraction(1, 2**24)
    texts = [
        "1.000000059604644775390625",  # exactly between: to even
        "1.00000005960464477539062500000000000000001",  # a hair above
        "1.0000001788139343261718749999999999999999",  # a hair below the next one's middle
    ]
    assert Fraction(texts[0]) == 1 + half
    rows = "".join(f"{i},{text},0,0\n" for i, text in enumerate(texts))
    event = read_event(trackml(tmp_path, hits=f"hit_id,x,y,z\n{rows}"))
    assert event["x"].tolist() == [1.0, float(one_up), float(one_up)]


def test_large_clusters(tmp_path: Path) -> None:
    cells = "hit_id,ch0,ch1,value\n1,0,0,1e-7\n1,299,0,0\n2,0,70000,1\n2,0,0,1\n9,9,9,9\n"
    event = read_event(trackml(tmp_path, hits="hit_id,x,y,z\n1,0,0,0\n2,1,1,1\n3,2,2,2\n", cells=cells))
    assert event["size_loc0"].tolist() == [300, 1, 0] and event["size_loc0"].dtype == np.uint16
    assert event["size_loc1"].tolist() == [1, 65535, 0]
    assert event["charge"].dtype == np.float32  # 1e-7 is too small for f16
    assert event["n_cells"].tolist() == [2, 2, 0] and event["n_cells"].dtype == np.uint8


HEAD = "hit_id,x,y,z\n"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"hits": ""}, "empty"),
        ({"hits": "hit_id,x,y\n1,2,3\n"}, "no column z"),
        ({"hits": HEAD + "1,2,3\n"}, "line 2: 3 fields instead of 4"),
        ({"hits": HEAD + "1,2,3,4\n2,a,3,4\n"}, "line 3, column x: 'a'"),
        ({"hits": HEAD + "1,2,nan,4\n"}, "line 2, column y: not finite"),
        ({"hits": HEAD + "1,2,3,2e5\n"}, "column z, row 0"),
        ({"hits": HEAD + "1,2,3,4\n1,2,3,4\n"}, "hit_id 1 is there twice"),
        ({"hits": HEAD + "-1,2,3,4\n"}, "whole number"),
        ({"hits": HEAD + "1,2,3,4\n", "cells": "hit_id,ch0,ch1,value\n7,1,1,1\n"}, "none of its cells"),
        ({"hits": HEAD + "1,2,3,4\n", "cells": "hit_id,ch0,value\n1,1,1\n"}, "cells.csv: no column ch1"),
    ],
)
def test_faults_of_csv(tmp_path: Path, files: dict[str, str], words: str) -> None:
    with pytest.raises(FileError) as caught:
        read_event(trackml(tmp_path, **files))
    assert words in str(caught.value) and str(tmp_path) in str(caught.value)


def test_faults_of_files(tmp_path: Path) -> None:
    path = tmp_path / "e.npz"
    for data in (
        b"",
        b"PK\x03\x04junk",
        b"\x1f\x8bjunk",
        b"\xfd7zXZ\0junk",
        b"\xff\xfe",
        (DATA / "event000000010.npz.xz").read_bytes()[:-40],
    ):
        path.write_bytes(data)
        with pytest.raises(FileError, match=r"e\.npz"):
            read_event(path)
    with pytest.raises(FileError, match="no such file"):
        read_event(tmp_path / "none")
    bad: list[tuple[dict[str, Any], str]] = [
        ({"x_um": [1]}, "y_um nor y"),
        (MICRO | {"y_um": [1]}, "array y"),
        (MICRO | {"x_um": [1.5, 2]}, "not whole"),
        (MICRO | {"n_cells": ["a", "b"]}, "not numbers"),
        (MICRO | {"charge": [1, np.nan]}, "charge, row 1"),
        ({"x": [[1]], "y": [[1]], "z": [[1]]}, "shape"),
    ]
    for arrays, words in bad:
        with pytest.raises(FileError, match=words):
            read_event(npz(path, **arrays))


def test_write_tracks(tmp_path: Path) -> None:
    offsets, indices = np.array([0, 2, 3], np.uint32), np.array([3, 0, 1], np.uint32)
    tracks = Tracks(offsets, indices, np.ones(2, np.float32), 4)
    write_tracks(tmp_path / "t.csv", tracks)
    assert (tmp_path / "t.csv").read_text() == "hit_id,track_id\n3,0\n0,0\n1,1\n"
    write_tracks(tmp_path / "t.csv", tracks, Event({}, np.array([7, 8, 9, 2**63 + 1], np.uint64)))
    assert (tmp_path / "t.csv").read_text() == f"hit_id,track_id\n{2**63 + 1},0\n7,0\n8,1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]

# SPDX-License-Identifier: Apache-2.0
"""Makes a trackmill model file of a folder of .npy arrays and a pipeline in JSON.

    python3 npy_folder.py FOLDER PIPELINE.json OUT.safetensors
                          [--add OTHER_FOLDER] ... [--identity NAME=WIDTH] ...

FOLDER holds one <tensor name>.npy per tensor and may hold a manifest.json, a list of
[name, shape, dtype]: then exactly these tensors are read, and shape and dtype must agree. A Linear
weight is [out, in]. `--add` takes further folders (a stage that was trained apart): a name must not
stand in two of them. `--identity embed.weight=3` adds a 3 x 3 identity matrix: for a graph that is
built in the space of the features themselves, with no embedding. The pipeline is the JSON object that docs/model-file.md describes. Needs numpy
alone.
"""

import argparse
import json
import pathlib
import sys

import numpy as np

from safetensors_io import write

MANIFEST = "manifest.json"
WIDTH_MAX = 8192  # as TM_WIDTH_MAX in nn/pipeline.h


def load_array(path):
    """One array; pickled objects are refused, since reading them would run code."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_folder(folder):
    """name -> array of a folder."""
    folder = pathlib.Path(folder)
    manifest = folder / MANIFEST
    if not manifest.exists():
        tensors = {path.stem: load_array(path) for path in sorted(folder.glob("*.npy"))}
        if not tensors:
            raise ValueError(f"{folder}: no .npy file in it")
        return tensors
    tensors = {}
    for name, shape, dtype in json.loads(manifest.read_text(encoding="utf-8")):
        if "/" in name or name in tensors:
            raise ValueError(f"{manifest}: tensor name {name!r} is twice there or has a slash")
        array = load_array(folder / f"{name}.npy")
        if list(array.shape) != list(shape) or array.dtype != np.dtype(dtype):
            raise ValueError(
                f"{folder / name}.npy: {array.dtype} {list(array.shape)}, but {MANIFEST} says "
                f"{dtype} {list(shape)}"
            )
        tensors[name] = array
    return tensors


def identities(arguments):
    """name -> identity matrix of arguments like embed.weight=3."""
    tensors = {}
    for argument in arguments:
        name, _, width = argument.rpartition("=")
        if not name or not width.isdecimal() or not 1 <= int(width) <= WIDTH_MAX:
            raise ValueError(f"--identity {argument}: NAME=WIDTH, 1 to {WIDTH_MAX}, is expected")
        tensors[name] = np.eye(int(width), dtype=np.float32)
    return tensors


def convert(folders, pipeline_path, out, identity=()):
    """Writes the model file; returns the number of tensors."""
    tensors = identities(identity)
    for folder in folders:
        more = read_folder(folder)
        twice = sorted(set(tensors) & set(more))
        if twice:
            raise ValueError(f"{folder}: tensor {twice[0]} is there already")
        tensors.update(more)
    text = pathlib.Path(pipeline_path).read_text(encoding="utf-8")
    try:
        pipeline = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{pipeline_path}: {error}") from error
    write(out, tensors, pipeline)
    return len(tensors)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", help="folder of .npy arrays")
    parser.add_argument("pipeline", help="the pipeline, a JSON file")
    parser.add_argument("out", help="the model file to write")
    parser.add_argument("--add", action="append", default=[], metavar="FOLDER",
                        help="a further folder of arrays")
    parser.add_argument("--identity", action="append", default=[], metavar="NAME=WIDTH",
                        help="add an identity matrix under this tensor name")
    args = parser.parse_args(arguments)
    try:
        count = convert([args.folder, *args.add], args.pipeline, args.out, args.identity)
    except (OSError, ValueError) as error:
        print(f"npy_folder: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {count} tensors")
    return 0


if __name__ == "__main__":
    sys.exit(main())

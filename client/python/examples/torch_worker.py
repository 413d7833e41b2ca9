# SPDX-License-Identifier: Apache-2.0
"""The pipeline of a trackmill model file in PyTorch, as a worker: another implementation behind the broker.

    python torch_worker.py standard.safetensors tcp://127.0.0.1:5571 --name torch
    trackmill find --broker tcp://127.0.0.1:5570 --model torch event000000001.npz.xz

Reads the file itself and does what docs/model-file.md says, on a GPU where PyTorch has one: features,
embedding, radius graph, filter, interaction network, best edges or components. It leaves out the steps behind
the track builder (split, join, select), and says so; what else it does not know (k nearest neighbours,
resagnn, stages that take some of the features) it refuses when it starts. Its tracks are therefore not those
of the file's own model, and it serves them under another name. Needs torch 1.13 or later.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from trackmill import Worker

ROWS = 4096  # of the distance matrix at a time
EDGES = 1 << 20  # through the filter at a time
MIN_DR_MM = 2.0  # the least |dr| in z0 and curvature
TYPES: dict[str, Any] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
GEOMETRY = ("x", "y", "z", "r", "phi", "eta", "theta", "rho", "cos_phi", "sin_phi")
STEPS = ("fit", "split", "join", "select")  # left out
KNOWN: dict[str, set[str]] = {
    "": {
        "format", "name", "version", "description", "features", "edge_features", "embed", "radius", "filter",
        "gnn", "tracks",
    },
    "embed": {"mlp", "normalize"},
    "radius": {"r", "k", "direction", "dphi_max", "z0_max", "z0_min_dr"},
    "filter": {"inputs", "mlp", "cut"},
    "gnn": {
        "kind", "steps", "order", "node_encoder", "edge_encoder_inputs", "edge_encoder", "node_inputs",
        "node_mlp", "node_residual", "edge_inputs", "edge_mlp", "edge_residual", "output_inputs", "output",
    },
    "tracks": {"cut", "builder", "min_points", *STEPS},
}  # fmt: skip
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu, "silu": F.silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "gelu": F.gelu,
}  # fmt: skip

Columns = dict[str, npt.NDArray[Any]]
Parts = dict[str, torch.Tensor]


def read_model(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors (float32) and the pipeline of a model file. ValueError: what this worker cannot do."""
    data = path.read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + header_bytes])
    pipeline = json.loads(header.pop("__metadata__")["trackmill"])
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        array = np.frombuffer(data[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = torch.from_numpy(array.astype(np.float32))
    for stage, keys in KNOWN.items():
        unknown = set(pipeline if not stage else pipeline.get(stage, {})) - keys
        if unknown:
            raise ValueError(
                f"{path}: this worker does not know {stage or 'the pipeline'}: {sorted(unknown)}"
            )
    if pipeline["radius"].get("k", 0) or pipeline.get("gnn", {}).get("kind", "interaction") != "interaction":
        raise ValueError(
            f"{path}: this worker knows neither k nearest neighbours nor other networks than interaction"
        )
    return tensors, pipeline


def derive(columns: Columns) -> Columns:
    """The features that need x y z alone, [N] each, in double precision."""
    x, y, z = (columns[axis].astype(np.float64) for axis in "xyz")
    r = np.hypot(x, y)
    one = np.where(r == 0, 1, r)
    values = (
        x, y, z, r, np.arctan2(y, x), np.arcsinh(z / np.maximum(r, 1e-3)), np.arctan2(r, z), np.hypot(r, z),
        np.where(r == 0, 1, x / one), np.where(r == 0, 0, y / one),
    )  # fmt: skip
    return dict(zip(GEOMETRY, values, strict=True))


class Pipeline:
    """find(columns) for trackmill.Worker."""

    def __init__(self, path: Path, device: str) -> None:
        tensors, self.pipeline = read_model(path)
        self.device = torch.device(device)
        self.tensors = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        names = [feature["name"].removeprefix("log_") for feature in self.pipeline["features"]]
        self.columns = [name for name in dict.fromkeys(names) if name not in GEOMETRY]

    def mlp(self, operations: list[dict[str, Any]], x: torch.Tensor, step: int = 0) -> torch.Tensor:
        """step: of the network, in the names of tensors where each step has its own."""
        for operation in operations:
            kind, name = operation["op"], operation.get("tensor", "").replace("{step}", str(step))
            if kind == "linear":
                bias = self.tensors[f"{name}.bias"] if operation.get("bias", True) else None
                x = F.linear(x, self.tensors[f"{name}.weight"], bias)
            elif kind == "layer_norm":
                weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
                x = F.layer_norm(x, weight.shape, weight, bias, operation.get("eps", 1e-5))
            elif kind == "batch_norm":
                parts = [
                    self.tensors[f"{name}.{part}"]
                    for part in ("running_mean", "running_var", "weight", "bias")
                ]
                x = F.batch_norm(x, *parts, eps=operation.get("eps", 1e-5))
            else:
                x = ACTIVATIONS[kind](x)
        return x

    def join(self, names: list[str], parts: Callable[[str], torch.Tensor]) -> torch.Tensor:
        return torch.cat([parts(name) for name in names], dim=1)

    def scaled(
        self, listed: list[dict[str, Any]], raw: Callable[[str], npt.NDArray[Any]]
    ) -> npt.NDArray[np.float32]:
        """[N, features]: raw / scale, clamped where the file says so."""
        out = []
        for feature in listed:
            value = raw(feature["name"]) / feature["scale"]
            clamp = feature.get("clamp")
            out.append(np.clip(value, -clamp, clamp) if clamp else value)
        return np.stack(out, axis=1).astype(np.float32)

    def edge_features(self, at: Parts, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """[E, edge features] of the edges a -> b."""
        dr, dz = at["r"][b] - at["r"][a], at["z"][b] - at["z"][a]
        dphi = at["phi"][b] - at["phi"][a]
        dphi = dphi - 2 * math.pi * torch.round(dphi / (2 * math.pi))
        run = torch.where(dr < 0, -1.0, 1.0) * dr.abs().clamp(min=MIN_DR_MM)
        slope = torch.where(
            dr == 0, torch.zeros_like(dr), dphi / torch.where(dr == 0, torch.ones_like(dr), dr)
        )
        raw = {
            "dr": dr, "dz": dz, "dphi": dphi, "deta": at["eta"][b] - at["eta"][a],
            "z0": at["z"][a] - at["r"][a] * dz / run, "curvature": dphi / run, "phi_slope": slope,
            "rphi_slope": slope * (at["r"][a] + at["r"][b]) / 2,
        }  # fmt: skip
        columns = []
        for feature in self.pipeline.get("edge_features", []):
            value = raw[feature["name"]] / feature["scale"]
            columns.append(value.clamp(-feature["clamp"], feature["clamp"]) if "clamp" in feature else value)
        return torch.stack(columns, dim=1) if columns else dr.new_zeros(len(dr), 0)

    def radius_edges(self, place: torch.Tensor, at: Parts) -> tuple[torch.Tensor, torch.Tensor]:
        """Pairs closer than r in the embedding that pass the geometric cuts, sorted by source and target."""
        radius = self.pipeline["radius"]
        outward = radius["direction"] == "outward"
        # outward by rho, of equals from the lower row to the higher; "index" goes from higher to lower rows
        order = at["rho"] if outward else -torch.arange(len(place), device=self.device)
        row = torch.arange(len(place), device=self.device)
        square = (place * place).sum(dim=1)
        sources, targets = [], []
        for start in range(0, len(place), ROWS):
            part = slice(start, start + ROWS)
            near = square[part, None] + square - 2 * place[part] @ place.t() <= radius["r"] ** 2
            later = (order[part, None] < order) | ((order[part, None] == order) & (row[part, None] < row))
            a, b = (near & later).nonzero(as_tuple=True)
            a = a + start
            keep = torch.ones_like(a, dtype=torch.bool)
            dphi = at["phi"][b] - at["phi"][a]
            dphi = dphi - 2 * math.pi * torch.round(dphi / (2 * math.pi))
            if radius.get("dphi_max", 0):
                keep &= dphi.abs() < radius["dphi_max"]
            if radius.get("z0_max", 0):
                dr, dz = at["r"][b] - at["r"][a], at["z"][b] - at["z"][a]
                z0 = at["z"][a] - at["r"][a] * dz / dr.clamp(min=1e-3)
                keep &= (z0.abs() < radius["z0_max"]) | (dr < radius.get("z0_min_dr", 0))
            sources.append(a[keep])
            targets.append(b[keep])
        return torch.cat(sources), torch.cat(targets)

    def interaction(
        self, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, edge_x: torch.Tensor
    ) -> torch.Tensor:
        """Logit of each edge."""
        gnn = self.pipeline["gnn"]
        x = x0 = self.mlp(gnn["node_encoder"], x)
        first = {"edge_features": lambda: edge_x, "x_src": lambda: x[a], "x_dst": lambda: x[b]}
        e = e0 = self.mlp(
            gnn["edge_encoder"], self.join(gnn["edge_encoder_inputs"], lambda name: first[name]())
        )

        def gathered(at: torch.Tensor, how: str) -> torch.Tensor:
            if how == "max":
                index = at[:, None].expand_as(e)
                return x.new_zeros(len(x), e.shape[1]).scatter_reduce(0, index, e, "amax", include_self=False)
            total = x.new_zeros(len(x), e.shape[1]).index_add(0, at, e)
            return (
                total if how == "sum" else total / torch.bincount(at, minlength=len(x)).clamp(min=1)[:, None]
            )

        def of_node(name: str) -> torch.Tensor:
            how, _, end = name.partition("_")
            return {"x": x, "x0": x0}[name] if not end else gathered(b if end == "dst" else a, how)

        def of_edge(name: str) -> torch.Tensor:
            what, _, end = name.partition("_")
            if name == "edge_features":
                return edge_x
            if not end:
                return {"e": e, "e0": e0}[what]
            return {"x": x, "x0": x0}[what][a if end == "src" else b]

        def new_x(step: int) -> torch.Tensor:
            out = self.mlp(gnn["node_mlp"], self.join(gnn["node_inputs"], of_node), step)
            return out + x if gnn["node_residual"] else out

        def new_e(step: int) -> torch.Tensor:
            out = self.mlp(gnn["edge_mlp"], self.join(gnn["edge_inputs"], of_edge), step)
            return out + e if gnn["edge_residual"] else out

        for step in range(gnn["steps"]):
            if gnn["order"] == "node_first":
                later = new_x(step)
                e = new_e(step)  # with the old x
                x = later
            else:
                e = new_e(step)
                x = new_x(step)
        return self.mlp(gnn["output"], self.join(gnn["output_inputs"], of_edge)).squeeze(1)

    @torch.no_grad()  # type: ignore[untyped-decorator,unused-ignore]
    def find(self, columns: Columns) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        """Offsets, rows and scores of the candidates, points ordered outward."""
        geometry = derive(columns)

        def raw(name: str) -> npt.NDArray[Any]:
            if name in geometry:
                return geometry[name]
            values = columns[name.removeprefix("log_")].astype(np.float64)
            return np.log1p(np.maximum(values, 0)) if name.startswith("log_") else values

        n = len(columns["x"])
        nothing = np.zeros(1, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        if n == 0:
            return nothing
        features = torch.from_numpy(self.scaled(self.pipeline["features"], raw)).to(self.device)
        at = {
            name: torch.from_numpy(geometry[name].astype(np.float32)).to(self.device)
            for name in ("r", "z", "phi", "eta", "rho")
        }
        place = self.mlp(self.pipeline["embed"]["mlp"], features)
        if self.pipeline["embed"]["normalize"]:
            place = F.normalize(place, dim=1, eps=1e-12)
        a, b = self.radius_edges(place, at)
        edge_x = self.edge_features(at, a, b)
        logit = features.new_zeros(len(a))
        if "filter" in self.pipeline:
            stage = self.pipeline["filter"]
            for start in range(0, len(a), EDGES):
                part = slice(start, start + EDGES)
                inputs = {
                    "x_src": features[a[part]],
                    "x_dst": features[b[part]],
                    "edge_features": edge_x[part],
                }
                logit[part] = self.mlp(stage["mlp"], self.join(stage["inputs"], inputs.__getitem__)).squeeze(
                    1
                )
            keep = torch.sigmoid(logit) > stage["cut"]
            a, b, edge_x, logit = a[keep], b[keep], edge_x[keep], logit[keep]
        if len(a) == 0:
            return nothing
        if "gnn" in self.pipeline:
            logit = self.interaction(features, a, b, edge_x)
        good = torch.sigmoid(logit) > self.pipeline["tracks"]["cut"]
        return self.build(n, a[good].cpu(), b[good].cpu(), logit[good].cpu(), at["rho"].cpu())

    def build(
        self, n: int, a: torch.Tensor, b: torch.Tensor, logit: torch.Tensor, rho: torch.Tensor
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        """The track builder of the file."""
        if self.pipeline["tracks"]["builder"] == "best_edges":
            taken = best_edges(n, a, b, logit)
            a, b, logit = a[taken], b[taken], logit[taken]
        label = torch.arange(n)
        while True:
            least = torch.minimum(label[a], label[b])
            new = label.scatter_reduce(0, a, least, "amin").scatter_reduce(0, b, least, "amin")
            new = new[new]
            if torch.equal(new, label):
                break
            label = new
        size = torch.bincount(label, minlength=n)
        score = torch.zeros(n).index_add(0, label[a], torch.sigmoid(logit))
        score = score / torch.bincount(label[a], minlength=n).clamp(min=1)
        roots = (size >= self.pipeline["tracks"]["min_points"]).nonzero().squeeze(1)
        by_track = np.lexsort((rho.numpy(), label.numpy()))  # points outward within each track
        chosen = by_track[np.isin(label.numpy()[by_track], roots.numpy())]
        offsets = np.concatenate([[0], np.cumsum(size[roots].numpy())])
        return offsets, chosen, score[roots].clamp(0, 1).numpy().astype(np.float32)


def best_edges(n: int, a: torch.Tensor, b: torch.Tensor, logit: torch.Tensor) -> torch.Tensor:
    """Of the edges whose ends are free, those that are the best of both are taken, until none is left."""
    out, into = [-1] * n, [-1] * n  # the edge taken
    order = torch.argsort(logit, descending=True, stable=True).tolist()
    sources, targets = a.tolist(), b.tolist()
    for edge in order:  # from the best down wherever both ends are free: the same set
        if out[sources[edge]] < 0 and into[targets[edge]] < 0:
            out[sources[edge]] = into[targets[edge]] = edge
    return torch.tensor(sorted(edge for edge in out if edge >= 0), dtype=torch.long)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="a trackmill worker in PyTorch")
    parser.add_argument("model", type=Path, help="model file, .safetensors")
    parser.add_argument("broker", nargs="*", default=["tcp://127.0.0.1:5571"], help="worker ports of brokers")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--name", help="serve the model under this name (default: the file's with -torch behind)"
    )
    options = parser.parse_args()
    pipeline = Pipeline(options.model, options.device)
    about = pipeline.pipeline
    if left_out := [step for step in STEPS if step in about["tracks"]]:
        print(f"{options.model}: without the steps {', '.join(left_out)}", flush=True)
    Worker(
        options.broker, pipeline.find, model=options.name or f"{about['name']}-torch",
        version=about["version"], hash=options.model, requires=pipeline.columns,
        device=str(pipeline.device), backend="torch",
    ).run()  # fmt: skip


if __name__ == "__main__":
    main()

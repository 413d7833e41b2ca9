# SPDX-License-Identifier: Apache-2.0
"""A trackmill model file in plain PyTorch, as one would serve it without trackmill: to compare with.

Knows what the standard model uses: linear, layer_norm and silu; the interaction network, nodes first; best_edges. Steps
behind the builder are left out (plain_model writes a model file without them, for a fair comparison). On a GPU the radius
graph is a kernel that looks at every pair once; everything else is torch. The first layers of edge networks are split by
columns, as in weights/train/networks.py, so that nothing of width 3H is ever written.
"""
import math
import os
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "weights", "convert"))
import safetensors_io  # noqa: E402

MODES = ("tf32", "compiled")
COLUMNS = ("x", "y", "z", "size_loc0", "size_loc1", "charge")  # of an event here: float32 [N, 6], mm and as on the wire
FILTER_CHUNK = 4_000_000  # edges; 128 wide in fp16: 1 GB
PAIRS_PER_POINT = 64  # first guess of the room for edges; grows
BLOCK = 256  # threads, and points of a tile in shared memory
POINTS_OF_A_TRACK = 256  # chains are shorter
ROUNDS = 4  # of best_edges between two looks at whether any edge is left

PAIRS_KERNEL = r"""
extern "C" __global__ void near_pairs(const float *place, int n, float r2, long long room, unsigned long long *count,
                                      int *src, int *dst) {
    __shared__ __align__(16) float tile[BLOCK][DIM]; // read by all threads at once, in fours
    int i = blockIdx.x * BLOCK + threadIdx.x;
    float own[DIM];
    for (int k = 0; k < DIM; ++k) own[k] = i < n ? place[(long long)i * DIM + k] : 0.0f;
    for (int begin = blockIdx.x * BLOCK; begin < n; begin += BLOCK) {
        int other = begin + threadIdx.x;
        __syncthreads();
        for (int k = 0; k < DIM && other < n; ++k) tile[threadIdx.x][k] = place[(long long)other * DIM + k];
        __syncthreads();
        int last = min(BLOCK, n - begin);
        for (int t = max(0, i + 1 - begin); t < last; ++t) {
            float sum = 0.0f;
            for (int k = 0; k < DIM; ++k) { float d = own[k] - tile[t][k]; sum += d * d; }
            if (sum <= r2) {
                unsigned long long at = atomicAdd(count, 1ULL);
                if (at < room) { src[at] = i; dst[at] = begin + t; }
            }
        }
    }
}
"""


def plain_model(path: str, out: str) -> None:
    """The model file `path` without the steps behind the track builder, as `out`."""
    tensors, pipeline = safetensors_io.read(path)
    pipeline["tracks"] = {name: pipeline["tracks"][name] for name in ("cut", "builder", "min_points")}
    pipeline["version"] += "-plain"
    safetensors_io.write(out, tensors, pipeline)


def make_mlp(operations: list[dict], tensors: dict[str, np.ndarray], step: int = 0) -> nn.Sequential:
    layers = []
    for op in operations:
        if op["op"] == "silu":
            layers.append(nn.SiLU())
            continue
        weight, bias = (torch.from_numpy(tensors[op["tensor"].replace("{step}", str(step)) + end])
                        for end in (".weight", ".bias"))
        if op["op"] == "linear":
            layer = nn.Linear(weight.shape[1], weight.shape[0])
        elif op["op"] == "layer_norm":
            layer = nn.LayerNorm(weight.shape[0], eps=op.get("eps", 1e-5))
        else:
            raise SystemExit(f"peer: the model has {op['op']}, which this comparison does not know")
        layer.weight.data, layer.bias.data = weight, bias
        layers.append(layer)
    return nn.Sequential(*layers)


def on_edges(block: nn.Sequential, x: torch.Tensor, edge: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """block([x[source], x[target], edge]), the first layer's node part once per node"""
    first, width = block[0], x.shape[1]
    hidden = F.linear(edge, first.weight[:, 2 * width:], first.bias)
    hidden = hidden + F.linear(x, first.weight[:, :width])[source] + F.linear(x, first.weight[:, width:2 * width])[target]
    return block[1:](hidden)


def node_columns(points: torch.Tensor) -> dict[str, torch.Tensor]:
    """[N, 6] -> name: [N], as docs/model-file.md defines them"""
    x, y, z, size0, size1, charge = points.unbind(1)
    r = torch.hypot(x, y)
    one = r.clamp(min=1e-12)
    return {"r": r, "phi": torch.atan2(y, x), "z": z, "cos_phi": x / one, "sin_phi": y / one,
            "eta": torch.asinh(z / r.clamp(min=1e-3)), "size_loc0": size0, "size_loc1": size1,
            "log_charge": torch.log1p(charge.clamp(min=0)), "rho": torch.hypot(r, z)}


def steps_between(node: dict[str, torch.Tensor], a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dr, dphi, dz of edges: [E] each"""
    dr, dphi, dz = (node[name][b] - node[name][a] for name in ("r", "phi", "z"))
    return dr, dphi - 2 * math.pi * torch.round(dphi / (2 * math.pi)), dz


def edge_columns(node: dict[str, torch.Tensor], a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
    dr, dphi, dz = steps_between(node, a, b)
    run = torch.where(dr < 0, -1.0, 1.0) * dr.abs().clamp(min=2.0)
    return {"dr": dr, "dphi": dphi, "dz": dz, "deta": node["eta"][b] - node["eta"][a],
            "z0": node["z"][a] - node["r"][a] * dz / run, "curvature": dphi / run}


def scaled(columns: dict[str, torch.Tensor], features: list[dict]) -> torch.Tensor:
    out = []
    for feature in features:
        value = columns[feature["name"]] / feature["scale"]
        out.append(value.clamp(-feature["clamp"], feature["clamp"]) if feature.get("clamp") else value)
    return torch.stack(out, dim=1)


class Embedding(nn.Module):
    def __init__(self, pipeline: dict, tensors: dict[str, np.ndarray]):
        super().__init__()
        self.mlp = make_mlp(pipeline["embed"]["mlp"], tensors)
        self.normalize = pipeline["embed"]["normalize"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        place = self.mlp(x).float()
        return F.normalize(place, dim=1) if self.normalize else place


class Cuts(nn.Module):
    """The geometric cuts of the radius search: [E] bool"""

    def __init__(self, pipeline: dict):
        super().__init__()
        self.cut = pipeline["radius"]

    def forward(self, node: dict[str, torch.Tensor], a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        dr, dphi, dz = steps_between(node, a, b)
        z0 = node["z"][a] - node["r"][a] * dz / dr.clamp(min=1e-3)
        return (dphi.abs() < self.cut["dphi_max"]) & ((z0.abs() < self.cut["z0_max"]) | (dr < self.cut["z0_min_dr"]))


class Filter(nn.Module):
    def __init__(self, pipeline: dict, tensors: dict[str, np.ndarray]):
        super().__init__()
        self.features = pipeline["edge_features"]
        self.mlp = make_mlp(pipeline["filter"]["mlp"], tensors)

    def forward(self, x: torch.Tensor, node: dict[str, torch.Tensor], a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return on_edges(self.mlp, x, scaled(edge_columns(node, a, b), self.features), a, b).squeeze(1)


class Interaction(nn.Module):
    def __init__(self, pipeline: dict, tensors: dict[str, np.ndarray]):
        super().__init__()
        self.features, self.steps = pipeline["edge_features"], pipeline["gnn"]["steps"]
        for name in ("node_encoder", "edge_encoder", "output"):
            setattr(self, name, make_mlp(pipeline["gnn"][name], tensors))
        for name in ("node_mlp", "edge_mlp"):
            operations = pipeline["gnn"][name]
            own = self.steps if any("{step}" in op.get("tensor", "") for op in operations) else 1
            mlps = [make_mlp(operations, tensors, step) for step in range(own)]
            setattr(self, name, nn.ModuleList(mlps * (self.steps // own)))

    def forward(self, x: torch.Tensor, node: dict[str, torch.Tensor], a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        edge = scaled(edge_columns(node, a, b), self.features)
        x = self.node_encoder(x).float()
        e = on_edges(self.edge_encoder, x, edge, a, b).float()
        for node_mlp, edge_mlp in zip(self.node_mlp, self.edge_mlp):
            zero = torch.zeros_like(x)
            into, out = zero.index_add(0, b, e), zero.index_add(0, a, e)
            new_x = node_mlp(torch.cat([x, into, out], dim=1)).float() + x
            e = on_edges(edge_mlp, x, e, a, b).float() + e
            x = new_x
        return on_edges(self.output, x, e, a, b).squeeze(1)


def best_edges(a: torch.Tensor, b: torch.Tensor, logit: torch.Tensor, n: int) -> torch.Tensor:
    """-> [E] bool: edges that are the best both of their source and of their target among those left, repeatedly"""
    none = -math.inf
    # ties: the lower edge, by a step too small to matter otherwise
    left = logit.double() - 1e-10 * torch.arange(len(logit), device=logit.device)
    taken = torch.zeros(len(left), dtype=torch.bool, device=left.device)
    per_node = lambda index, value, start: torch.full((n,), start, dtype=value.dtype, device=value.device).scatter_reduce(
        0, index, value, "amax")
    while True:
        for _ in range(ROUNDS):
            pick = (left > none) & (left == per_node(a, left, none)[a]) & (left == per_node(b, left, none)[b])
            taken |= pick
            used = pick.int()
            left = torch.where((per_node(a, used, 0)[a] | per_node(b, used, 0)[b]) > 0, none, left)
        if not bool((left > none).any()):
            return taken


def chains(a: torch.Tensor, b: torch.Tensor, n: int, min_points: int) -> torch.Tensor:
    """-> [N] first node of each node's chain; -1 in chains of fewer points. At most one edge leaves and enters a node."""
    label = torch.arange(n, device=a.device)
    label[b] = a
    reach = 1
    while reach < POINTS_OF_A_TRACK:
        label = label[label]
        reach *= 2
    size = torch.bincount(label, minlength=n)
    return torch.where(size[label] >= min_points, label, -1)


class Pairs:
    """All pairs within r, from the lower to the higher row."""

    def __init__(self, r: float, dimensions: int):
        self.r, self.room, self.kernel = r, 0, None
        self.source = PAIRS_KERNEL.replace("BLOCK", str(BLOCK)).replace("DIM", str(dimensions))

    def __call__(self, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.on_gpu(place.contiguous()) if place.is_cuda else self.on_cpu(place)

    def on_cpu(self, place: torch.Tensor, chunk: int = 2048) -> tuple[torch.Tensor, torch.Tensor]:
        found = []
        for start in range(0, len(place), chunk):
            near = torch.cdist(place[start:start + chunk], place[start:], compute_mode="donot_use_mm_for_euclid_dist") <= self.r
            found.append(torch.triu(near, diagonal=1).nonzero() + start)
        return torch.cat(found).unbind(1)

    def on_gpu(self, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        import cupy  # only here: there is none without a GPU
        if self.kernel is None:
            self.kernel = cupy.RawKernel(self.source, "near_pairs")
        n = len(place)
        self.room = max(self.room, PAIRS_PER_POINT * n)
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            while True:
                count = torch.zeros(1, dtype=torch.int64, device="cuda")
                a, b = (torch.empty(self.room, dtype=torch.int32, device="cuda") for _ in range(2))
                self.kernel(((n + BLOCK - 1) // BLOCK,), (BLOCK,), (
                    place.data_ptr(), np.int32(n), np.float32(self.r * self.r), np.int64(self.room), count.data_ptr(), a.data_ptr(),
                    b.data_ptr()))
                found = int(count)
                if found <= self.room:
                    return a[:found].long(), b[:found].long()
                self.room = found + found // 4


class Pipeline:
    """pipeline(points) -> labels. After a call, radius_edges and filter_edges say how many there were, and, if timed,
    ms how long each stage took (with a wait behind each, so that their sum is more than an untimed call)."""

    def __init__(self, path: str, mode: str):
        tensors, pipeline = safetensors_io.read(path)
        torch.set_float32_matmul_precision("high")
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.half = mode == "compiled"
        self.features = pipeline["features"]
        logit = lambda score: math.log(score / (1 - score))
        self.filter_cut, self.cut = logit(pipeline["filter"]["cut"]), logit(pipeline["tracks"]["cut"])
        self.min_points = pipeline["tracks"]["min_points"]
        if pipeline["tracks"]["builder"] != "best_edges" or pipeline["radius"]["k"] or pipeline["gnn"]["order"] != "node_first":
            raise SystemExit("peer: the model has a builder, a cap on neighbours or an order of steps that this comparison does not know")
        modules = (Embedding(pipeline, tensors), Cuts(pipeline), Filter(pipeline, tensors), Interaction(pipeline, tensors))
        dimensions = modules[0].mlp[-1].out_features
        modules = [module.to(self.device).eval() for module in modules]
        if self.half:
            modules = [torch.compile(module, dynamic=True) for module in modules]
        self.embed, self.cuts, self.filter, self.gnn = modules
        self.pairs = Pairs(pipeline["radius"]["r"], dimensions)
        self.radius_edges = self.filter_edges = 0
        self.ms: dict[str, float] = {}

    def __call__(self, points: np.ndarray, timed: bool = False) -> np.ndarray:
        """points: float32 [N, 6], COLUMNS -> int64 [N]: number of the track, -1 for none"""
        self.ms, begin = {}, time.perf_counter()

        def mark(stage: str) -> None:
            nonlocal begin
            if timed:
                if self.device == "cuda":
                    torch.cuda.synchronize()
                now = time.perf_counter()
                self.ms[stage], begin = 1e3 * (now - begin), now

        order, outward = self.find(points, mark)
        label = torch.empty_like(outward)
        label[order] = outward
        out = label.cpu().numpy()
        mark("tracks")
        return out

    def candidates(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """points: as above -> offsets [T + 1], rows and scores [T] of the tracks, as trackmill.Worker takes them: rows of
        a track from the inside out, all scores 1"""
        order, outward = self.find(points, lambda stage: None)
        by_track, at = torch.sort(outward, stable=True)
        without = int((by_track < 0).sum())
        sizes = torch.unique_consecutive(by_track[without:], return_counts=True)[1]
        offsets = F.pad(sizes.cumsum(0), (1, 0))
        return offsets.cpu().numpy(), order[at[without:]].cpu().numpy(), np.ones(len(sizes), np.float32)

    @torch.no_grad()
    def find(self, points: np.ndarray, mark: Callable[[str], None]) -> tuple[torch.Tensor, torch.Tensor]:
        """points: as above -> the rows ordered outward, int64 [N], and for each, so ordered, the number of its track, or -1"""
        half = torch.autocast("cuda", dtype=torch.float16, enabled=self.half and self.device == "cuda")
        node = node_columns(torch.from_numpy(points).to(self.device))
        n = len(points)
        order = torch.argsort(node["rho"], stable=True)  # edges go outward: from here on, to the higher row
        node = {name: column[order] for name, column in node.items()}
        x = scaled(node, self.features)
        mark("features")
        with half:
            place = self.embed(x)
        mark("embed")
        a, b = self.pairs(place)
        keep = self.cuts(node, a, b)
        a, b = a[keep], b[keep]
        self.radius_edges = len(a)
        mark("radius")
        with half:
            kept = [self.filter(x, node, *part) > self.filter_cut for part in zip(a.split(FILTER_CHUNK), b.split(FILTER_CHUNK))]
        keep = torch.cat(kept)
        a, b = a[keep], b[keep]
        self.filter_edges = len(a)
        mark("filter")
        with half:
            logit = self.gnn(x, node, a, b).float()
        mark("gnn")
        keep = logit > self.cut
        a, b, logit = a[keep], b[keep], logit[keep]
        taken = best_edges(a, b, logit, n)
        return order, chains(a[taken], b[taken], n, self.min_points)

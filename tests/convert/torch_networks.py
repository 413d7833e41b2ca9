# SPDX-License-Identifier: Apache-2.0
"""The architectures of public models in torch, with their names of layers; for test_torch_model.py."""

from __future__ import annotations

from typing import Dict, List, Optional  # noqa: UP035  what TorchScript understands

import torch
from torch import Tensor, nn


def make_mlp(sizes: List[int], act: str, norm: str = "", end: str = "", end_norm: str = "",
             dropout: bool = False) -> nn.Sequential:  # fmt: skip
    """norm: layer, bare (a layer norm without weights), batch or nothing."""
    layers: list[nn.Module] = []

    def add(width: int, what: str, activation: str) -> None:
        if what == "batch":
            layers.append(nn.BatchNorm1d(width, eps=6e-5))
        elif what:
            layers.append(nn.LayerNorm(width, elementwise_affine=what == "layer"))
        if activation:
            layers.append(getattr(nn, activation)())

    for i in range(len(sizes) - 1):
        layers.append(nn.Linear(sizes[i], sizes[i + 1]))
        if i < len(sizes) - 2:
            add(sizes[i + 1], norm, act)
            if dropout:
                layers.append(nn.Dropout(0.2))
        else:
            add(sizes[i + 1], end_norm, end)
    return nn.Sequential(*layers)


def gather_sum(e: Tensor, index: Tensor, n: int) -> Tensor:
    return torch.zeros(n, e.shape[1], dtype=e.dtype).index_add(0, index, e)


def gather_max(e: Tensor, index: Tensor, n: int) -> Tensor:
    out = torch.zeros(n, e.shape[1], dtype=e.dtype)
    return out.scatter_reduce(
        0, index[:, None].expand(-1, e.shape[1]), e, "amax", include_self=False
    )


def gather_mean(e: Tensor, index: Tensor, n: int) -> Tensor:
    count = torch.zeros(n, dtype=e.dtype).index_add(0, index, torch.ones(len(index), dtype=e.dtype))
    return gather_sum(e, index, n) / count.clamp(min=1.0)[:, None]


class MetricLearning(nn.Module):
    def __init__(self, network: nn.Sequential, normalize: bool) -> None:
        super().__init__()
        self.network = network
        self.normalize = normalize

    def forward(self, x: Tensor) -> Tensor:
        out = self.network(x)
        if self.normalize:
            out = nn.functional.normalize(out)
        return out


class LayerlessEmbedding(nn.Module):
    """With the layer norm that it has and does not use."""

    def __init__(self, features: int, hidden: int, n: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(hidden if i else features, hidden) for i in range(n)]
        )
        self.emb_layer = nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(hidden)
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.act(layer(x))
        return self.emb_layer(x)


class VanillaFilter(nn.Module):
    def __init__(self, features: int, hidden: int, n: int) -> None:
        super().__init__()
        self.input_layer = nn.Linear(2 * features, hidden)
        self.layers = nn.ModuleList([nn.Linear(hidden, hidden) for _ in range(n)])
        self.output_layer = nn.Linear(hidden, 1)
        self.layernorm = nn.LayerNorm(hidden)
        self.batchnorm = nn.BatchNorm1d(hidden, track_running_stats=False)  # in the file, not used
        self.act = nn.Tanh()

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.input_layer(torch.cat([x[edges[0]], x[edges[1]]], dim=-1))
        for layer in self.layers:
            h = self.layernorm(self.act(layer(h)))
        return self.output_layer(h).squeeze(-1)


class Filter(nn.Module):
    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.net(torch.cat([x[edges[0]], x[edges[1]]], dim=-1)).squeeze(-1)


class Inner(nn.Module):
    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class ResAGNN(nn.Module):
    def __init__(self, features: int, hidden: int, steps: int, norm: str, node_last: bool) -> None:
        super().__init__()
        h = hidden + features
        self.input_network = make_mlp([features, hidden, hidden], "ReLU", norm, "ReLU", norm)
        self.edge_network = Inner(make_mlp([2 * h, h, h, 1], "ReLU", norm))
        self.node_network = Inner(make_mlp([2 * h, hidden, hidden], "ReLU", norm))
        self.n_graph_iters = steps
        self.node_last = node_last

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        src, dst = edges[0], edges[1]
        h = torch.cat([self.input_network(x), x], dim=-1)
        for _ in range(self.n_graph_iters):
            w = torch.sigmoid(self.edge_network(torch.cat([h[src], h[dst]], dim=-1)))
            m = gather_sum(w * h[src], dst, len(x)) + gather_sum(w * h[dst], src, len(x))
            parts = [h, m] if self.node_last else [m, h]
            h = h + torch.cat([self.node_network(torch.cat(parts, dim=-1)), x], dim=-1)
        return self.edge_network(torch.cat([h[src], h[dst]], dim=-1)).squeeze(-1)


class InteractionGNN(nn.Module):
    def __init__(self, features: int, hidden: int, steps: int, norm: str, aggregation: str) -> None:
        super().__init__()
        parts = len(aggregation.split("_"))
        self.node_encoder = make_mlp([features, hidden, hidden], "ReLU", norm)
        self.edge_encoder = make_mlp([2 * hidden, hidden, hidden], "ReLU", norm)
        self.node_network = make_mlp([(1 + parts) * hidden, hidden, hidden], "ReLU", norm)
        self.edge_network = make_mlp([3 * hidden, hidden, hidden], "ReLU", norm)
        self.output_edge_classifier = make_mlp([3 * hidden, hidden, hidden, 1], "ReLU", norm)
        self.n_graph_iters = steps
        self.aggregation = aggregation

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        src, dst = edges[0], edges[1]
        n = len(x)
        x = self.node_encoder(x)
        e = self.edge_encoder(torch.cat([x[src], x[dst]], dim=-1))
        for _ in range(self.n_graph_iters):
            inputs = [x]
            if "max" in self.aggregation:
                inputs.append(gather_max(e, dst, n))
            if "mean" in self.aggregation:
                inputs.append(gather_mean(e, dst, n))
            if "sum" in self.aggregation:
                inputs.append(gather_sum(e, dst, n))
            x_new = self.node_network(torch.cat(inputs, dim=-1)) + x
            e = self.edge_network(torch.cat([x[src], x[dst], e], dim=-1)) + e
            x = x_new
        return self.output_edge_classifier(torch.cat([x[src], x[dst], e], dim=-1)).squeeze(-1)


class RecurrentInteractionGNN2(nn.Module):
    def __init__(self, features: int, edge_features: int, hidden: int, steps: int, act: str, norm: str,
                 end: str, end_norm: str, concat: bool, in_out_diff_agg: bool) -> None:  # fmt: skip
        super().__init__()
        h, own = hidden, 2 if concat else 1
        layers = {"act": act, "norm": norm, "end": end, "end_norm": end_norm}
        self.node_encoder = make_mlp([features, h, h], **layers)
        self.edge_encoder = make_mlp([edge_features if edge_features else 2 * h, h, h], **layers)
        self.edge_network = make_mlp([3 * own * h, h, h], **layers)
        self.node_network = make_mlp([((2 if in_out_diff_agg else 1) + own) * h, h, h], **layers)
        self.edge_decoder = make_mlp([h, h, h], **layers)
        self.edge_output_transform = make_mlp([h, h, 1], act, norm)
        self.dropout = nn.Dropout(0.1)
        self.n_graph_iters = steps
        self.in_out_diff_agg = in_out_diff_agg
        self.params: Dict[str, bool] = {"concat": concat}

    def forward(self, x: Tensor, edges: Tensor, edge_attr: Optional[Tensor] = None) -> Tensor:
        src, dst = edges[0], edges[1]
        n = len(x)
        x = self.node_encoder(x)
        e = self.edge_encoder(
            torch.cat([x[src], x[dst]], dim=-1) if edge_attr is None else edge_attr
        )
        x0, e0 = x, e
        for _ in range(self.n_graph_iters):
            if self.params["concat"]:
                x = torch.cat([x, x0], dim=-1)
                e = torch.cat([e, e0], dim=-1)
            e = self.edge_network(torch.cat([e, x[src], x[dst]], dim=-1))
            inward, outward = gather_sum(e, dst, n), gather_sum(e, src, n)
            sums = (
                torch.cat([inward, outward], dim=-1) if self.in_out_diff_agg else inward + outward
            )
            x = self.node_network(torch.cat([sums, x], dim=-1))
        return self.edge_output_transform(self.edge_decoder(e)).squeeze(-1)

# SPDX-License-Identifier: Apache-2.0
"""The three networks of the pipeline, with the layers in the order in which export.py writes them.

embed:  F -> 256 x 4 -> 8, rows normalised            (metric learning: points of one track come close)
filter: [x_src, x_dst, edge features] -> 64 x 3 -> 1  (keeps about an edge in ten)
gnn:    interaction network, hidden 64, 8 steps with shared weights (Battaglia et al., arXiv 1612.00222; Exa.TrkX)

Sizes are (width, layers) or (width, steps); those above are of `standard`.
"""
import os
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "convert"))
import safetensors_io  # noqa: E402


def mlp(inputs, hidden, layers, outputs):
    """layers x (Linear, LayerNorm, SiLU), then a plain Linear where `outputs` > 0."""
    modules = []
    for layer in range(layers):
        modules += [nn.Linear(inputs if layer == 0 else hidden, hidden), nn.LayerNorm(hidden), nn.SiLU()]
    if outputs:
        modules.append(nn.Linear(hidden, outputs))
    return nn.Sequential(*modules)


class Embedding(nn.Module):
    def __init__(self, features, hidden=256, layers=4, dimensions=8):
        super().__init__()
        self.mlp = mlp(features, hidden, layers, dimensions)

    def forward(self, x):
        return F.normalize(self.mlp(x).float(), dim=1)


def on_edges(block, x, edge, source, target):
    """block([x[source], x[target], edge]) without the concatenation: the first Linear is split by columns, so that
    its node part is computed once per node."""
    first, width = block[0], x.shape[1]
    hidden = F.linear(edge, first.weight[:, 2 * width:], first.bias)
    hidden = hidden + F.linear(x, first.weight[:, :width]).index_select(0, source)
    hidden = hidden + F.linear(x, first.weight[:, width:2 * width]).index_select(0, target)
    return block[1:](hidden)


class Filter(nn.Module):
    def __init__(self, features, edge_features, hidden=64, layers=3):
        super().__init__()
        self.mlp = mlp(2 * features + edge_features, hidden, layers, 1)

    def forward(self, x, edges, edge_x):
        return self.mlp(torch.cat([x[edges[0]], x[edges[1]], edge_x], dim=1)).squeeze(1)


class Interaction(nn.Module):
    def __init__(self, features, edge_features, hidden=64, steps=8):
        super().__init__()
        self.steps = steps
        self.node_encoder = mlp(features, hidden, 2, 0)
        self.edge_encoder = mlp(2 * hidden + edge_features, hidden, 2, 0)
        self.node_mlp = mlp(3 * hidden, hidden, 2, 0)
        self.edge_mlp = mlp(3 * hidden, hidden, 2, 0)
        self.output = mlp(3 * hidden, hidden, 1, 1)

    def forward(self, x, edges, edge_x):
        source, target = edges
        x = self.node_encoder(x).float()
        e = on_edges(self.edge_encoder, x, edge_x, source, target).float()
        for _ in range(self.steps):
            zero = torch.zeros_like(x)
            into, out = zero.index_add(0, target, e), zero.index_add(0, source, e)
            new_x = self.node_mlp(torch.cat([x, into, out], dim=1)).float() + x
            e = on_edges(self.edge_mlp, x, e, source, target).float() + e
            x = new_x
        return on_edges(self.output, x, e, source, target).squeeze(1)


KINDS = {"embed": Embedding, "filter": Filter, "gnn": Interaction}


def make(features, edge_features, sizes):
    """The networks of these sizes: {"embed": (256, 4), …}; untrained."""
    inputs = {"embed": (features,), "filter": (features, edge_features), "gnn": (features, edge_features)}
    return {stage: KINDS[stage](*inputs[stage], *size) for stage, size in sizes.items()}


def size_of(net):
    """(width, layers), of the interaction network (width, steps)."""
    if isinstance(net, Interaction):
        return net.node_encoder[0].out_features, net.steps
    linear = [module for module in net.mlp if isinstance(module, nn.Linear)]
    return linear[0].out_features, len(linear) - 1


def read(path):
    """(networks, pipeline) of a model file that export.py wrote."""
    tensors, pipeline = safetensors_io.read(path)
    weights = {stage: {} for stage in KINDS}
    for name, value in tensors.items():
        stage, rest = name.split(".", 1)
        weights[stage][rest if stage == "gnn" else "mlp." + rest] = torch.from_numpy(value)
    layers = lambda stage: sum(op["op"] == "linear" for op in pipeline[stage]["mlp"]) - 1
    sizes = {stage: (len(weights[stage]["mlp.0.weight"]), layers(stage)) for stage in ("embed", "filter")}
    sizes["gnn"] = (len(weights["gnn"]["node_encoder.0.weight"]), pipeline["gnn"]["steps"])
    nets = make(len(pipeline["features"]), len(pipeline["edge_features"]), sizes)
    for stage, net in nets.items():
        net.load_state_dict(weights[stage])
    return nets, pipeline

# SPDX-License-Identifier: Apache-2.0
"""The three networks of the pipeline, with the layers in the order in which export.py writes them.

embed:  F -> 512 x 4 -> 8, rows normalised            (metric learning: points of one track come close)
filter: [x_src, x_dst, edge features] -> 128 x 3 -> 1 (keeps about an edge in ten)
gnn:    interaction network, hidden 64, 8 steps with shared weights (Battaglia et al., arXiv 1612.00222; Exa.TrkX)
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


def mlp(inputs, hidden, layers, outputs):
    """layers x (Linear, LayerNorm, SiLU), then a plain Linear where `outputs` > 0."""
    modules = []
    for layer in range(layers):
        modules += [nn.Linear(inputs if layer == 0 else hidden, hidden), nn.LayerNorm(hidden), nn.SiLU()]
    if outputs:
        modules.append(nn.Linear(hidden, outputs))
    return nn.Sequential(*modules)


class Embedding(nn.Module):
    def __init__(self, features, hidden=512, layers=4, dimensions=8):
        super().__init__()
        self.mlp = mlp(features, hidden, layers, dimensions)

    def forward(self, x):
        return F.normalize(self.mlp(x).float(), dim=1)


def on_edges(block, x, edge, source, target):
    """block([x[source], x[target], edge]) without the concatenation: the first Linear is split by columns, so that
    its node part is computed once per node."""
    first, width = block[0], x.shape[1]
    hidden = F.linear(edge, first.weight[:, 2 * width:], first.bias)
    hidden = hidden + F.linear(x, first.weight[:, :width])[source]
    hidden = hidden + F.linear(x, first.weight[:, width:2 * width])[target]
    return block[1:](hidden)


class Filter(nn.Module):
    def __init__(self, features, edge_features, hidden=128, layers=3):
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

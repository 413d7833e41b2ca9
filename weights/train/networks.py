# SPDX-License-Identifier: Apache-2.0
"""The three networks of the pipeline, with the layers in the order in which export.py writes them.

embed:  F -> 256 x 4 -> 8, rows normalised            (metric learning: points of one track come close)
filter: [x_src, x_dst, edge features] -> 64 x 3 -> 1  (keeps about an edge in ten)
gnn:    interaction network, hidden 64, 8 steps (Battaglia et al., arXiv 1612.00222; Exa.TrkX), which share their weights
        or each have their own (ACORN's ChainedInteractionGNN2): as fast, with 4.7 times the parameters

Sizes are (width, layers), of the gnn (width, steps, whether each step has its own weights); those above are of `standard`.
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


def on_nodes(block, x, into, out):
    """block of the points and the sums of their edges."""
    return block(torch.cat([x, into, out], dim=1))


class Filter(nn.Module):
    def __init__(self, features, edge_features, hidden=64, layers=3):
        super().__init__()
        self.mlp = mlp(2 * features + edge_features, hidden, layers, 1)

    def forward(self, x, edges, edge_x):
        return self.mlp(torch.cat([x[edges[0]], x[edges[1]], edge_x], dim=1)).squeeze(1)


class Interaction(nn.Module):
    def __init__(self, features, edge_features, hidden=64, steps=8, own=False):
        super().__init__()
        self.steps, self.own = steps, own
        each = lambda make: nn.ModuleList(make() for _ in range(steps)) if own else make()
        self.node_encoder = mlp(features, hidden, 2, 0)
        self.edge_encoder = mlp(2 * hidden + edge_features, hidden, 2, 0)
        self.node_mlp = each(lambda: mlp(3 * hidden, hidden, 2, 0))
        self.edge_mlp = each(lambda: mlp(3 * hidden, hidden, 2, 0))
        self.output = mlp(3 * hidden, hidden, 1, 1)

    def of_step(self, step):
        """(node_mlp, edge_mlp)"""
        return (self.node_mlp[step], self.edge_mlp[step]) if self.own else (self.node_mlp, self.edge_mlp)

    def forward(self, x, edges, edge_x):
        source, target = edges
        x = self.node_encoder(x).float()
        e = on_edges(self.edge_encoder, x, edge_x, source, target).float()
        for step in range(self.steps):
            node_mlp, edge_mlp = self.of_step(step)
            zero = torch.zeros_like(x)
            into, out = zero.index_add(0, target, e), zero.index_add(0, source, e)
            new_x = on_nodes(node_mlp, x, into, out).float() + x
            e = on_edges(edge_mlp, x, e, source, target).float() + e
            x = new_x
        return on_edges(self.output, x, e, source, target).squeeze(1)


KINDS = {"embed": Embedding, "filter": Filter, "gnn": Interaction}


def make(features, edge_features, sizes):
    """The networks of these sizes: {"embed": (256, 4), …}; untrained."""
    inputs = {"embed": (features,), "filter": (features, edge_features), "gnn": (features, edge_features)}
    return {stage: KINDS[stage](*inputs[stage], *size) for stage, size in sizes.items()}


def size_of(net):
    """(width, layers), of the interaction network (width, steps, own)."""
    if isinstance(net, Interaction):
        return net.node_encoder[0].out_features, net.steps, net.own
    linear = [module for module in net.mlp if isinstance(module, nn.Linear)]
    return linear[0].out_features, len(linear) - 1


@torch.no_grad()
def separated(net):
    """An interaction network that says the same, with weights of their own for the steps that shared them."""
    hidden, features = net.node_encoder[0].weight.shape
    own = Interaction(features, net.edge_encoder[0].in_features - 2 * hidden, hidden, net.steps, own=True)
    of_a_step = lambda name: name.startswith(("node_mlp.", "edge_mlp."))
    weights = {}
    for name, value in net.state_dict().items():
        mlp_name, rest = name.split(".", 1)
        names = [f"{mlp_name}.{step}.{rest}" for step in range(net.steps)] if of_a_step(name) else [name]
        weights.update(dict.fromkeys(names, value))
    own.load_state_dict(weights)
    return own


@torch.no_grad()
def widened(net, spread=0.5):
    """An interaction network (of shared weights) twice as wide that says the same: each unit stands there twice, and
    whoever reads it takes a part of either. The parts differ (by `spread` of the weights' deviation), so that the two learn
    different things."""
    hidden, (_, features), steps = net.node_encoder[0].out_features, net.node_encoder[0].weight.shape, net.steps
    edge_features = net.edge_encoder[0].in_features - 2 * hidden
    wide = Interaction(features, edge_features, 2 * hidden, steps)
    for (name, narrow), module in zip(net.named_modules(), wide.modules()):
        if isinstance(narrow, nn.LayerNorm):
            module.weight.copy_(narrow.weight.repeat(2))
            module.bias.copy_(narrow.bias.repeat(2))
        elif isinstance(narrow, nn.Linear):
            weight, parts = narrow.weight, []
            read = narrow.in_features // hidden * hidden if name != "node_encoder.0" else 0      # columns of units
            for block in weight[:, :read].split(hidden, dim=1) if read else ():
                apart = spread * block.std() * torch.randn_like(block)
                parts += [block / 2 + apart, block / 2 - apart]
            weight, bias = torch.cat([*parts, weight[:, read:]], dim=1), narrow.bias
            if narrow.out_features == hidden:
                weight, bias = weight.repeat(2, 1), bias.repeat(2)
            module.weight.copy_(weight)
            module.bias.copy_(bias)
    return wide


def read(path):
    """(networks, pipeline) of a model file that export.py wrote."""
    tensors, pipeline = safetensors_io.read(path)
    weights = {stage: {} for stage in KINDS}
    for name, value in tensors.items():
        stage, rest = name.split(".", 1)
        weights[stage][rest if stage == "gnn" else "mlp." + rest] = torch.from_numpy(value)
    layers = lambda stage: sum(op["op"] == "linear" for op in pipeline[stage]["mlp"]) - 1
    sizes = {stage: (len(weights[stage]["mlp.0.weight"]), layers(stage)) for stage in ("embed", "filter")}
    own = "node_mlp.0.0.weight" in weights["gnn"]
    sizes["gnn"] = (len(weights["gnn"]["node_encoder.0.weight"]), pipeline["gnn"]["steps"], own)
    nets = make(len(pipeline["features"]), len(pipeline["edge_features"]), sizes)
    for stage, net in nets.items():
        net.load_state_dict(weights[stage])
    return nets, pipeline

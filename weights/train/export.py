# SPDX-License-Identifier: Apache-2.0
"""Writes the trained networks as one model file (docs/model-file.md)."""
import events
import graph
import tracks
from networks import safetensors_io


def operations(prefix, sequential, tensors):
    """The OPs of a Sequential of Linear, LayerNorm and SiLU; its tensors go into `tensors`."""
    ops = []
    for number, module in enumerate(sequential):
        kind = {"Linear": "linear", "LayerNorm": "layer_norm", "SiLU": "silu"}[type(module).__name__]
        if kind == "silu":
            ops.append({"op": kind})
            continue
        name = f"{prefix}.{number}"
        tensors[name + ".weight"] = module.weight.detach().float().cpu().numpy()
        tensors[name + ".bias"] = module.bias.detach().float().cpu().numpy()
        ops.append({"op": kind, "tensor": name, **({"eps": module.eps} if kind == "layer_norm" else {})})
    return ops


def of_steps(prefix, gnn, mlp, tensors):
    """The OPs of an MLP of each step; where steps have their own weights, {step} stands for its number in their names."""
    if not gnn.own:
        return operations(prefix, mlp, tensors)
    for step in range(gnn.steps):
        operations(f"{prefix}.{step}", mlp[step], tensors)
    return operations(prefix + ".{step}", mlp[0], {})


def write_model(path, nets, name, version, radius, filter_cut, track_cut, parts="pixels and strips"):
    tensors, gnn = {}, nets["gnn"]
    pipeline = {
        "format": 1, "name": name, "version": version,
        "description": f"Generic detector, 2 T: {parts}; trained on simulated ttbar events with pile-up",
        "features": [{"name": n, "scale": scale} for n, scale in events.FEATURES],
        "edge_features": [{"name": n, "scale": scale, **({"clamp": clamp} if clamp else {})}
                          for n, scale, clamp in events.EDGE_FEATURES],
        "embed": {"mlp": operations("embed", nets["embed"].mlp, tensors), "normalize": True},
        "radius": {"r": radius, "k": 0, "direction": "outward", **graph.CUTS},
        "filter": {"inputs": ["x_src", "x_dst", "edge_features"],
                   "mlp": operations("filter", nets["filter"].mlp, tensors), "cut": filter_cut},
        "gnn": {"kind": "interaction", "steps": gnn.steps, "order": "node_first",
                "node_encoder": operations("gnn.node_encoder", gnn.node_encoder, tensors),
                "edge_encoder_inputs": ["x_src", "x_dst", "edge_features"],
                "edge_encoder": operations("gnn.edge_encoder", gnn.edge_encoder, tensors),
                "node_inputs": ["x", "sum_dst", "sum_src"],
                "node_mlp": of_steps("gnn.node_mlp", gnn, gnn.node_mlp, tensors), "node_residual": True,
                "edge_inputs": ["x_src", "x_dst", "e"],
                "edge_mlp": of_steps("gnn.edge_mlp", gnn, gnn.edge_mlp, tensors), "edge_residual": True,
                "output_inputs": ["x_src", "x_dst", "e"],
                "output": operations("gnn.output", gnn.output, tensors)},
        "tracks": {**tracks.TRACKS, "cut": track_cut}}
    safetensors_io.write(path, tensors, pipeline)

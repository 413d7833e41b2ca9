# SPDX-License-Identifier: Apache-2.0
"""Makes a trackmill model file of PyTorch Lightning checkpoints and TorchScript files.

    python3 torch_model.py DESCRIPTION.json OUT.safetensors

For the public models of ACORN (CommonFramework) and Exa.TrkX that the model file can express. The
description is the pipeline of docs/model-file.md with other words in `embed`, `filter` and `gnn`: a
file, its architecture, and what its weights cannot tell. docs/model-file.md, "From a checkpoint", has
them all. Needs numpy alone: torch_file.py reads the files, and runs no code that is in them.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import sys
from typing import Any, Callable

import numpy as np

from safetensors_io import write
from torch_file import TorchFile, read
from torch_layers import NOTHING, PLAIN_END, End, Mlp, Op, Stage

FORMAT = 1
REQUIRED_KEYS = ("name", "version", "features", "embed", "radius", "tracks")
STAGES = ("embed", "filter", "gnn")
COMMON_KEYS = {
    "architecture", "file", "prefix", "ignore", "features", "activation", "norm", "norm_eps",
    "output_activation", "output_norm",
}  # fmt: skip
TEXT_KEYS = {"architecture", "file", "prefix", "mlp"}
LIST_KEYS = {"ignore", "features", "inputs", "node_inputs", "edge_encoder_inputs"}
PLAIN_KEYS = {"name", "version", "description", "features", "edge_features", "radius", "tracks"}

Built = dict[str, Any]

WHOLE_END = End(activation=NOTHING)  # make_mlp(…, output_activation=None)
STATE_END = End(hyper=("output_activation",))

# What a scatter_max and its like concatenate, in the order of the public source
AGGREGATIONS = {
    "sum": ["sum_dst"], "max": ["max_dst"], "mean": ["mean_dst"],
    "sum_max": ["max_dst", "sum_dst"], "mean_max": ["max_dst", "mean_dst"],
    "sum_mean": ["mean_dst", "sum_dst"], "mean_sum": ["mean_dst", "sum_dst"],
}  # fmt: skip


class Context:
    """What the stages need to know of the whole description."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.n_features = len(description["features"])
        self.n_edge_features = len(description.get("edge_features", []))

    def features_of(self, stage: Stage) -> int:
        return len(stage.said.get("features", [])) or self.n_features


def expect(stage: Stage, mlp: Mlp, way: str, width: int, why: str) -> None:
    """Refuses an MLP that takes (`in`) or gives (`out`) another number of values."""
    found = mlp.width_in if way == "in" else mlp.width_out
    if found != width:
        verb = "takes" if way == "in" else "gives"
        raise stage.error(
            f"{mlp.name or 'the MLP'} {verb} {found} values, but {width} are expected: {why}"
        )


def whole_mlp(stage: Stage) -> Mlp:
    """The one nn.Sequential of a file, or the one that "mlp" names; nothing behind its last layer."""
    if "mlp" in stage.said:
        return stage.mlp(stage.said["mlp"], WHOLE_END)
    matches = (re.fullmatch(r"(?:(.*)\.)?\d+\.weight", name) for name in stage.tensors)
    names = {match.group(1) or "" for match in matches if match}
    if not names:
        raise stage.error("no nn.Sequential in it (layers with names that end in numbers)")
    if len(names) != 1:
        raise stage.error(f'which layers? say "mlp": one of {", ".join(sorted(names))}')
    return stage.mlp(names.pop(), WHOLE_END)


def activation_of(stage: Stage, layer: str) -> list[Op]:
    """A named module, as `self.act = nn.Tanh()`."""
    recorded = (stage.kinds or {}).get(layer)
    kind = (
        stage.activation("activation", (), recorded.kind) if recorded else stage.hidden_activation()
    )
    if recorded and recorded.kind.lower() != kind:
        raise stage.error(f'{layer} is a {recorded.kind}, but "activation" says {kind}')
    return [{"op": kind}] if kind != NOTHING else []


def listed(stage: Stage, name: str) -> list[str]:
    """layers.0, layers.1 … of an nn.ModuleList."""
    found = {m.group(1) for m in (re.match(rf"{name}\.(\d+)\.", n) for n in stage.tensors) if m}
    return [f"{name}.{i}" for i in sorted(int(i) for i in found)]


# ---- embed ----


def embed_of(stage: Stage, ops: list[Op], context: Context, width_in: int) -> Built:
    features = context.features_of(stage)
    if width_in != features:
        raise stage.error(
            f"the first layer takes {width_in} features, but the description has {features}"
        )
    if not isinstance(stage.said.get("normalize"), bool):
        raise stage.error('say "normalize": true where the training has F.normalize, else false')
    return {"mlp": ops, "normalize": stage.said["normalize"]}


def embed_mlp(stage: Stage, context: Context) -> Built:
    """MetricLearning of ACORN, LayerlessEmbedding of later Exa.TrkX: `network`, one nn.Sequential."""
    mlp = whole_mlp(stage)
    return embed_of(stage, mlp.ops, context, mlp.width_in)


def embed_layerless(stage: Stage, context: Context) -> Built:
    """Early LayerlessEmbedding: act(layer(x)) of each of `layers`, then `emb_layer`; `norm` is not used."""
    stage.used |= {n for n in stage.tensors if n.startswith("norm.")}
    ops: list[Op] = []
    first = width = None
    for layer in [*listed(stage, "layers"), "emb_layer"]:
        op, width_in, width = stage.linear(layer, width)
        first = width_in if first is None else first
        ops += [op, *(activation_of(stage, "act") if layer != "emb_layer" else [])]
    assert first is not None
    return embed_of(stage, ops, context, first)


# ---- filter ----


def filter_of(stage: Stage, ops: list[Op], context: Context, width_in: int) -> Built:
    inputs = stage.said.get("inputs", ["x_src", "x_dst"])
    features = context.features_of(stage)
    width = sum(context.n_edge_features if part == "edge_features" else features for part in inputs)
    if width_in != width:
        raise stage.error(
            f"the first layer takes {width_in} values, but {' + '.join(inputs)} are {width}"
        )
    return {"inputs": inputs, "mlp": ops, "cut": stage.known("cut")}


def filter_mlp(stage: Stage, context: Context) -> Built:
    """Filter of ACORN, PyramidFilter of Exa.TrkX: `net`, one nn.Sequential on [x_src, x_dst]."""
    mlp = whole_mlp(stage)
    expect(stage, mlp, "out", 1, "a logit")
    return filter_of(stage, mlp.ops, context, mlp.width_in)


def filter_vanilla(stage: Stage, context: Context) -> Built:
    """VanillaFilter: `input_layer` bare, then norm(act(layer(x))) with one norm for all, `output_layer`."""
    norm = stage.norm()
    if norm is None:
        raise stage.error('say "norm": layer_norm where the training used its layernorm, else null')
    op, width_in, width = stage.linear("input_layer", None)
    ops = [op]
    for layer in listed(stage, "layers"):
        op, _, width = stage.linear(layer, width)
        ops += [op, *activation_of(stage, "act")]
        if norm != NOTHING:
            ops.append(
                stage.norm_op("layernorm" if norm == "layer_norm" else "batchnorm", norm, width)
            )
    op, _, width = stage.linear("output_layer", width)
    if width != 1:
        raise stage.error(f"output_layer gives {width} values, but 1 is expected: a logit")
    # the module has both norms, whichever it uses
    stage.used |= {n for n in stage.tensors if n.startswith(("layernorm.", "batchnorm."))}
    return filter_of(stage, [*ops, op], context, width_in)


# ---- gnn ----


def refuse_unsayable(stage: Stage) -> None:
    """What models of these families can have and the model file cannot say."""
    for name in stage.tensors:
        if re.match(r"(node|edge)_networks?\.\d+\.\d+\.", name) or re.match(r"convs\.", name):
            raise stage.error(
                f"{name}: a network for every step (ChainedInteractionGNN2, *_net_recurrent: false, "
                "…WithPyG); the model file can say that, but this converter does not know how they are put together"
            )
    if stage.known("undirected", ("undirected",), False):
        raise stage.error(
            "undirected: true runs every edge both ways; the model file cannot say that"
        )


def steps_of(stage: Stage) -> int:
    steps = stage.known("steps", ("n_graph_iters",))
    if not isinstance(steps, int):
        raise stage.error(f"steps {steps!r}: a whole number is expected")
    return steps


def encoder_inputs(stage: Stage, encoder: Mlp, width: int, context: Context) -> list[str]:
    """Edge features alone, or the states of both ends, whichever is as wide as the first layer takes."""
    if "edge_encoder_inputs" in stage.said:
        return list(stage.said["edge_encoder_inputs"])
    fits = {2 * width: ["x_src", "x_dst"], context.n_edge_features: ["edge_features"]}
    if encoder.width_in not in fits:
        raise stage.error(
            f"{encoder.name} takes {encoder.width_in} values: neither both ends' states ({2 * width}) "
            f"nor the description's {context.n_edge_features} edge_features"
        )
    return fits[encoder.width_in]


def gnn_interaction(stage: Stage, context: Context) -> Built:
    """InteractionGNN of Exa.TrkX and ACTS: x' = node([x, aggregate]) + x, e' = edge([x_src, x_dst, e]) + e,
    the edges with the nodes of before."""
    refuse_unsayable(stage)
    kind = stage.known("aggregation", ("aggregation",))
    if not isinstance(kind, str) or kind not in AGGREGATIONS:
        raise stage.error(
            f"aggregation {kind!r} cannot be said in the model file; this architecture has one of "
            f"{', '.join(AGGREGATIONS)} (a list is of ACORN's InteractionGNN: acorn_interaction_gnn)"
        )
    names = ("node_encoder", "edge_encoder", "node_network", "edge_network")
    nodes, edges, node, edge = (stage.mlp(name, STATE_END) for name in names)
    output = stage.mlp("output_edge_classifier", PLAIN_END)
    width, parts = nodes.width_out, AGGREGATIONS[kind]
    expect(stage, nodes, "in", context.features_of(stage), "features of the description")
    if node.width_in == (1 + 2 * len(parts)) * width != (1 + len(parts)) * width:
        raise stage.error(
            f"node_network takes {node.width_in} values: it aggregates at both ends of an edge, as "
            "ACORN's InteractionGNN, whose edges see the nodes after their update; the model file "
            "cannot say that"
        )
    expect(stage, node, "in", (1 + len(parts)) * width, f"x and {kind} of the edges")
    for mlp, way, size in ((node, "out", width), (edge, "in", 3 * width), (edge, "out", width),
                           (edges, "out", width), (output, "in", 3 * width), (output, "out", 1)):  # fmt: skip
        expect(stage, mlp, way, size, f"states have {width} values")
    ends = ["x_src", "x_dst", "e"]
    return {
        "kind": "interaction", "steps": steps_of(stage), "order": "node_first",
        "node_encoder": nodes.ops,
        "edge_encoder_inputs": encoder_inputs(stage, edges, width, context), "edge_encoder": edges.ops,
        "node_inputs": ["x", *parts], "node_mlp": node.ops, "node_residual": True,
        "edge_inputs": ends, "edge_mlp": edge.ops, "edge_residual": True,
        "output_inputs": ends, "output": output.ops,
    }  # fmt: skip


def repeat_columns(stage: Stage, node: Mlp, width: int) -> None:
    """One sum over all edges of a node is the sum of two: its columns of the first weight stand twice."""
    tensor = f"{node.ops[0]['tensor']}.weight"
    weight = stage.out[tensor]
    stage.out[tensor] = np.concatenate([weight[:, :width], weight], axis=1)


def gnn_recurrent2(stage: Stage, context: Context) -> Built:
    """RecurrentInteractionGNN2 and InteractionGNN2 (recurrent) of ACORN: edges first, no residuals; with
    concat the encoders' outputs come in at every step; edge_decoder, then edge_output_transform."""
    refuse_unsayable(stage)
    # this family's make_mlp is never asked for a layer norm behind the last layer
    end = End(hyper=("output_activation",), norm=NOTHING)
    last_end = End(
        "final_activation", ("edge_output_transform_final_activation",), NOTHING, NOTHING
    )
    names = ("node_encoder", "edge_encoder", "node_network", "edge_network", "edge_decoder")
    nodes, edges, node, edge, decoder = (stage.mlp(name, end) for name in names)
    last = stage.mlp("edge_output_transform", last_end)
    width = nodes.width_out
    expect(stage, nodes, "in", context.features_of(stage), "features of the description")
    concat = edge.width_in == 6 * width
    why = "e, x_src, x_dst; with concat also e0, x0_src, x0_dst"
    expect(stage, edge, "in", (6 if concat else 3) * width, why)
    own = 2 if concat else 1  # x, and x0
    one_sum = node.width_in == (1 + own) * width
    why = "sums of the edges, and the node's own state"
    expect(stage, node, "in", ((1 if one_sum else 2) + own) * width, why)
    expect(stage, last, "in", decoder.width_out, "what edge_decoder gives")
    expect(stage, last, "out", 1, "a logit")
    for mlp, way in ((node, "out"), (edge, "out"), (edges, "out"), (decoder, "in")):
        expect(stage, mlp, way, width, f"states have {width} values")
    if one_sum:
        repeat_columns(stage, node, width)
    both = ["e", "e0", "x_src", "x0_src", "x_dst", "x0_dst"]
    return {
        "kind": "interaction", "steps": steps_of(stage), "order": "edge_first",
        "node_encoder": nodes.ops,
        "edge_encoder_inputs": encoder_inputs(stage, edges, width, context), "edge_encoder": edges.ops,
        "node_inputs": ["sum_dst", "sum_src", *(["x", "x0"] if concat else ["x"])],
        "node_mlp": node.ops, "node_residual": False,
        "edge_inputs": both if concat else both[::2], "edge_mlp": edge.ops, "edge_residual": False,
        "output_inputs": ["e"], "output": decoder.ops + last.ops,
    }  # fmt: skip


def gnn_resagnn(stage: Stage, context: Context) -> Built:
    """ResAGNN of exatrkx-service: h = [encoder(x), x], edges weighted by the sigmoid of the edge network."""
    refuse_unsayable(stage)

    def inner(*names: str) -> str:
        return next(
            (n for n in names if any(t.startswith(f"{n}.0.") for t in stage.tensors)), names[0]
        )

    # make_mlp gets the hidden activation for the encoder's end as well
    behind = NOTHING if stage.kinds is not None else stage.hidden_activation()
    encoder = stage.mlp(inner("input_network", "node_encoder"), End(activation=behind))
    edge = stage.mlp(inner("edge_network.network", "edge_network"), PLAIN_END)
    node = stage.mlp(inner("node_network.network", "node_network"), PLAIN_END)
    features = context.features_of(stage)
    width = 2 * (encoder.width_out + features)
    expect(stage, encoder, "in", features, "features of the description")
    expect(stage, edge, "in", width, "[h_src, h_dst]")
    expect(stage, edge, "out", 1, "a logit")
    expect(
        stage, node, "in", width, "[m, h]; sums of incoming and outgoing edges apart cannot be said"
    )
    expect(stage, node, "out", encoder.width_out, "what is added to the encoder's output")
    return {
        "kind": "resagnn", "steps": steps_of(stage), "node_encoder": encoder.ops,
        "node_inputs": stage.said.get("node_inputs", ["m", "h"]), "node_mlp": node.ops,
        "edge_mlp": edge.ops,
    }  # fmt: skip


INTERACTION_KEYS = {"steps", "undirected", "edge_encoder_inputs", "final_activation"}
Builder = Callable[[Stage, Context], Built]
BUILDERS: dict[str, dict[str, tuple[Builder, set[str]]]] = {
    "embed": {
        "mlp": (embed_mlp, {"mlp", "normalize"}),
        "layerless_embedding": (embed_layerless, {"normalize"}),
    },
    "filter": {
        "mlp": (filter_mlp, {"mlp", "inputs", "cut"}),
        "vanilla_filter": (filter_vanilla, {"inputs", "cut"}),
    },
    "gnn": {
        "resagnn": (gnn_resagnn, {"steps", "node_inputs"}),
        "interaction_gnn": (gnn_interaction, INTERACTION_KEYS | {"aggregation"}),
        "recurrent_interaction_gnn2": (gnn_recurrent2, INTERACTION_KEYS),
        "interaction_gnn2": (gnn_recurrent2, INTERACTION_KEYS),
    },
}  # fmt: skip
REFUSED = {
    "acorn_interaction_gnn": "the model file cannot say that its edges see the nodes after their update in the same step",
    "recurrent_interaction_gnn": "the model file cannot say that its edges see the nodes after their update in the same step",
    "chained_interaction_gnn2": "it has other weights at every step, which the model file can say ({step}), but this "
    "converter does not know how its networks are put together",
}


def check_types(name: str, said: dict[str, Any]) -> None:
    for key, value in said.items():
        listing = isinstance(value, list) and all(isinstance(v, str) for v in value)
        if key in LIST_KEYS and not listing:
            raise ValueError(f"{name}.{key}: a list of strings is expected")
        if key in TEXT_KEYS and not isinstance(value, str):
            raise ValueError(f"{name}.{key}: a string is expected")


def build_stage(name: str, said: dict[str, Any], context: Context, folder: pathlib.Path,
                files: dict[pathlib.Path, TorchFile]) -> tuple[Built, dict[str, np.ndarray]]:  # fmt: skip
    """The stage's part of the pipeline, and its tensors."""
    kind = said.get("architecture")
    check_types(name, said)
    if name == "embed" and kind == "identity":
        if set(said) - {"architecture", "features"}:
            raise ValueError("embed: architecture identity has no other keys than features")
        width = len(said.get("features", [])) or context.n_features
        built = {
            "mlp": [{"op": "linear", "tensor": "embed.identity", "bias": False}],
            "normalize": False,
        }
        built |= {"features": said["features"]} if "features" in said else {}
        return built, {"embed.identity.weight": np.eye(width, dtype=np.float32)}
    known = BUILDERS[name]
    if kind in REFUSED:
        raise ValueError(
            f"{name}: architecture {kind} cannot be converted: {REFUSED[kind]}"
        )
    if kind not in known:
        names = ", ".join([*known, *(["identity"] if name == "embed" else [])])
        raise ValueError(f"{name}: architecture {kind!r} is not known: say one of {names}")
    builder, keys = known[kind]
    strange = set(said) - COMMON_KEYS - keys
    if strange:
        raise ValueError(f"{name}: key {sorted(strange)[0]!r} is not known for architecture {kind}")
    if "file" not in said:
        raise ValueError(f'{name}: say "file", a .ckpt or .pt')
    path = folder / said["file"]
    if path not in files:
        files[path] = read(path)
    stage = Stage(name, dict(said), files[path])
    built = builder(stage, context)
    stage.check_all_used()
    if "features" in said:
        built["features"] = said["features"]
    return built, stage.out


def convert(
    description: dict[str, Any], folder: pathlib.Path
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, pipeline) of a description whose files are relative to `folder`."""
    if not isinstance(description, dict):
        raise ValueError("the description is no JSON object")
    strange = set(description) - PLAIN_KEYS - set(STAGES)
    if strange:
        raise ValueError(f"key {sorted(strange)[0]!r} is not known")
    missing = [key for key in REQUIRED_KEYS if key not in description]
    if missing:
        raise ValueError(f"{missing[0]!r} is missing")
    for key in ("features", "edge_features"):
        if not isinstance(description.get(key, []), list):
            raise ValueError(f"{key!r} is no list")
    context = Context(description)
    files: dict[pathlib.Path, TorchFile] = {}
    pipeline: dict[str, Any] = {"format": FORMAT}
    tensors: dict[str, np.ndarray] = {}
    for key, value in description.items():
        if key not in STAGES:
            pipeline[key] = value
            continue
        if not isinstance(value, dict):
            raise ValueError(f"{key}: is no JSON object")
        pipeline[key], more = build_stage(key, value, context, folder, files)
        tensors.update(more)
    return tensors, pipeline


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("description", help="what the model is, a JSON file")
    parser.add_argument("out", help="the model file to write")
    args = parser.parse_args(arguments)
    path = pathlib.Path(args.description)
    try:
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
            tensors, pipeline = convert(description, path.parent)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        write(args.out, tensors, pipeline)
    except (OSError, ValueError) as error:
        print(f"torch_model: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {len(tensors)} tensors")
    return 0


if __name__ == "__main__":
    sys.exit(main())

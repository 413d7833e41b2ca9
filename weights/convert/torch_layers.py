# SPDX-License-Identifier: Apache-2.0
"""Turns the layers of one torch file into operations of the model file; for torch_model.py.

A TorchScript file says of what class each layer is. A state dict says no more than names and shapes:
`net.0.weight` [64, 6] is a Linear, position 1 without tensors may be a ReLU, a Tanh or a dropout. What
cannot be seen is taken from the user's description, else from the checkpoint's hyper-parameters, else
from what the architecture's public source fixes; where none says it, the conversion is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from torch_file import TorchFile

ACTIVATIONS = ("relu", "silu", "tanh", "sigmoid", "gelu")
NORMS = ("layer_norm", "batch_norm")
NOTHING = "none"
LAYER_NORM_EPS = 1e-5  # torch's default, and what the public models use
_SKIPPED = ("Dropout", "Identity")
_MISSING = object()

Op = dict[str, Any]


@dataclass
class End:
    """What is behind the last layer of an MLP: where to look, and what the public source fixes."""

    key: str = "output_activation"  # of the description
    hyper: tuple[str, ...] = ()
    activation: Any = _MISSING
    norm: Any = _MISSING


PLAIN_END = End("final_activation", (), NOTHING)


@dataclass
class Mlp:
    """Operations, and the widths that go in and come out."""

    name: str
    ops: list[Op]
    width_in: int
    width_out: int


class Stage:
    """One stage of the description with the file that its weights come from."""

    def __init__(self, name: str, said: dict[str, Any], file: TorchFile) -> None:
        self.name, self.said, self.file = name, said, file
        self.out: dict[str, np.ndarray] = {}  # tensors for the model file
        self.used: set[str] = set()
        prefix = said.get("prefix", "")
        self.tensors = {
            n[len(prefix) :]: t for n, t in file.tensors.items() if n.startswith(prefix)
        }
        self.kinds = None
        if file.layers is not None:
            self.kinds = {
                n[len(prefix) :]: v for n, v in file.layers.items() if n.startswith(prefix)
            }
        if not self.tensors:
            first = next(iter(file.tensors))
            raise self.error(f"no tensor begins with the prefix {prefix!r}; the first is {first!r}")

    def error(self, text: str) -> ValueError:
        return ValueError(f"{self.name}: {self.file.path}: {text}")

    def known(self, key: str, hyper: tuple[str, ...] = (), default: Any = _MISSING) -> Any:
        """A value from the description, the hyper-parameters, or the architecture's own."""
        if key in self.said:
            return self.said[key]
        for other in hyper:
            if other in self.file.hyper:
                return self.file.hyper[other]
        if default is _MISSING:
            raise self.error(
                f'"{key}" cannot be known from the weights: say it under "{self.name}"'
            )
        return default

    def activation(self, key: str, hyper: tuple[str, ...], default: Any = _MISSING) -> str:
        value = self.known(key, hyper, default)
        value = NOTHING if value is None else str(value).lower()
        if value not in (*ACTIVATIONS, NOTHING):
            raise self.error(f"{key} {value!r}: the model file has {', '.join(ACTIVATIONS)}")
        return value

    def hidden_activation(self) -> str:
        return self.activation("activation", ("hidden_activation", "activation"))

    def norm(self) -> str | None:
        """Which norm is between the layers; None: nobody says."""
        if "norm" in self.said:
            value = NOTHING if self.said["norm"] is None else str(self.said["norm"])
            if value not in (*NORMS, NOTHING):
                raise self.error(f"norm {value!r}: say {', '.join(NORMS)} or null")
            return value
        hyper = self.file.hyper
        layer = hyper.get("layernorm", hyper.get("layer_norm"))
        batch = hyper.get("batchnorm", hyper.get("batch_norm"))
        if layer and batch:
            raise self.error(
                'hyper-parameters ask for layer norm and batch norm: say which is "norm"'
            )
        if layer or batch:
            return "layer_norm" if layer else "batch_norm"
        return None if layer is None else NOTHING

    # ---- tensors ----

    def take(self, name: str) -> np.ndarray:
        if name not in self.tensors:
            some = ", ".join(sorted({re.sub(r"\.?[^.]*$", "", n) for n in self.tensors})[:6])
            raise self.error(f"tensor {name} is not in it; it has layers {some} …")
        self.used.add(name)
        array = self.tensors[name]
        if array.dtype.kind != "f":
            raise self.error(f"tensor {name} is {array.dtype}: quantised weights are not supported")
        return array

    def has(self, name: str) -> bool:
        return name in self.tensors

    def put(self, name: str, array: np.ndarray) -> None:
        self.out[f"{self.name}.{name}"] = np.ascontiguousarray(array)

    def check_all_used(self) -> None:
        """Refuses what no operation takes: a layer that this architecture does not have."""
        ignored = tuple(self.said.get("ignore", []))
        for name, array in self.tensors.items():
            counter = name.endswith("num_batches_tracked")
            if name not in self.used and not counter and not (ignored and name.startswith(ignored)):
                raise self.error(
                    f"unknown layer: tensor {name} {list(array.shape)} belongs to nothing in architecture "
                    f'{self.said["architecture"]}; if inference does not need it, put it under "ignore"'
                )

    # ---- operations ----

    def linear(self, name: str, width: int | None) -> tuple[Op, int, int]:
        """The operation, and the widths in and out."""
        weight = self.take(f"{name}.weight")
        if weight.ndim != 2 or (width is not None and weight.shape[1] != width):
            raise self.error(
                f"{name}.weight {list(weight.shape)} does not fit: {width} values come in"
            )
        bias = self.take(f"{name}.bias") if self.has(f"{name}.bias") else None
        if bias is not None and bias.shape != weight.shape[:1]:
            raise self.error(
                f"{name}.bias {list(bias.shape)} does not fit its weight {list(weight.shape)}"
            )
        self.put(f"{name}.weight", weight)
        if bias is not None:
            self.put(f"{name}.bias", bias)
        op = {"op": "linear", "tensor": f"{self.name}.{name}"}
        return op if bias is not None else {**op, "bias": False}, weight.shape[1], weight.shape[0]

    def norm_op(self, name: str, kind: str, width: int) -> Op:
        """Norms without weights of their own (elementwise_affine=False) get ones and zeros."""
        statistics = ("running_mean", "running_var")
        if kind == "batch_norm" and not self.has(f"{name}.running_mean"):
            raise self.error(
                f"{name}: batch normalisation without running statistics (track_running_stats=False) "
                "depends on the other rows of an event; the model file cannot say that"
            )
        for part in ("weight", "bias", *(statistics if kind == "batch_norm" else ())):
            tensor = f"{name}.{part}"
            plain = np.full(width, part == "weight", np.float32)
            array = self.take(tensor) if self.has(tensor) or part in statistics else plain
            if array.shape != (width,):
                raise self.error(
                    f"{tensor} {list(array.shape)} does not fit: {width} values come in"
                )
            self.put(tensor, array)
        layer = (self.kinds or {}).get(name)
        eps = layer.constants.get("eps") if layer else None
        if eps is None:
            if kind == "batch_norm" and "norm_eps" not in self.said:
                raise self.error(
                    f'{name}: a checkpoint does not tell the eps of a batch norm: say "norm_eps" '
                    "(torch: 1e-05; ACORN's make_mlp: 6e-05)"
                )
            eps = self.said.get("norm_eps", LAYER_NORM_EPS)
        return {"op": kind, "tensor": f"{self.name}.{name}", "eps": eps}

    def mlp(self, name: str, end: End) -> Mlp:
        """An nn.Sequential under this name."""
        dot = f"{name}." if name else ""
        if self.kinds is not None:
            steps = self._recorded(dot)
        else:
            steps = self._guessed(dot, end)
        ops: list[Op] = []
        width_in: int | None = None
        width: int | None = None
        for kind, layer in steps:
            if kind == "linear":
                op, first, width = self.linear(layer, width)
                width_in = first if width_in is None else width_in
            elif kind in NORMS:
                if width is None:  # a norm of the inputs
                    width = width_in = len(self.take(f"{layer}.weight"))
                op = self.norm_op(layer, kind, width)
            else:
                op = {"op": kind}
            ops.append(op)
        assert width_in is not None and width is not None
        return Mlp(name, ops, width_in, width)

    def _positions(self, dot: str, names: Any) -> list[int]:
        found = {n[len(dot) :].split(".")[0] for n in names if n.startswith(dot)}
        return sorted(int(p) for p in found if p.isdecimal())

    def _recorded(self, dot: str) -> list[tuple[str, str]]:
        """(operation, layer) from the classes that a TorchScript file names."""
        assert self.kinds is not None
        classes = {"Linear": "linear", "LayerNorm": "layer_norm", "BatchNorm1d": "batch_norm"}
        classes |= {
            "ReLU": "relu",
            "SiLU": "silu",
            "Tanh": "tanh",
            "Sigmoid": "sigmoid",
            "GELU": "gelu",
        }
        steps = []
        for position in self._positions(dot, self.kinds):
            layer = f"{dot}{position}"
            kind = self.kinds[layer].kind
            if kind in _SKIPPED:
                continue
            if (
                kind not in classes
                or self.kinds[layer].constants.get("approximate", NOTHING) != NOTHING
            ):
                raise self.error(
                    f"unknown layer: {layer} is a {kind}, which the model file cannot say"
                )
            steps.append((classes[kind], layer))
        if not any(kind == "linear" for kind, _ in steps):
            raise self.error(f"no layers under {dot[:-1]!r}")
        between = steps[: max(i for i, (kind, _) in enumerate(steps) if kind == "linear")]
        said = self.said.get("activation")
        for kind, layer in between:
            if said is not None and kind in ACTIVATIONS and kind != self.hidden_activation():
                raise self.error(f'{layer} is a {kind}, but "activation" says {said}')
        return steps

    def _guessed(self, dot: str, end: End) -> list[tuple[str, str]]:
        """(operation, layer) from the positions that have tensors, and what is said of the others."""
        filled = self._positions(dot, self.tensors)
        linears = [p for p in filled if self._rank(f"{dot}{p}") == 2]
        if not linears:
            raise self.error(f"no layers under {dot[:-1]!r}")
        steps = [(self._kind_of_norm(f"{dot}{p}"), f"{dot}{p}") for p in filled if p < linears[0]]
        for here, there in zip(linears, linears[1:]):
            steps.append(("linear", f"{dot}{here}"))
            steps += self._between(dot, range(here + 1, there), filled)
        last = linears[-1]
        steps.append(("linear", f"{dot}{last}"))
        activation = self.activation(end.key, end.hyper, end.activation)
        tail = [(self._kind_of_norm(f"{dot}{p}"), f"{dot}{p}") for p in filled if p > last]
        bare = any(
            kind == "layer_norm" and not self.has(f"{layer}.weight") for kind, layer in steps
        )
        if not tail and bare and activation != NOTHING:
            # without weights of its own, a norm behind the last layer leaves no trace
            norm = self.known("output_norm", (), end.norm)
            tail = [("layer_norm", f"{dot}{last + 1}")] if norm == "layer_norm" else []
        return steps + tail + ([(activation, "")] if activation != NOTHING else [])

    def _between(self, dot: str, span: range, filled: list[int]) -> list[tuple[str, str]]:
        """What is between two Linear: a norm, an activation, a dropout, in the order of their places."""
        norm = self.norm()
        places = f"{dot}{span.start}" + (f" to {dot}{span.stop - 1}" if len(span) > 1 else "")
        if not span:
            places = f"in front of {places}"
        normed = any(p in filled for p in span)
        if norm is None and not normed and len(span) > 1:
            raise self.error(f'{places} have no tensors: say whether "norm" is layer_norm or null')
        if normed and norm == NOTHING:
            raise self.error(
                f'{places}: there are tensors of a norm, but "norm" is said to be null'
            )
        steps: list[tuple[str, str]] = []
        activation = dropout = False
        for p in span:
            if p in filled:
                steps.append((self._kind_of_norm(f"{dot}{p}"), f"{dot}{p}"))
            elif not normed and norm == "layer_norm":
                steps.append(("layer_norm", f"{dot}{p}"))
                normed = True
            elif not activation:
                activation = True
                kind = self.hidden_activation()
                steps += [(kind, "")] if kind != NOTHING else []
            elif not dropout:
                dropout = True
            else:
                raise self.error(
                    f"unknown layer: {places} are more than a norm, an activation and a dropout"
                )
        if not activation:
            raise self.error(f'{places}: no place for an activation; is "norm" right?')
        return steps

    def _rank(self, layer: str) -> int:
        weight = self.tensors.get(f"{layer}.weight")
        if weight is None or weight.ndim not in (1, 2):
            raise self.error(f"unknown layer: {layer} is neither a Linear nor a norm")
        return weight.ndim

    def _kind_of_norm(self, layer: str) -> str:
        norm = self.norm()
        if self._rank(layer) == 2:
            raise self.error(f"unknown layer: {layer} is a Linear where a norm is expected")
        found = "batch_norm" if self.has(f"{layer}.running_mean") else norm
        if found is None or found == NOTHING:
            raise self.error(
                f"{layer} may be a layer norm, or a batch norm without running statistics: "
                f'say "norm" under "{self.name}"'
            )
        if "norm" in self.said and norm != found:
            raise self.error(f'{layer} is a {found}, but "norm" says {norm}')
        return found

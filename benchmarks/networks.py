"""Networks whose batch size is open: a BERT, a small residual CNN and an MLP, with seeded random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.contenders import Array
from benchmarks.workloads import build, config_of

_IMAGE = (3, 32, 32)
_CHANNELS = 64
_BLOCKS = 4
_FEATURES = 256
_HIDDEN = 1024
_CLASSES = 10


@dataclass(frozen=True)
class Network:
    """A model and what it takes.

    Attributes:
        inputs: shape of a row of each input.
        vocab: integer inputs are below it; 0 for inputs of float32.
    """

    name: str
    model: onnx.ModelProto
    inputs: Mapping[str, tuple[int, ...]]
    vocab: int = 0

    def feeds(self, rows: int) -> dict[str, Array]:
        """A batch of ``rows`` rows, int64 or float32 [rows, ...]; masks are ones and token types zeros."""
        rng = np.random.default_rng(rows)
        feeds: dict[str, Array] = {}
        for name, shape in self.inputs.items():
            if not self.vocab:
                feeds[name] = rng.standard_normal((rows, *shape), np.float32)
            elif name == "input_ids":
                feeds[name] = rng.integers(5, self.vocab, (rows, *shape))
            else:
                feeds[name] = np.full((rows, *shape), int(name == "attention_mask"), np.int64)
        return feeds


def networks(size: str, columns: int) -> list[Network]:
    """All three; the BERT is of ``size``, for ``columns`` tokens a row."""
    bert = build(size)
    tokens = {value.name: (columns,) for value in bert.graph.input}
    return [
        Network(f"BERT, {size} size, {columns} tokens", bert, tokens, config_of(size).vocab),
        Network("residual CNN, 3 x 32 x 32", _cnn(), {"x": _IMAGE}),
        Network(f"MLP, {_FEATURES} features", _mlp(), {"x": (_FEATURES,)}),
    ]


@dataclass
class _Chain:
    """Nodes one after the other, and their weights."""

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, and return its output."""
        output = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def layer(self, op: str, x: str, *shape: int, fan_in: int, **attributes: Any) -> str:
        """Add a Conv or a Gemm with weights of variance 1 / ``fan_in`` and a bias."""
        weight = self.rng.standard_normal(shape, np.float32) * np.float32(fan_in**-0.5)
        bias = np.zeros(shape[0] if op == "Conv" else shape[1], np.float32)
        names = []
        for kind, values in (("weight", weight), ("bias", bias)):
            names.append(f"{kind}_{len(self.nodes)}")
            self.weights.append(numpy_helper.from_array(values, names[-1]))
        return self.node(op, x, *names, **attributes)

    def model(self, last: str, row: tuple[int, ...]) -> onnx.ModelProto:
        """The model from "x" [batch, *row] to "y" [batch, classes]."""
        self.nodes.append(helper.make_node("Identity", [last], ["y"]))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *row])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", _CLASSES])
        graph = helper.make_graph(self.nodes, "network", [x], [y], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model


def _cnn() -> onnx.ModelProto:
    chain = _Chain()

    def conv(x: str, channels: int) -> str:
        return chain.layer("Conv", x, _CHANNELS, channels, 3, 3, fan_in=9 * channels, pads=[1, 1, 1, 1])

    x = chain.node("Relu", conv("x", _IMAGE[0]))
    for _ in range(_BLOCKS):
        inner = conv(chain.node("Relu", conv(x, _CHANNELS)), _CHANNELS)
        x = chain.node("Relu", chain.node("Add", inner, x))
    pooled = chain.node("Flatten", chain.node("GlobalAveragePool", x), axis=1)
    return chain.model(chain.layer("Gemm", pooled, _CHANNELS, _CLASSES, fan_in=_CHANNELS), _IMAGE)


def _mlp() -> onnx.ModelProto:
    chain = _Chain()
    x = chain.node("Relu", chain.layer("Gemm", "x", _FEATURES, _HIDDEN, fan_in=_FEATURES))
    x = chain.node("Relu", chain.layer("Gemm", x, _HIDDEN, _HIDDEN, fan_in=_HIDDEN))
    return chain.model(chain.layer("Gemm", x, _HIDDEN, _CLASSES, fan_in=_HIDDEN), (_FEATURES,))

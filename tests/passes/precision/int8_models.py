"""Models of products and tables, and the pass that quantises them, for its tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from passes.base import PassResult
from passes.graph_io import export_graph, import_graph
from passes.precision.float_to_int8 import FloatToInt8
from tests.passes.rewrites import copy_of, parse

RNG = np.random.default_rng(0)


def weight(rows: int, columns: int) -> NDArray[np.float32]:
    return RNG.standard_normal((rows, columns)).astype(np.float32)


def with_weights(text: str, weights: Mapping[str, NDArray[Any]], *, opset: int = 17) -> onnx.ModelProto:
    model = parse(text, opset=opset)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def one_product(rows: int = 96, columns: int = 80, *, opset: int = 17) -> onnx.ModelProto:
    text = f"g (float[b,s,{rows}] x) => (float[b,s,{columns}] y) {{ y = MatMul (x, w) }}"
    return with_weights(text, {"w": weight(rows, columns)}, opset=opset)


def apply(model: onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, PassResult]:
    graph = import_graph(copy_of(model))
    result = FloatToInt8(**options).apply(graph)
    return export_graph(graph.toposort()), result


def relative(expected: NDArray[Any], got: NDArray[Any]) -> float:
    return float(np.linalg.norm(expected - got) / np.linalg.norm(expected))


def types(model: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def reasons(result: PassResult) -> str:
    return " / ".join(f"{refusal.node}: {refusal.reason}" for refusal in result.refusals)

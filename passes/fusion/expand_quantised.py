"""Operators that read and give quantised tensors, as what they compute between DequantizeLinear and QuantizeLinear.

QLinearMatMul of [B, S, H] and [H, K] in uint8 -> DequantizeLinear of both, a MatMul, a QuantizeLinear.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import PassResult
from passes.fusion.attention_ops import input_at
from passes.node_builder import NodeBuilder
from passes.shapes.symbolic import SymbolicShapes

#: Operator -> what it computes, and how many operands it has.
_COMPUTES = {
    "QLinearMatMul": ("MatMul", 2),
    "QLinearAdd": ("Add", 2),
    "QLinearMul": ("Mul", 2),
    "QLinearLeakyRelu": ("LeakyRelu", 1),
    "QLinearSigmoid": ("Sigmoid", 1),
}


def expand_quantised(graph: gs.Graph, node: gs.Node, shapes: SymbolicShapes, result: PassResult) -> None:
    """Write the operator in floats: its operands are (tensor, scale, zero point), and last come those of the result.

    Left alone where the first operand has a scale a row, which DequantizeLinear would take for one a column, and where
    no zero point tells the type of the result.
    """
    op, count = _COMPUTES[node.op]
    triples = [[input_at(node, 3 * number + part) for part in range(3)] for number in range(count)]
    if not all(_is_scalar(scale, shapes) for _, scale, _ in triples[: count - 1]):
        result.refuse(node, "it has a scale for each row of an operand")
        return
    scale, zero_point = (input_at(node, 3 * count + part) for part in range(2))
    if scale is None or zero_point is None:
        result.refuse(node, "its result has no zero point, which would tell its type")
        return
    make, output, attrs = NodeBuilder(graph.nodes, node), node.outputs[0], dict(node.attrs)
    floats = []
    for number, triple in enumerate(triples):
        operand = [tensor for tensor in triple if tensor is not None]
        floats.append(make.add("DequantizeLinear", f"operand_{number}", operand, np.float32, axis=-1))
    node.inputs.clear()
    node.outputs.clear()
    computed = make.add(op, "computed", floats, np.float32, **attrs)
    make.add("QuantizeLinear", "quantised", [computed, scale, zero_point], into=output)
    result.count("quantised operators expanded")


def _is_scalar(scale: gs.Tensor | None, shapes: SymbolicShapes) -> bool:
    shape = shapes.get(scale.name) if scale is not None else None
    return shape is not None and all(extent == 1 for extent in shape)

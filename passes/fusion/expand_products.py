"""Fused products of onnxruntime as the product, and what was fused into it, in standard operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from passes.base import PassResult
from passes.fusion.attention_ops import input_at
from passes.node_builder import NodeBuilder
from passes.shapes.symbolic import SymbolicShapes, numpy_dtype

#: The parameters of an activation in FusedConv, in order; Clip takes them as inputs.
_ACTIVATION_PARAMS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max")}
#: Attributes of FusedConv and FusedGemm that say what is done to the product.
_ACTIVATION = "activation"


def expand_matmul(graph: gs.Graph, node: gs.Node, shapes: SymbolicShapes, result: PassResult) -> None:
    """FusedMatMul becomes Transposes, a MatMul and a Mul, as far as it has need of them.

    [B, S, h, d] with transBatchA -> [h, ...]: the first axis goes behind the other batch axes.
    """
    orders = [_order(node, index, shapes) for index in range(2)]
    if None in orders:
        result.refuse(node, "the rank of an operand that it transposes is unknown")
        return
    make, dtype = NodeBuilder(graph.nodes, node), numpy_dtype(node.inputs[0], shapes)
    operands = [
        make.add("Transpose", f"{side}_transposed", [tensor], dtype, perm=order) if order else tensor
        for tensor, order, side in zip(list(node.inputs), orders, ("left", "right"), strict=True)
    ]
    output, alpha = node.outputs[0], float(node.attrs.get("alpha", 1.0))
    node.inputs.clear()
    node.outputs.clear()
    if alpha == 1:
        make.add("MatMul", "product", operands, into=output)
    else:
        product = make.add("MatMul", "product", operands, dtype)
        make.add("Mul", "scaled", [product, make.constant("alpha", alpha, dtype)], into=output)
    result.count("products expanded")


def _order(node: gs.Node, index: int, shapes: SymbolicShapes) -> list[int] | None:
    """How an operand's axes are permuted; [] where they stay, None where its rank is needed and unknown."""
    side = "AB"[index]
    batch, matrix = (bool(node.attrs.get(f"{name}{side}", 0)) for name in ("transBatch", "trans"))
    if not batch and not matrix:
        return []
    shape = shapes.get(node.inputs[index].name)
    if shape is None or len(shape) < 2:
        return None
    order = list(range(len(shape)))
    if batch:
        order = [*order[1:-1], 0, order[-1]]
    return [*order[:-2], order[-1], order[-2]] if matrix else order


def expand_gemm(graph: gs.Graph, node: gs.Node, shapes: SymbolicShapes, result: PassResult) -> None:
    """FusedGemm becomes a Gemm and its activation."""
    attrs = {name: value for name, value in node.attrs.items() if not name.startswith(_ACTIVATION)}
    settings = {name: node.attrs.get(f"{_ACTIVATION}_{name}") for name in ("alpha", "beta", "gamma")}
    params = {name: value for name, value in settings.items() if value is not None}
    _expand(graph, node, shapes, ("Gemm", list(node.inputs), attrs), params)
    result.count("products expanded")


def expand_convolution(graph: gs.Graph, node: gs.Node, shapes: SymbolicShapes, result: PassResult) -> None:
    """FusedConv becomes a Conv, the Add of its fourth input, and its activation."""
    attrs = {name: value for name, value in node.attrs.items() if not name.startswith(_ACTIVATION)}
    names = _ACTIVATION_PARAMS.get(str(node.attrs.get(_ACTIVATION, "")), ())
    params = dict(zip(names, node.attrs.get(f"{_ACTIVATION}_params", ()), strict=False))
    _expand(graph, node, shapes, ("Conv", list(node.inputs[:3]), attrs), params, added=input_at(node, 3))
    result.count("products expanded")


def _expand(
    graph: gs.Graph,
    node: gs.Node,
    shapes: SymbolicShapes,
    product: tuple[str, list[gs.Tensor], Mapping[str, Any]],
    params: Mapping[str, Any],
    added: gs.Tensor | None = None,
) -> None:
    """Write ``product`` (operator, inputs, attributes), what is ``added`` to it, and the activation of ``node``."""
    make, dtype = NodeBuilder(graph.nodes, node), numpy_dtype(node.inputs[0], shapes)
    activation, output = str(node.attrs.get(_ACTIVATION, "")), node.outputs[0]
    node.inputs.clear()
    node.outputs.clear()
    op, inputs, attrs = product
    last = output if added is None and not activation else None
    tensor = make.add(op, "product", inputs, dtype, last, **attrs)
    if added is not None:
        tensor = make.add("Add", "sum", [tensor, added], dtype, None if activation else output)
    if activation == "Clip":
        bounds = [make.constant(name, params[name], dtype) for name in ("min", "max") if name in params]
        make.add(activation, "activated", [tensor, *bounds], into=output)
    elif activation:
        own = onnx.defs.get_schema(activation).attributes
        make.add(
            activation, "activated", [tensor], into=output, **{name: params[name] for name in params if name in own}
        )

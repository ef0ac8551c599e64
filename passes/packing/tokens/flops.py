"""Multiply-add work of a graph, and the share of it that runs packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs
import sympy

from passes.fusion.attention_ops import attention_inputs, input_at
from passes.operators import CONTRIB, PRODUCTS_OF_FEW_BITS
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap
from passes.packing.tokens.sides import PlacedGraph


@dataclass(frozen=True)
class FlopShare:
    """Work at the declared batch size and sequence length.

    Attributes:
        packed, total: floating-point operations (two a multiply-add) of the matrix products.
    """

    packed: int
    total: int

    @property
    def share(self) -> float:
        """packed / total; 0 for a graph without matrix products."""
        return self.packed / self.total if self.total else 0.0


def flop_share(placed: PlacedGraph, batch: int, seq: int) -> FlopShare:
    """Count the matrix products of the main graph at [batch, seq]."""
    packed = total = 0
    for node in placed.graph.nodes:
        work = int(sympy.sympify(node_flops(node, placed.axes)).subs({BATCH: batch, SEQ: seq}).evalf() or 0)
        total += work
        packed += work if placed.runs_packed(node) else 0
    return FlopShare(packed, total)


def node_flops(node: gs.Node, axes: AxisMap) -> sympy.Expr:
    """2 * (elements of the result) * (contracted extent) for a matrix product, 0 for any other node."""
    if not node.outputs or not node.inputs:
        return sympy.Integer(0)
    result, left = axes.shape(node.outputs[0]), axes.shape(node.inputs[0])
    if result is None or left is None:
        return sympy.Integer(0)
    if (node.op == "MatMul" or node.op in PRODUCTS_OF_FEW_BITS) and left:
        contracted = left[-1]
    elif node.op == "Gemm":
        contracted = left[0] if node.attrs.get("transA", 0) else left[-1]
    elif node.op == "Conv":
        weight = axes.shape(node.inputs[1])
        contracted = sympy.prod(weight[1:]) if weight else 0
    elif node.op == "Einsum":
        contracted = _einsum_contracted(node, axes)
    elif attention_inputs(node) is not None:
        return _attention_flops(node, axes)
    else:
        return sympy.Integer(0)
    work = 2 * sympy.prod(result) * contracted
    flops = sympy.sympify(work)
    return flops if flops.free_symbols <= {BATCH, SEQ} else sympy.Integer(0)


def _attention_flops(node: gs.Node, axes: AxisMap) -> sympy.Expr:
    """Scores and context of a fused attention, and the projections of one that holds them."""
    query, result = axes.require_shape(node.inputs[0]), axes.require_shape(node.outputs[0])
    if node.domain == CONTRIB and node.op == "Attention":
        weight, sizes = axes.shape(node.inputs[1]), node.attrs.get("qkv_hidden_sizes")
        if weight is None or len(query) != 3:
            return sympy.Integer(0)
        hidden = sizes[0] if sizes else weight[1] // 3
        tokens = query[0] * query[1]
        return sympy.sympify(2 * tokens * weight[0] * weight[1] + 2 * tokens * query[1] * (hidden + result[-1]))
    key = axes.shape(input_at(node, 1) or node.inputs[0])
    keys = key[2] if key is not None and len(key) == 4 else key[1] if key else SEQ
    if len(query) == 5:  # query, key and value in one
        return sympy.sympify(4 * sympy.prod(result) * keys)
    return sympy.sympify(2 * (sympy.prod(query) + sympy.prod(result)) * keys)


def _einsum_contracted(node: gs.Node, axes: AxisMap) -> sympy.Expr:
    """The product of the extents that the result does not keep; 0 for one operand, which contracts nothing."""
    equation = str(node.attrs["equation"]).replace(" ", "")
    if "->" not in equation or "." in equation or len(node.inputs) < 2:
        return sympy.Integer(0)
    terms, result = equation.split("->")
    extents: dict[str, Any] = {}
    for term, tensor in zip(terms.split(","), node.inputs, strict=True):
        extents.update(zip(term, axes.shape(tensor) or (), strict=False))
    return sympy.prod(extent for label, extent in extents.items() if label not in result)

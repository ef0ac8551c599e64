"""Lifted products in integers again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from passes.base import GraphPass, PassResult
from passes.building import add_node
from passes.cleanup.rewiring import is_op
from passes.graph_io import header
from passes.precision.dynamic_products import IntegerWeight, integer_weight
from passes.precision.int8_values import FULL_RANGE, MIDDLE, QuantisedWeights
from passes.precision.int8_writer import Int8Writer
from passes.precision.lift_dynamic_int8 import LIFTED_KEY, lifted_weights
from passes.precision.names import tensor_names, unique_name
from passes.registry import register

#: How the report calls what this pass did.
A_TOKEN, A_TENSOR = "products with a scale a token", "products with a scale a tensor"

_FLIP = np.uint8(128)


@register("lower_dynamic_int8")
class LowerDynamicInt8(GraphPass):
    """Compute the products that ``lift_dynamic_int8`` has lifted in integers, by the weights that they came with.

    With a scale a token they have the form that ``float_to_int8`` writes, and the same speed: activations become uint8
    with zero point 128 and one scale a row, so that an answer does not depend on its company. int8 weights stay as they
    are; uint8 weights with zero point 128 become int8 with none, which is the same numbers; others stay uint8.

    A lifted weight that something else than a MatMul reads stays dequantised, with a reason. Runs once.

    Args:
        a_token: one scale a token; otherwise one for the whole tensor, which is as the products were.
    """

    def __init__(self, a_token: bool = True) -> None:
        super().__init__()
        self._a_token = a_token

    def apply(self, graph: gs.Graph) -> PassResult:
        """Lower the products of the main graph."""
        result = PassResult()
        names = lifted_weights(graph)
        header(graph).metadata.pop(LIFTED_KEY, None)
        if not names:
            return result
        write = _token_writer(graph) if self._a_token else _TensorWriter(graph).product
        nodes: list[gs.Node] = []
        for node in graph.nodes:
            weight = _lifted(node, names)
            if weight is None:
                nodes.append(node)
                continue
            activation, output = node.inputs[0], node.outputs[0]
            node.inputs.clear()
            node.outputs.clear()
            nodes += write(activation, weight, output)
            result.count(A_TOKEN if self._a_token else A_TENSOR)
        graph.nodes = nodes
        graph.cleanup(remove_unused_graph_inputs=False)
        for node in graph.nodes:
            if node.outputs and node.outputs[0].name in names:
                result.refuse(node, "something else than a MatMul reads it, which computes in float32 therefore")
        return result


def _lifted(node: gs.Node, names: frozenset[str]) -> IntegerWeight | None:
    """The lifted weight that a MatMul multiplies by; None for any other node."""
    if not is_op(node, "MatMul") or node.inputs[1].name not in names:
        return None
    return integer_weight(*node.inputs[1].inputs[0].inputs)


def _token_writer(graph: gs.Graph) -> Callable[[gs.Tensor, IntegerWeight, gs.Tensor], list[gs.Node]]:
    writer = Int8Writer(graph, QuantisedWeights(FULL_RANGE))
    weights: dict[tuple[int, bytes, bytes], tuple[list[gs.Constant], gs.Constant]] = {}
    taken = tensor_names(graph)

    def write(activation: gs.Tensor, weight: IntegerWeight, output: gs.Tensor) -> list[gs.Node]:
        if weight.key not in weights:
            weights[weight.key] = _stored(weight, taken)
        operands, scale = weights[weight.key]
        return writer.integer_product(activation, MIDDLE, operands, scale, output)

    return write


def _stored(weight: IntegerWeight, taken: set[str]) -> tuple[list[gs.Constant], gs.Constant]:
    """The levels, with their zero point where that is not 0, and a scale a column."""
    name = weight.levels.name
    scale = np.broadcast_to(weight.scale, (weight.columns,)).copy()
    return _operands(weight, taken), gs.Constant(unique_name(f"{name}_columns", taken), scale)


def _operands(weight: IntegerWeight, taken: set[str]) -> list[gs.Constant]:
    name, point = weight.levels.name, weight.zero_point
    if not point.any():
        return [weight.levels]
    if point.dtype == np.uint8 and (point == _FLIP).all():  # the same numbers, in the form of other int8 weights
        levels = (weight.levels.values ^ _FLIP).view(np.int8)
        return [gs.Constant(unique_name(f"{name}_int8", taken), levels)]
    levels, points = weight.levels, point
    if point.dtype == np.int8:  # unsigned: kernels for int8 may overflow on a CPU without 8-bit dot products
        unsigned = weight.levels.values.view(np.uint8) ^ _FLIP
        levels, points = gs.Constant(unique_name(f"{name}_uint8", taken), unsigned), point.view(np.uint8) ^ _FLIP
    return [levels, gs.Constant(unique_name(f"{name}_point", taken), np.asarray(points))]


class _TensorWriter:
    """Writes products as onnxruntime's quantiser does, with one scale for all of an activation."""

    def __init__(self, graph: gs.Graph) -> None:
        self._taken = tensor_names(graph)
        self._nodes: list[gs.Node] = []
        self._activations: dict[int, list[gs.Tensor]] = {}

    def product(self, activation: gs.Tensor, weight: IntegerWeight, output: gs.Tensor) -> list[gs.Node]:
        """Nodes that compute the product and give ``output``."""
        self._nodes = []
        levels, step, point = self._quantised(activation)
        name = output.name
        scale = gs.Constant(unique_name(f"{weight.levels.name}_scale", self._taken), weight.scale)
        operands = _operands(weight, self._taken)
        sums = self._add("MatMulInteger", [levels, operands[0], point, *operands[1:]], f"{name}_int32", np.int32)
        floats = self._add("Cast", [sums], f"{name}_sums", np.float32, to=TensorProto.FLOAT)
        factor = self._add("Mul", [step, scale], f"{name}_factor", np.float32)
        add_node(self._nodes, "Mul", name, [floats, factor], into=output)
        return self._nodes

    def _quantised(self, activation: gs.Tensor) -> list[gs.Tensor]:
        """``activation`` in uint8, its scale and its zero point."""
        if id(activation) not in self._activations:
            parts = (("quantised", np.uint8), ("step", np.float32), ("point", np.uint8))
            results: list[gs.Tensor] = [self._variable(f"{activation.name}_{part}", kind) for part, kind in parts]
            self._nodes.append(gs.Node("DynamicQuantizeLinear", results[0].name, {}, [activation], results))
            self._activations[id(activation)] = results
        return self._activations[id(activation)]

    def _add(self, op: str, inputs: list[gs.Tensor], name: str, dtype: Any, **attrs: Any) -> gs.Tensor:
        result = self._variable(name, dtype)
        return add_node(self._nodes, op, result.name, inputs, into=result, **attrs)

    def _variable(self, name: str, dtype: Any) -> gs.Variable:
        return gs.Variable(unique_name(name, self._taken), dtype)

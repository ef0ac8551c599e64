"""Lifted products in integers again."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from passes.base import GraphPass, PassResult
from passes.building import add_node
from passes.cleanup.rewiring import is_op
from passes.graph_io import header
from passes.packed_model import is_packed
from passes.precision.dynamic_products import IntegerWeight, integer_weight
from passes.precision.int8_values import FULL_RANGE, MIDDLE, QuantisedWeights
from passes.precision.int8_writer import Int8Writer
from passes.precision.lift_dynamic_int8 import LIFTED_KEY, lifted_weights
from passes.precision.names import tensor_names, unique_name
from passes.registry import register

#: How the report calls what this pass did.
A_TOKEN, A_SAMPLE, A_TENSOR = (
    "products with a scale a token",
    "convolutions with a scale a sample",
    "products with a scale a tensor",
)

_FLIP = np.uint8(128)


@register("lower_dynamic_int8")
class LowerDynamicInt8(GraphPass):
    """Compute the products that ``lift_dynamic_int8`` has lifted in integers, by the weights that they came with.

    With a scale a token they have the form that ``float_to_int8`` writes, and the same speed: activations become uint8
    with zero point 128 and one scale a row, so that an answer does not depend on its company. int8 weights stay as they
    are; uint8 weights with zero point 128 become int8 with none, which is the same numbers; others stay uint8.
    Convolutions get one scale a sample; in a packed model they stay dequantised, for there a row is no sample.

    What else reads a lifted weight stays dequantised too, with a reason. Runs once.

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
        writer = _TokenWriter(graph) if self._a_token else _TensorWriter(graph)
        nodes: list[gs.Node] = []
        for node in graph.nodes:
            weight = _lifted(node, names, in_packs=self._a_token and is_packed(graph))
            if weight is None:
                nodes.append(node)
                continue
            result.count(A_TENSOR if not self._a_token else A_TOKEN if node.op == "MatMul" else A_SAMPLE)
            nodes += writer.product(node, weight)
            node.inputs.clear()
            node.outputs.clear()
        graph.nodes = nodes
        graph.cleanup(remove_unused_graph_inputs=False)
        for node in graph.nodes:
            if node.outputs and node.outputs[0].name in names:
                readers = dict.fromkeys(reader.op for reader in node.outputs[0].outputs)
                result.refuse(node, f"{', '.join(readers)} computes with it in float32")
        return result


def _lifted(node: gs.Node, names: frozenset[str], *, in_packs: bool) -> IntegerWeight | None:
    """The lifted weight that a node multiplies by, where that is done in integers; None for any other node."""
    if not is_op(node, "MatMul", "Conv") or len(node.inputs) != 2 or node.inputs[1].name not in names:
        return None
    weight = integer_weight(*node.inputs[1].inputs[0].inputs)
    if weight is None or (node.op == "MatMul" and not weight.is_matrix) or (node.op == "Conv" and in_packs):
        return None
    return weight


class _TokenWriter:
    """Writes products with a scale a token, and convolutions with one a sample."""

    def __init__(self, graph: gs.Graph) -> None:
        self._writer = Int8Writer(graph, QuantisedWeights(FULL_RANGE))
        self._taken = tensor_names(graph)
        self._stored: dict[tuple[int, bytes, bytes], tuple[list[gs.Constant], gs.Constant]] = {}

    def product(self, node: gs.Node, weight: IntegerWeight) -> list[gs.Node]:
        """Nodes that compute ``node`` and give its result."""
        activation, output = node.inputs[0], node.outputs[0]
        if weight.key not in self._stored:
            name, is_product = weight.levels.name, node.op == "MatMul"
            scale = np.broadcast_to(weight.scale, (weight.columns,)) if is_product else weight.scale
            stored = gs.Constant(unique_name(f"{name}_steps", self._taken), np.array(scale))
            self._stored[weight.key] = _operands(weight, self._taken), stored
        operands, scale_of_columns = self._stored[weight.key]
        if node.op == "MatMul":
            return self._writer.integer_product(activation, MIDDLE, operands, scale_of_columns, output)
        return self._writer.integer_convolution(activation, MIDDLE, operands, scale_of_columns, output, node.attrs)


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

    def product(self, node: gs.Node, weight: IntegerWeight) -> list[gs.Node]:
        """Nodes that compute ``node`` and give its result."""
        self._nodes = []
        output = node.outputs[0]
        op, attrs = ("MatMulInteger", {}) if node.op == "MatMul" else ("ConvInteger", node.attrs)
        levels, step, point = self._quantised(node.inputs[0])
        name = output.name
        scale = gs.Constant(unique_name(f"{weight.levels.name}_scale", self._taken), weight.scale)
        operands = _operands(weight, self._taken)
        sums = self._add(op, [levels, operands[0], point, *operands[1:]], f"{name}_int32", np.int32, **attrs)
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

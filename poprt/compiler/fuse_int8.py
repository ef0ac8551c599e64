"""Cheaper operators of the engine for products that the converter wrote in int8. The numbers stay the same.

Two places, each one pass over memory less or two:

- ``QuantizeLinear(x / step, 1, z)`` becomes one QuantizeLinear with a scale for each row. The engine does that for one
  axis of any tensor, so the rows are laid out along one axis first, which moves no data.
- ``Cast(MatMulInteger(...)) * scale`` becomes MatMulIntegerToFloat, which scales its sums while they are in the cache.
  The engine fuses these itself only where the activation has one scale for all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from passes.base import GraphPass, PassResult, graph_output_names
from passes.building import import_domain
from passes.cleanup.rewiring import drop_nodes, onnx_dtype
from passes.node_values import axes_argument

_DOMAIN = "com.microsoft"
_RESHAPE_KEEPS_ZERO = 14  # from this opset on a target of 0 can mean an extent of 0


class FuseInt8(GraphPass):
    """Fuses quantisations and integer products of the main graph; see the module.

    Does nothing where anything else reads a tensor that would vanish, and fuses no quantisation below opset 14.
    """

    name = "fuse_int8"

    def apply(self, graph: gs.Graph) -> PassResult:
        """Fuse, in place."""
        result = PassResult()
        outputs = graph_output_names(graph)
        one = gs.Constant("poprt_int8_one", np.array(1, np.float32))
        flat = gs.Constant("poprt_int8_flat", np.array([-1], np.int64))
        for node in list(graph.nodes):
            if node.op == "MatMulInteger":
                result.count("products fused", _fuse_product(graph, node, one, outputs))
            elif node.op == "QuantizeLinear" and graph.opset >= _RESHAPE_KEEPS_ZERO:
                result.count("quantisations fused", _fuse_quantisation(graph, node, flat, outputs))
        if "products fused" in result.counts:
            import_domain(graph, _DOMAIN, 1)
        return result


def _fuse_product(graph: gs.Graph, node: gs.Node, one: gs.Constant, outputs: frozenset[str]) -> bool:
    """Make one node of MatMulInteger, Cast and Mul."""
    if len(node.inputs) < 3 or not is_scalar(node.inputs[2]):
        return False
    if not all(isinstance(point, gs.Constant) for point in node.inputs[3:]):  # of the weight: one, or one a column
        return False
    weight, cast = node.inputs[1], sole_reader(node, outputs)
    if not isinstance(weight, gs.Constant) or len(weight.shape) != 2 or cast is None or not _is_to_float(cast):
        return False
    scaling = sole_reader(cast, outputs)
    if scaling is None or scaling.op != "Mul":
        return False
    scale = scaling.inputs[1] if scaling.inputs[0] is cast.outputs[0] else scaling.inputs[0]
    if not isinstance(scale, gs.Constant) or onnx_dtype(scale) != TensorProto.FLOAT:
        return False
    if list(scale.shape) != [weight.shape[1]]:
        return False
    inputs = [*node.inputs[:2], one, scale, *node.inputs[2:]]
    output = scaling.outputs[0]
    scaling.outputs.clear()
    fused = gs.Node("MatMulIntegerToFloat", node.name, {}, inputs, [output], domain=_DOMAIN)
    put_before(graph, [fused], scaling)
    drop_nodes(graph, [node, cast, scaling])
    return True


def _fuse_quantisation(graph: gs.Graph, node: gs.Node, flat: gs.Constant, outputs: frozenset[str]) -> bool:
    """Make one QuantizeLinear, and what lays out its rows, of the division by the rows' steps and QuantizeLinear."""
    if len(node.inputs) != 3 or node.attrs:
        return False
    divide = maker(node.inputs[0])
    one, point = node.inputs[1:]
    if divide is None or divide.op != "Div" or not is_scalar(one) or not is_scalar(point):
        return False
    if sole_reader(divide, outputs) is None or onnx_dtype(one) != TensorProto.FLOAT or one.values != 1:
        return False
    values, steps = divide.inputs
    if not is_step_of_rows(steps, values):
        return False
    output = node.outputs[0]
    node.outputs.clear()
    put_before(graph, _row_wise(node.name, values, steps, point, flat, output), node)
    drop_nodes(graph, [divide, node])
    return True


def is_scalar(tensor: gs.Tensor) -> bool:
    """Whether ``tensor`` is an initializer without axes; those are never replaceable weights."""
    return isinstance(tensor, gs.Constant) and not tuple(tensor.shape)


def maker(tensor: gs.Tensor) -> gs.Node | None:
    """The node that makes ``tensor``."""
    return tensor.inputs[0] if tensor.inputs else None


def sole_reader(node: gs.Node, outputs: frozenset[str]) -> gs.Node | None:
    """What reads the first output of ``node``, where that is one node and no graph gives the tensor away."""
    tensor = node.outputs[0]
    return tensor.outputs[0] if len(tensor.outputs) == 1 and tensor.name not in outputs else None


def _is_to_float(node: gs.Node) -> bool:
    return bool(node.op == "Cast" and node.attrs.get("to") == TensorProto.FLOAT)


def is_step_of_rows(steps: gs.Tensor, values: gs.Tensor) -> bool:
    """Whether ``steps`` has one number for each row of ``values``: the Max of its scaled extremes and of scalars."""
    largest = maker(steps)
    if largest is None or largest.op != "Max":
        return False
    parts = [tensor for tensor in largest.inputs if not is_scalar(tensor)]
    return bool(parts) and all(_is_scaled_extreme(tensor, values) for tensor in parts)


def _is_scaled_extreme(tensor: gs.Tensor, values: gs.Tensor) -> bool:
    scaled = maker(tensor)
    if scaled is None or scaled.op != "Mul" or not is_scalar(scaled.inputs[1]):
        return False
    reduced = maker(scaled.inputs[0])
    return (
        reduced is not None
        and reduced.op in ("ReduceMax", "ReduceMin")
        and reduced.inputs[0] is values
        and reduced.attrs.get("keepdims", 1) == 1
        and axes_argument(reduced) == [-1]
    )


def _row_wise(
    name: str, values: gs.Tensor, steps: gs.Tensor, point: gs.Constant, flat: gs.Constant, result: gs.Tensor
) -> list[gs.Node]:
    """Quantise ``values`` as [rows, columns] with ``steps`` as [rows], and give the result its axes back."""
    nodes: list[gs.Node] = []

    def add(op: str, part: str, inputs: Sequence[gs.Tensor], **attributes: Any) -> gs.Variable:
        output = gs.Variable(f"{result.name}_{part}")
        nodes.append(gs.Node(op, output.name, attributes, list(inputs), [output]))
        return output

    rows = add("Flatten", "rows", [values], axis=-1)
    scale = add("Reshape", "row_scale", [steps, flat])
    count = add("Shape", "row_count", [scale])
    points = add("ConstantOfShape", "row_points", [count], value=gs.Constant("", point.values.reshape(1)))
    levels = add("QuantizeLinear", "row_levels", [rows, scale, points], axis=0)
    shape = add("Shape", "shape", [values])
    nodes.append(gs.Node("Reshape", name, {"allowzero": 1}, [levels, shape], [result]))
    return nodes


def put_before(graph: gs.Graph, nodes: Sequence[gs.Node], before: gs.Node) -> None:
    """Insert ``nodes`` in front of ``before``."""
    place = next(index for index, node in enumerate(graph.nodes) if node is before)
    graph.nodes[place:place] = nodes

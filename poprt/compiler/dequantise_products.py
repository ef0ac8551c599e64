"""Integer products as an engine wants them that quantises activations itself: a MatMul by a dequantised weight.

The converter writes a scale a token in standard operators. OpenVINO looks for int8 weights with a scale a column before
a product of floats, and rounds the activation inside its kernel, with one scale for a token and a group of columns:

    x [T, K] -> ReduceMax ... Div, QuantizeLinear, MatMulInteger (w [K, N]), Cast, Mul (scale [N]), Mul (steps [T, 1])
    x [T, K] -> MatMul (DequantizeLinear (w, scale [N]))
"""

from __future__ import annotations

import math

import onnx
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, graph_output_names
from passes.building import add_node
from passes.cleanup.rewiring import drop_nodes, is_op
from passes.precision.names import tensor_names, unique_name
from poprt.compiler.fuse_int8 import is_scalar, is_step_of_rows, maker, put_before, sole_reader

#: OpenVINO's vectors: a group of columns is a multiple of it.
_VECTOR = 16
#: A smaller group costs more than it saves.
_LEAST_GROUP = 32


class DequantiseProducts(GraphPass):
    """Writes the integer products of ``float_to_int8`` in the main graph as products by dequantised weights."""

    name = "dequantise_products"

    def apply(self, graph: gs.Graph) -> PassResult:
        """Rewrite, in place. What quantised an activation goes where nothing else reads it."""
        result = PassResult()
        outputs, taken = graph_output_names(graph), tensor_names(graph)
        dequantised: dict[tuple[int, int], gs.Tensor] = {}
        for node in [node for node in graph.nodes if is_op(node, "MatMulInteger")]:
            result.count("products by dequantised weights", _rewrite(graph, node, outputs, taken, dequantised))
        if result.modified:
            graph.cleanup()
        return result


def _rewrite(
    graph: gs.Graph,
    node: gs.Node,
    outputs: frozenset[str],
    taken: set[str],
    dequantised: dict[tuple[int, int], gs.Tensor],
) -> bool:
    """Make a MatMul of one integer product and what scales it."""
    source, weight = _quantised_by_rows(node.inputs[0]), node.inputs[1]
    if source is None or not isinstance(weight, gs.Constant) or len(weight.shape) != 2:
        return False
    values, steps = source
    cast = sole_reader(node, outputs)
    by_column = sole_reader(cast, outputs) if cast is not None and is_op(cast, "Cast") else None
    by_row = sole_reader(by_column, outputs) if by_column is not None and is_op(by_column, "Mul") else None
    if cast is None or by_column is None or by_row is None or not is_op(by_row, "Mul"):
        return False
    scale = _other(by_column, cast.outputs[0])
    if not isinstance(scale, gs.Constant) or list(scale.shape) != [weight.shape[1]]:
        return False
    if _other(by_row, by_column.outputs[0]) is not steps:
        return False
    nodes: list[gs.Node] = []
    key = (id(weight), id(scale))
    if key not in dequantised:
        name = unique_name(f"{weight.name}_dequantised", taken)
        point = [tensor for tensor in node.inputs[3:] if tensor.name]
        dequantised[key] = add_node(nodes, "DequantizeLinear", name, [weight, scale, *point], scale.dtype, axis=1)
    result = by_row.outputs[0]
    by_row.outputs.clear()
    add_node(nodes, "MatMul", node.name, [values, dequantised[key]], into=result)
    put_before(graph, nodes, by_row)
    drop_nodes(graph, [node, cast, by_column, by_row])
    return True


def _quantised_by_rows(levels: gs.Tensor) -> tuple[gs.Tensor, gs.Tensor] | None:
    """The values and the steps of their rows, where ``levels`` is ``QuantizeLinear(values / steps, 1, point)``."""
    quantise = maker(levels)
    if quantise is None or not is_op(quantise, "QuantizeLinear") or not _is_one(quantise.inputs[1]):
        return None
    divide = maker(quantise.inputs[0])
    if divide is None or not is_op(divide, "Div"):
        return None
    values, steps = divide.inputs
    return (values, steps) if is_step_of_rows(steps, values) else None


def _is_one(scale: gs.Tensor) -> bool:
    return is_scalar(scale) and isinstance(scale, gs.Constant) and bool((scale.values == 1).all())


def _other(node: gs.Node, tensor: gs.Tensor) -> gs.Tensor:
    """The operand of a node of two that is not ``tensor``."""
    second: gs.Tensor = node.inputs[1]
    return node.inputs[0] if second is tensor else second


def activation_group(model: onnx.ModelProto) -> int:
    """Columns of an activation that share a scale: the largest number that divides the rows of most weights.

    OpenVINO takes one number for a whole graph; a product whose rows it does not divide is computed in floats. Weights
    of [384, n] and [1536, n] give 384.
    """
    work: dict[int, int] = {}
    for shape in _dequantised_shapes(model):
        work[shape[0]] = work.get(shape[0], 0) + shape[0] * shape[1]
    candidates = {math.gcd(a, b) for a in work for b in work}
    usable = [size for size in candidates if size % _VECTOR == 0 and size >= _LEAST_GROUP]
    return max(usable, key=lambda size: (sum(done for rows, done in work.items() if rows % size == 0), size), default=0)


def _dequantised_shapes(model: onnx.ModelProto) -> list[tuple[int, int]]:
    made_by = {name: node for node in model.graph.node for name in node.output}
    dims = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes = []
    for node in model.graph.node:
        source = made_by.get(node.input[1]) if node.op_type == "MatMul" else None
        if source is not None and source.op_type == "DequantizeLinear" and len(dims.get(source.input[0], ())) == 2:
            rows, columns = dims[source.input[0]]
            shapes.append((rows, columns))
    return shapes

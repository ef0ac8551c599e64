"""Which inputs index tables, and how many rows these have."""

from __future__ import annotations

import onnx

from passes.operators import Family, members
from passes.ops import DOMAIN

#: Operators whose result holds the values of the first operand and, where padding is filled in, zeros.
_SAME_VALUES = frozenset(
    {("", name) for name in members(Family.ORDER, Family.AXES)} | {(DOMAIN, "Unpack"), (DOMAIN, "Repack")}
)
#: Operators whose result has the shape of the first operand and is as constant as that.
_SAME_SHAPE = frozenset({"Identity", "Cast", "DequantizeLinear"})
_INDEX_TYPES = frozenset({onnx.TensorProto.INT32, onnx.TensorProto.INT64})

_INTEGERS = _INDEX_TYPES | {
    onnx.TensorProto.INT8,
    onnx.TensorProto.INT16,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.UINT16,
    onnx.TensorProto.UINT32,
    onnx.TensorProto.UINT64,
}


def id_limits(model: onnx.ModelProto) -> dict[str, int]:
    """For each input whose values index a constant table as they are, the rows of the smallest such table.

    A Gather takes negative indices, counted from the end. Ids of tokens are never meant so, and a model that means it
    shows it: it computes its indices. So a value is to be at least 0 and below the limit. Gathers in subgraphs and
    local functions are left out: they may not run. ``poprt.sample_data`` asks a weaker question, which
    values make a good example; here a wrong answer refuses a request.

    Args:
        model: a converted model, before its operators are lowered.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    tables = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    tables |= {n.output[0]: list(a.t.dims) for n in model.graph.node for a in n.attribute if _is_tensor_constant(n, a)}
    inputs = {value.name for value in model.graph.input if value.type.tensor_type.elem_type in _INTEGERS}
    limits: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type != "Gather" or _domain(node):
            continue
        shape, source = _table_shape(node.input[0], makers, tables), _source(node.input[1], makers)
        if shape and source in inputs:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            limits[source] = min(shape[axis], limits.get(source, shape[axis]))
    return limits


def _is_tensor_constant(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> bool:
    return node.op_type == "Constant" and not _domain(node) and attribute.name == "value"


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else node.domain


def _source(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    """The tensor whose values ``name`` holds, as far back as only shape and integer type change."""
    while name in makers:
        node = makers[name]
        if (_domain(node), node.op_type) not in _SAME_VALUES and not _casts_to_index(node):
            break
        name = node.input[0]
    return name


def _casts_to_index(node: onnx.NodeProto) -> bool:
    """Whether a node is a Cast to a type that holds every index. A Cast to bool, say, makes other numbers of them."""
    to = next((attribute.i for attribute in node.attribute if attribute.name == "to"), 0)
    return not _domain(node) and node.op_type == "Cast" and to in _INDEX_TYPES


def _table_shape(name: str, makers: dict[str, onnx.NodeProto], tables: dict[str, list[int]]) -> list[int] | None:
    """The shape of a tensor that is a stored table, or is one but for its type; None of any other."""
    while name not in tables:
        node = makers.get(name)
        if node is None or _domain(node) or node.op_type not in _SAME_SHAPE:
            return None
        name = node.input[0]
    return tables[name]

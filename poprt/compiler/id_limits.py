"""Which inputs index tables, and how many rows these have."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from passes.cleanup.rewiring import is_op, onnx_dtype
from passes.lookups import is_lookup, lookup_axis
from passes.operators import Family, members
from passes.ops import DOMAIN

#: Operators whose result holds the values of the first operand and, where padding is filled in, zeros.
_SAME_VALUES = frozenset(
    {("", name) for name in members(Family.ORDER, Family.AXES)} | {(DOMAIN, "Unpack"), (DOMAIN, "Repack")}
)
#: Operators whose result has the shape of the first operand and is as constant as that.
_SAME_SHAPE = ("Identity", "Cast", "DequantizeLinear")
_INDEX_TYPES = frozenset({onnx.TensorProto.INT32, onnx.TensorProto.INT64})

_INTEGERS = _INDEX_TYPES | {
    onnx.TensorProto.INT8,
    onnx.TensorProto.INT16,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.UINT16,
    onnx.TensorProto.UINT32,
    onnx.TensorProto.UINT64,
}


def id_limits(graph: gs.Graph) -> dict[str, int]:
    """For each input whose values index a constant table as they are, the rows of the smallest such table.

    A Gather takes negative indices, counted from the end. Ids of tokens are never meant so, and a model that means it
    shows it: it computes its indices. So a value is to be at least 0 and below the limit. Gathers in subgraphs and
    local functions are left out: they may not run. ``poprt.input_meaning`` asks a weaker question, which
    values make a good example; here a wrong answer refuses a request.

    Args:
        graph: of a converted model, before its operators are lowered.
    """
    inputs = {tensor.name for tensor in graph.inputs if onnx_dtype(tensor) in _INTEGERS}
    limits: dict[str, int] = {}
    for node in graph.nodes:
        if not is_lookup(node):
            continue
        shape, source = _table_shape(node.inputs[0]), _source(node.inputs[1]).name
        if shape and source in inputs:
            rows = shape[lookup_axis(node)]
            limits[source] = min(rows, limits.get(source, rows))
    return limits


def _source(tensor: gs.Tensor) -> gs.Tensor:
    """The tensor whose values ``tensor`` holds, as far back as only shape and integer type change."""
    while tensor.inputs:
        node = tensor.inputs[0]
        if (_domain(node), node.op) not in _SAME_VALUES and not _casts_to_index(node):
            break
        tensor = node.inputs[0]
    return tensor


def _domain(node: gs.Node) -> str:
    return "" if node.domain in (None, "ai.onnx") else node.domain


def _casts_to_index(node: gs.Node) -> bool:
    """Whether a node is a Cast to a type that holds every index. A Cast to bool, say, makes other numbers of them."""
    return is_op(node, "Cast") and node.attrs.get("to") in _INDEX_TYPES


def _table_shape(tensor: gs.Tensor) -> list[int] | None:
    """The shape of a tensor that is a stored table, or is one but for its type; None of any other."""
    while not isinstance(tensor, gs.Constant):
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None:
            return None
        if is_op(node, "Constant") and isinstance(node.attrs.get("value"), gs.Constant):
            tensor = node.attrs["value"]
        elif is_op(node, *_SAME_SHAPE):
            tensor = node.inputs[0]
        else:
            return None
    return [int(extent) for extent in tensor.shape]

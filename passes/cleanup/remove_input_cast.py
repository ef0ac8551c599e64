"""Inputs of indices, as the integers that they are."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, graph_output_names
from passes.cleanup.rewiring import drop_nodes, is_op, onnx_dtype, replace_uses
from passes.refusal import Refusal, because
from passes.registry import register

_PICKS = ("Gather", "GatherElements")  # GatherND takes no int32
_INDEX_TYPES = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)


@register("remove_input_cast")
class RemoveInputCast(GraphPass):
    """Takes out the Cast between an input and the Gathers that it is an index of; the input becomes int32.

    Input [B, S] float16 -> Cast to int32 -> Gather of a table becomes input [B, S] int32 -> Gather. An input of int32
    or int64 keeps its type. Callers then feed whole numbers.

    Leaves alone, with a reason: an input that something else reads, that is an output too, or of another type; a Cast
    whose result is anything but the index of a Gather. Works on the inputs of the main graph.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Take the casts out; see the class."""
        result, outputs = PassResult(), graph_output_names(graph)
        for tensor in graph.inputs:
            casts = {id(node): node for node in tensor.outputs if is_op(node, "Cast")}
            casts = {key: node for key, node in casts.items() if node.attrs["to"] in _INDEX_TYPES}
            if not casts:
                continue
            refusal = _why_not(tensor, list(casts.values()), outputs)
            if refusal is not None:
                result.refuse(tensor.name, refusal.reason)
                continue
            if onnx_dtype(tensor) not in _INDEX_TYPES:
                tensor.dtype = np.dtype(np.int32)
                result.count("inputs made int32")
            for cast in casts.values():
                replace_uses(cast.outputs[0], tensor)
            drop_nodes(graph, casts.values())
            result.count("casts removed", len(casts))
        return result


def _why_not(tensor: gs.Tensor, casts: list[gs.Node], outputs: frozenset[str]) -> Refusal | None:
    if len(casts) != len({id(node) for node in tensor.outputs}) or tensor.name in outputs:
        return because("is an input that is read as what it is, too")
    kind = onnx_dtype(tensor)
    if kind not in (*_INDEX_TYPES, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
        return because("is an input of no type that stands for an index")
    for cast in casts:
        index = cast.outputs[0]
        picks = all(is_op(node, *_PICKS) and node.inputs[0] is not index for node in index.outputs)
        if not picks or index.name in outputs:
            return because(f"is cast to {index.name!r}, which is more than the index of a Gather")
    return None

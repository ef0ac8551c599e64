"""Weights that a model stores in bfloat16 and casts to float32: the executable widens them as they are loaded."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult
from passes.cleanup.rewiring import drop_nodes, is_op, onnx_dtype, replace_uses
from passes.placeholders import is_placeholder, retype

_HALF, _FLOAT = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT


class LowerBfloat16(GraphPass):
    """Declares such a weight float32 and takes the Cast out. Its data stays as it is, in half the file."""

    name = "lower_bfloat16"

    def apply(self, graph: gs.Graph) -> PassResult:
        """``w bfloat16 [K, N] -> Cast (float32) -> readers`` becomes ``w float32 [K, N] -> readers``."""
        result, dropped = PassResult(), []
        widened_here: set[int] = set()  # a weight may be cast more than once
        casts = [node for node in graph.nodes if is_op(node, "Cast") and node.attrs.get("to") == _FLOAT]
        for node in casts:
            weight, widened = node.inputs[0], node.outputs[0]
            if not is_placeholder(weight):
                continue
            if onnx_dtype(weight) == _HALF:
                retype(weight, _FLOAT)
                widened_here.add(id(weight))
            if id(weight) not in widened_here or widened in graph.outputs:
                continue  # a Cast that makes an output stays, from float32
            replace_uses(widened, weight)
            dropped.append(node)
        drop_nodes(graph, dropped)
        result.count("weights widened", len(widened_here))
        return result

"""Operands of Concat that hold nothing."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.cleanup.rewiring import is_op
from passes.registry import register


@register("remove_empty_concat_inputs")
class RemoveEmptyConcatInputs(GraphPass):
    """Takes the operands out of Concat that have no element along its axis.

    Concat of [0], [3] and [2] -> Concat of [3] and [2]. Leaves alone, with a reason, a Concat of nothing but such ones.
    Works in the main graph, subgraphs and local functions, on operands whose extent is declared.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Take them out; see the class."""
        result = PassResult()
        for scope in walk_graphs(graph):
            for node in scope.nodes:
                if not is_op(node, "Concat"):
                    continue
                empty = [_is_empty(tensor, node.attrs["axis"]) for tensor in node.inputs]
                if empty and all(empty):
                    result.refuse(node, "all of its operands are empty")
                elif any(empty):
                    node.inputs = [tensor for tensor, is_empty in zip(node.inputs, empty, strict=True) if not is_empty]
                    result.count("operands removed", sum(empty))
        return result


def _is_empty(tensor: gs.Tensor, axis: int) -> bool:
    shape = tensor.shape
    return shape is not None and -len(shape) <= axis < len(shape) and shape[axis] == 0

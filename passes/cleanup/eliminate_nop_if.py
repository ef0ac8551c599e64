"""Take the branch of an If whose condition is a constant."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult
from passes.cleanup.inlining import inline_branch
from passes.cleanup.rewiring import is_op
from passes.node_values import constant
from passes.registry import register


@register("eliminate_nop_if")
@register("expand_if")
class EliminateNopIf(GraphPass):
    """Puts the nodes of the one branch that can run in the place of an If whose condition is a constant.

    If (true) of then [B, S] and else [B, 1] -> the nodes of then, [B, S]. Leaves alone, with a reason, an If whose
    condition is computed. Works on the main graph; subgraphs and functions are left alone.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Take the branches; see the class."""
        result = PassResult()
        for node in [node for node in graph.nodes if is_op(node, "If")]:
            condition = constant(node.inputs[0])
            if condition is None:
                result.refuse(node, f"its condition {node.inputs[0].name!r} is computed")
                continue
            inline_branch(graph, node, node.attrs["then_branch" if condition.all() else "else_branch"])
            result.count("branches taken")
        if result.modified:
            graph.cleanup(remove_unused_graph_inputs=False).toposort(mode="nodes")
        return result

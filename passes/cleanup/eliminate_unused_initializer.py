"""Remove constants that nothing reads."""

import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.cleanup.rewiring import drop_nodes, is_op
from passes.registry import register


@register("eliminate_unused_initializer")
class EliminateUnusedInitializer(GraphPass):
    """Removes ``Constant`` nodes without a reader, in the main graph, subgraphs and local functions.

    An initializer without a reader belongs to no graph once the model is imported, so the exported model lacks it.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Remove the unread constants."""
        result = PassResult()
        for scope in walk_graphs(graph):
            unread = [
                node
                for node in scope.nodes
                if is_op(node, "Constant") and not node.outputs[0].outputs and node.outputs[0] not in scope.outputs
            ]
            drop_nodes(scope, unread)
            result.count("constants removed", len(unread))
        return result

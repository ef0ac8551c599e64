"""Initializers of subgraphs, in the main graph."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.graph_io import header
from passes.precision.names import tensor_names, unique_name
from passes.registry import register


@register("move_subgraph_initializer")
class MoveSubgraphInitializer(GraphPass):
    """Moves the initializers of subgraphs to the main graph, where every graph inside it sees them.

    If with a weight [H, H] in its then branch -> the weight [H, H] in the main graph. One whose name the main graph has
    already gets another. Leaves alone, with a reason, one that is itself what a subgraph gives.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Move them; see the class."""
        result, info = PassResult(), header(graph)
        main = {id(tensor) for tensor in graph.tensors().values()}
        taken = tensor_names(graph)
        moved: dict[int, str] = {}
        for scope in list(walk_graphs(graph, functions=False))[1:]:
            for tensor in scope.tensors().values():
                if not isinstance(tensor, gs.Constant) or id(tensor) in main or id(tensor) in moved:
                    continue
                if any(tensor is output for output in scope.outputs):
                    result.refuse(tensor.name, "is what a subgraph gives")
                    continue
                if tensor.name in moved.values():
                    tensor.name = unique_name(tensor.name, taken)
                moved[id(tensor)] = tensor.name
        result.count("initializers moved", len(set(moved.values()) - info.initializers))
        info.initializers = info.initializers | set(moved.values())
        return result

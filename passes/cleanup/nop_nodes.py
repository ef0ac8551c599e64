"""The common frame of the passes that take out nodes which return their input unchanged."""

from __future__ import annotations

from abc import abstractmethod

import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.cleanup.rewiring import bypass, drop_nodes


class NopElimination(GraphPass):
    """Takes out the nodes for which :meth:`is_nop` holds, in the main graph, subgraphs and local functions.

    Names of graph inputs and outputs stay. A node that connects an input or a constant straight to an output stays.
    """

    #: What the report calls the removed nodes.
    what = "nodes removed"

    @abstractmethod
    def is_nop(self, node: gs.Node) -> bool:
        """Whether ``node`` returns one input unchanged, in value, type and shape."""

    def kept_input(self, node: gs.Node) -> int:
        """Which input a node returns for which :meth:`is_nop` holds."""
        return 0

    def apply(self, graph: gs.Graph) -> PassResult:
        """Remove the nodes; see the class."""
        result = PassResult()
        for scope in walk_graphs(graph):
            removed = []
            for node in scope.nodes:
                if not self.is_nop(node):
                    continue
                refusal = bypass(scope, node, self.kept_input(node))
                if refusal is None:
                    removed.append(node)
                else:
                    result.refusals.append(refusal.at(node))
            drop_nodes(scope, removed)
            result.count(self.what, len(removed))
        return result

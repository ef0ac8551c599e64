"""Remove nodes and local functions that no graph output needs."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.registry import register


@register("eliminate_deadend")
class EliminateDeadend(GraphPass):
    """Removes the nodes that lead to no graph output, and local functions that nothing calls.

    It works in the main graph, subgraphs and local functions. Graph inputs stay, also unused ones: callers feed them.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Remove what is dead."""
        result = PassResult()
        before = _node_count(graph)
        graph.cleanup(remove_unused_graph_inputs=False)
        result.count("nodes removed", before - _node_count(graph))
        called = _called_functions(graph)
        live = [function for function in graph.functions if function.unique_id in called]
        result.count("functions removed", len(graph.functions) - len(live))
        if len(live) != len(graph.functions):
            graph.functions = live
        return result


def _node_count(graph: gs.Graph) -> int:
    return sum(len(scope.nodes) for scope in walk_graphs(graph))


def _called_functions(graph: gs.Graph) -> set[tuple[str, str]]:
    """(domain, name) of the local functions that the main graph calls, directly or through others."""
    functions = {function.unique_id: function for function in graph.functions}
    called: set[tuple[str, str]] = set()
    waiting = [graph]
    while waiting:
        for scope in walk_graphs(waiting.pop(), functions=False):
            for node in scope.nodes:
                key = (node.domain or "", node.op)
                if key in functions and key not in called:
                    called.add(key)
                    waiting.append(functions[key])
    return called

"""Give every node a name of its own."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.registry import register


@register("unique_name_for_nodes")
class UniqueNameForNodes(GraphPass):
    """Names the nodes that have no name, or one that an earlier node has: ``<operator or old name>_<number>``.

    Names are unique in the main graph with its subgraphs, and in each local function. Unique names stay.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Name the nodes."""
        result = PassResult()
        _name(walk_graphs(graph, functions=False), result)
        for function in graph.functions:
            _name(walk_graphs(function, functions=False), result)
        return result


def _name(scopes: Iterable[gs.Graph], result: PassResult) -> None:
    nodes = [node for scope in scopes for node in scope.nodes]
    in_use = {node.name for node in nodes}
    seen: set[str] = set()
    next_number: dict[str, int] = {}
    for node in nodes:
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        base = node.name or node.op
        number = next_number.get(base, 0)
        while f"{base}_{number}" in in_use:
            number += 1
        next_number[base] = number + 1
        node.name = f"{base}_{number}"
        in_use.add(node.name)
        seen.add(node.name)
        result.count("nodes named")

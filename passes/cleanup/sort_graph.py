"""Put the nodes in topological order."""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, node_label, subgraphs, walk_graphs
from passes.errors import RewriteError
from passes.registry import register


@register("sort_graph")
class SortGraph(GraphPass):
    """Orders the nodes so that each comes after those it reads from, also through the captures of its subgraphs.

    A graph that is in order already keeps its order. It works in the main graph, subgraphs and local functions.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Sort each graph.

        Raises:
            RewriteError: the nodes form a cycle.
        """
        result = PassResult()
        for scope in walk_graphs(graph):
            needs = _needs(scope)
            if any(source >= place for place, sources in needs.items() for source in sources):
                scope.nodes = [scope.nodes[place] for place in _order(scope, needs)]
                result.count("graphs sorted")
        return result


def _needs(scope: gs.Graph) -> dict[int, set[int]]:
    """For the place of each node, the places of the nodes that it reads from."""
    places = {id(node): place for place, node in enumerate(scope.nodes)}
    return {
        place: {places[id(source)] for source in _sources(node) if id(source) in places}
        for place, node in enumerate(scope.nodes)
    }


def _sources(node: gs.Node) -> Iterator[gs.Node]:
    for tensor in node.inputs:
        yield from tensor.inputs
    for nested in subgraphs(node):
        for inner in nested.nodes:
            yield from _sources(inner)


def _order(scope: gs.Graph, needs: dict[int, set[int]]) -> list[int]:
    sorter = TopologicalSorter(needs)
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = " -> ".join(node_label(scope.nodes[place]) for place in error.args[1])
        raise RewriteError(f"the graph {scope.name!r} has a cycle and cannot run: {cycle}") from error
    order: list[int] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order.extend(ready)
        sorter.done(*ready)
    return order

"""Find a pattern's nodes in a graph: backtracking over candidates that were narrowed by their neighbours first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx

from passes.node_protos import subgraphs
from passes.ops.ipu_standard import STANDARD_NAMES
from passes.pattern.language import Pattern, parse_pattern

#: One end of an edge: a node's position in ``graph.node``, or the name of a graph input, initializer or graph output.
End = int | str


@dataclass(frozen=True)
class MatchedNode:
    """What a label stands for.

    Attributes:
        node: the live node of the graph; None where ``s`` or ``e`` stands for no node but a graph input or output.
        index: its position in ``graph.node`` when it was found; -1 where ``node`` is None.
    """

    node: onnx.NodeProto | None
    index: int


class PatternMatcher:
    """Gives the matches of a pattern one after the other, while the caller may change the graph.

    Args:
        pattern: the strings (:mod:`passes.pattern.language`).

    Raises:
        RewriteError: the pattern is malformed; the message shows the place.
    """

    def __init__(self, pattern: str | Sequence[str]) -> None:
        self.pattern = parse_pattern(pattern)
        self._graph: onnx.GraphProto | None = None
        self._numbers = _NodeNumbers()
        self._reported: set[frozenset[int]] = set()

    def next_pattern(self, graph: onnx.GraphProto | onnx.ModelProto) -> dict[str, MatchedNode] | None:
        """The next match in the order of ``graph.node``, label by label; None when there is none left.

        The graph is looked at afresh at each call. A set of nodes is reported once, in one of the ways it matches, so
        a loop over all matches ends whether it changes the graph or not. Another graph object starts over. Where ``s``
        or ``e`` could be several, the first is given. A value read inside a node's subgraph counts as its input;
        the nodes of subgraphs are not searched.
        """
        if isinstance(graph, onnx.ModelProto):
            graph = graph.graph
        if graph is not self._graph:
            self._graph, self._numbers, self._reported = graph, _NodeNumbers(), set()
        nodes = list(graph.node)
        for match in find_matches(self.pattern, Connections(graph)):
            positions = [match[label] for label in self.pattern.node_labels]
            numbers = frozenset(
                self._numbers.of(nodes[position]) for position in positions if isinstance(position, int)
            )
            if numbers not in self._reported:
                self._reported.add(numbers)
                return {label: _matched(nodes, end) for label, end in match.items()}
        return None


def _matched(nodes: Sequence[onnx.NodeProto], end: End) -> MatchedNode:
    return MatchedNode(nodes[end], end) if isinstance(end, int) else MatchedNode(None, -1)


class _NodeNumbers:
    """Numbers the nodes met so far, so that one is known again after the graph changed around it.

    A node is the same when it is the same object, or when it has the same operator and outputs: a copy made by sorting
    the graph, for example.
    """

    def __init__(self) -> None:
        self._by_object: dict[int, tuple[onnx.NodeProto, int]] = {}  # holding the node keeps its id from being reused
        self._by_outputs: dict[tuple[str, ...], int] = {}

    def of(self, node: onnx.NodeProto) -> int:
        entry = self._by_object.get(id(node))
        if entry is not None:
            return entry[1]
        number = self._by_outputs.setdefault((node.op_type, *node.output), len(self._by_object))
        self._by_object[id(node)] = node, number
        return number


class Connections:
    """What feeds what in a graph.

    Attributes:
        ops: the operator type of each node.
        producers: for each node, what feeds it, in the order of its inputs.
        consumers: for each node, what it feeds: nodes in graph order, then graph outputs.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.ops = [node.op_type for node in graph.node]
        made_by = {name: position for position, node in enumerate(graph.node) for name in node.output if name}
        self.producers: list[list[End]] = []
        self.consumers: list[list[End]] = [[] for _ in self.ops]
        for position, node in enumerate(graph.node):
            feeding: list[End] = list(dict.fromkeys(made_by.get(name, name) for name in _values_read(node)))
            self.producers.append(feeding)
            for producer in feeding:
                if isinstance(producer, int):
                    self.consumers[producer].append(position)
        for output in graph.output:
            if output.name in made_by:
                self.consumers[made_by[output.name]].append(output.name)


def _values_read(node: onnx.NodeProto) -> Iterator[str]:
    """The names of the values that ``node`` reads, also inside its subgraphs."""
    yield from filter(None, node.input)
    for nested in subgraphs(node):
        yield from _values_captured(nested)


def _values_captured(graph: onnx.GraphProto) -> Iterator[str]:
    """The names of the values outside a subgraph that it reads."""
    own = {value.name for values in (graph.input, graph.initializer) for value in values}
    own |= {name for node in graph.node for name in node.output}
    read = [name for node in graph.node for name in _values_read(node)] + [output.name for output in graph.output]
    yield from (name for name in read if name not in own)


def find_matches(pattern: Pattern, graph: Connections) -> Iterator[dict[str, End]]:
    """All matches, label -> end, in graph order of the first label's node, then of the next label's, and so on.

    A match differs from the others in its nodes: where ``s`` or ``e`` could be several, the first is taken.
    """
    candidates = _narrow(pattern, graph)
    for nodes in _extend(pattern, graph, candidates, _search_order(pattern), {}):
        anything = {label: _any_end(label, pattern, graph, nodes) for label in pattern.ops if pattern.is_any(label)}
        if None not in anything.values():
            ends = {**nodes, **anything}
            yield {label: end for label in pattern.ops if (end := ends[label]) is not None}


def _narrow(pattern: Pattern, graph: Connections) -> dict[str, set[int]]:
    """For each operator's label the nodes of its type that have a candidate on the other side of each edge."""
    candidates = {
        label: {position for position, op in enumerate(graph.ops) if op in _names(pattern.ops[label])}
        for label in pattern.node_labels
    }
    before = -1
    while before != (now := sum(map(len, candidates.values()))):
        before = now
        for producer, consumer in pattern.edges:
            _keep_connected(candidates, producer, consumer, graph.consumers)
            _keep_connected(candidates, consumer, producer, graph.producers)
    return candidates


def _names(op: str) -> tuple[str, ...]:
    return (op, STANDARD_NAMES[op]) if op in STANDARD_NAMES else (op,)


def _keep_connected(candidates: dict[str, set[int]], label: str, other: str, beside: Sequence[Sequence[End]]) -> None:
    """Drop the candidates of ``label`` that have none of ``other`` beside them; ``s`` and ``e`` may be anything."""
    if label in candidates:
        fitting = candidates.get(other)
        candidates[label] = {
            position
            for position in candidates[label]
            if (beside[position] if fitting is None else not fitting.isdisjoint(beside[position]))
        }


def _search_order(pattern: Pattern) -> list[str]:
    """The operators' labels: each next to one before it where there is such a one."""
    waiting, order = pattern.node_labels, []
    while waiting:
        beside = {end for edge in pattern.edges if any(label in order for label in edge) for end in edge}
        label = next((label for label in waiting if label in beside), waiting[0])
        order.append(label)
        waiting.remove(label)
    return order


def _extend(
    pattern: Pattern, graph: Connections, candidates: dict[str, set[int]], order: Sequence[str], bound: dict[str, int]
) -> Iterator[dict[str, int]]:
    """All ways to bind the labels of ``order`` that are not in ``bound``."""
    if len(bound) == len(order):
        yield dict(bound)
        return
    label = order[len(bound)]
    beside = _beside(label, pattern, graph, bound)
    fitting = candidates[label] if beside is None else candidates[label].intersection(beside)
    for position in sorted(fitting.difference(bound.values())):
        bound[label] = position
        yield from _extend(pattern, graph, candidates, order, bound)
        del bound[label]


def _any_end(label: str, pattern: Pattern, graph: Connections, bound: dict[str, int]) -> End | None:
    """The first producer (or consumer) that has all edges of the label ``s`` (or ``e``); None where there is none."""
    beside = _beside(label, pattern, graph, bound)
    return next(iter(beside), None) if beside else None


def _beside(label: str, pattern: Pattern, graph: Connections, bound: dict[str, int]) -> list[End] | None:
    """What has all edges of ``label`` to the nodes bound so far; None where it has no such edge."""
    common: list[End] | None = None
    for producer, consumer in pattern.edges:
        if consumer == label and producer in bound:
            near = graph.consumers[bound[producer]]
        elif producer == label and consumer in bound:
            near = graph.producers[bound[consumer]]
        else:
            continue
        common = near if common is None else [end for end in common if end in near]
    return common

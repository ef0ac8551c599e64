"""Why the packed model unpacks: the nodes that relate tokens to each other, layers alike taken together."""

from __future__ import annotations

import re

import onnx_graphsurgeon as gs

from passes.base import Refusal, node_label
from passes.operators import Family, members
from passes.packing.tokens.axes import AxisMap
from passes.packing.tokens.sides import Placement

_MEASURES = members(Family.EXTENT)
_NAME = re.compile(r"'[^']*'")


def explain_unpacks(graph: gs.Graph, axes: AxisMap, placement: Placement) -> list[Refusal]:
    """One line for each kind of node that forces an Unpack, before the graph is rewired.

    A tensor of the packed side is followed through the nodes that were moved to the unpacked side only to be near
    their neighbours, up to those that mix tokens. Nodes with the same operator and, names aside, the same reason are
    one line with their number.
    """
    forcing: dict[int, gs.Node] = {}
    for tensor in _packed_tensors(graph, axes, placement):
        for node in tensor.outputs:
            if not placement.runs_packed(node):
                _follow(node, placement, forcing)
    groups: dict[tuple[str, str], list[gs.Node]] = {}
    for node in graph.nodes:  # in the graph's order
        if id(node) in forcing:
            key = (node.op, _NAME.sub("", placement.reasons[id(node)]))
            groups.setdefault(key, []).append(node)
    return [_line(nodes, placement) for nodes in groups.values()]


def _packed_tensors(graph: gs.Graph, axes: AxisMap, placement: Placement) -> list[gs.Tensor]:
    made = [tensor for node in graph.nodes if placement.runs_packed(node) for tensor in node.outputs]
    return [tensor for tensor in [*graph.inputs, *made] if axes.axes(tensor) is not None]


def _follow(start: gs.Node, placement: Placement, forcing: dict[int, gs.Node]) -> None:
    todo, seen = [start], set()
    while todo:
        node = todo.pop()
        if id(node) in seen or placement.runs_packed(node):
            continue
        seen.add(id(node))
        if node.op in _MEASURES:
            continue  # extents are built anew and force nothing
        if id(node) in placement.reasons:
            forcing[id(node)] = node
        else:
            todo.extend(consumer for tensor in node.outputs for consumer in tensor.outputs)


def _line(nodes: list[gs.Node], placement: Placement) -> Refusal:
    first = nodes[0]
    alike = f" ({len(nodes)} nodes alike)" if len(nodes) > 1 else ""
    return Refusal(node_label(first), placement.reasons[id(first)] + alike)

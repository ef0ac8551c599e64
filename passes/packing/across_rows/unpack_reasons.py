"""Why the packed model unpacks: the nodes that relate tokens to each other, layers alike taken together."""

from __future__ import annotations

import re
from dataclasses import replace

import onnx_graphsurgeon as gs

from passes.operators import Family, members
from passes.packing.tokens.sides import PlacedGraph, Placement
from passes.refusal import Refusal

_MEASURES = members(Family.EXTENT)
_NAME = re.compile(r"'[^']*'")


def explain_unpacks(placed: PlacedGraph) -> list[Refusal]:
    """One line for each kind of node that forces an Unpack, before the graph is rewired.

    A tensor of the packed side is followed through the nodes that were moved to the unpacked side only to be near
    their neighbours, up to those that mix tokens. Nodes with the same operator and, names aside, the same reason are
    one line with their number.
    """
    forcing: dict[int, gs.Node] = {}
    for tensor in _packed_tensors(placed):
        for node in tensor.outputs:
            if not placed.runs_packed(node):
                _follow(node, placed.placement, forcing)
    groups: dict[tuple[str, str], list[Refusal]] = {}
    reasons = placed.placement.reasons
    for node in placed.graph.nodes:  # in the graph's order
        if id(node) in forcing:
            refusal = reasons[id(node)]
            groups.setdefault((node.op, _NAME.sub("", refusal.reason)), []).append(refusal)
    return [_as_one(alike) for alike in groups.values()]


def _packed_tensors(placed: PlacedGraph) -> list[gs.Tensor]:
    nodes = [node for node in placed.graph.nodes if placed.runs_packed(node)]
    results = [tensor for node in nodes for tensor in node.outputs]
    return [tensor for tensor in [*placed.graph.inputs, *results] if placed.axes.axes(tensor) is not None]


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


def _as_one(alike: list[Refusal]) -> Refusal:
    number = f" ({len(alike)} nodes alike)" if len(alike) > 1 else ""
    return replace(alike[0], reason=alike[0].reason + number)

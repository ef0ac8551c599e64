"""How long a sequence a model has room for: a table of 512 positions cannot be cut to 600."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs
import sympy

from passes.node_values import constant
from passes.numbers import LARGEST_EXTENT
from passes.packing.tokens.axes import SEQ, AxisMap, is_known
from passes.refusal import NodeName


@dataclass(frozen=True)
class Room:
    """A node that gives the sequence fewer places than it may have.

    Attributes:
        node: which.
        places: the longest sequence that it has room for.
    """

    node: NodeName
    places: int


def room_in(extent: sympy.Expr) -> int | None:
    """The number in Min(512, seq); None where ``extent`` is something else."""
    if not isinstance(extent, sympy.Min) or extent.free_symbols != {SEQ} or extent.subs(SEQ, 1) != 1:
        return None
    return int(extent.subs(SEQ, LARGEST_EXTENT))


def least_room(graph: gs.Graph, axes: AxisMap) -> Room | None:
    """The node that has room for the fewest tokens; None where sequences may be of any length.

    Inference takes what is cut to the sequence for as long as the sequence where both meet. Then the model cannot run
    on longer ones than what is cut.
    """
    rooms = [Room(NodeName.of(node), places) for node in graph.nodes for places in _places(node, axes)]
    return min(rooms, key=lambda room: room.places, default=None)


def _places(node: gs.Node, axes: AxisMap) -> Iterator[int]:
    if node.op != "Slice" or len(node.inputs) < 3:
        return
    before, after = axes.shape(node.inputs[0]), axes.shape(node.outputs[0])
    if before is None or after is None or len(before) != len(after):
        return
    for axis, (had, left) in enumerate(zip(before, after, strict=True)):
        if left == SEQ and is_known(had):
            yield int(had)
        elif left == had == SEQ:
            yield from _constant_end(node, axis, len(before))


def _constant_end(node: gs.Node, axis: int, rank: int) -> Iterator[int]:
    """Where a Slice ends on ``axis``, if that is a place counted from the front."""
    ends, listed = constant(node.inputs[2]), None
    if len(node.inputs) > 3 and not node.inputs[3].is_empty():
        listed = constant(node.inputs[3])
        if listed is None:
            return
    if ends is not None:
        cut = range(ends.size) if listed is None else [int(item) % rank for item in listed.reshape(-1)]
        yield from (int(end) for end, own in zip(ends.reshape(-1), cut, strict=True) if own == axis and end > 1)

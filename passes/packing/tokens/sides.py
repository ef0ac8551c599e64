"""Which nodes run packed: all that treat every token alone, less those that save nothing there.

A crossing costs a copy. A node that only moves axes, or whose result is a few numbers a token, is run on the side
where its neighbours are, so that the tensor that crosses is the smaller or the better laid out one. QuantizeLinear goes
with what makes its input, DequantizeLinear with what reads its result: levels of 8 bits cross, and the engine, which
fuses a product with those around it, finds them beside the product.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_graphsurgeon as gs
import sympy

from passes.operators import PRODUCTS_OF_FEW_BITS, Family, members
from passes.packing.tokens.axes import AxisMap
from passes.packing.tokens.token_order import forget_disordered
from passes.packing.tokens.token_wise import why_not_token_wise
from passes.refusal import Refusal

#: Nodes whose work is worth a crossing by itself.
HEAVY_OPS = members(Family.PRODUCT) | PRODUCTS_OF_FEW_BITS
_LAYOUT_OPS = members(Family.ORDER, Family.AXES) | {"Cast", "Expand", "DequantizeLinear"}
_NARROW = 8  # numbers a token: ids, masks, logits of small heads


@dataclass
class Placement:
    """Where nodes run.

    Attributes:
        packed: ids (``id(node)``) of the nodes that run packed.
        reasons: id of a node that mixes tokens -> why.
    """

    packed: set[int] = field(default_factory=set)
    reasons: dict[int, Refusal] = field(default_factory=dict)

    def runs_packed(self, node: gs.Node) -> bool:
        """Whether ``node`` runs packed."""
        return id(node) in self.packed


@dataclass
class PlacedGraph:
    """A graph, where its tensors keep their tokens, and where its nodes run.

    Attributes:
        graph: its nodes in topological order.
        axes: of its tensors.
        placement: of its nodes.
    """

    graph: gs.Graph
    axes: AxisMap
    placement: Placement

    def runs_packed(self, node: gs.Node) -> bool:
        """Whether ``node`` runs packed."""
        return self.placement.runs_packed(node)

    def comes_packed(self, tensor: gs.Tensor) -> bool:
        """Whether ``tensor`` is an input or made by a node that runs packed."""
        return not tensor.inputs or self.runs_packed(tensor.inputs[0])


def place(graph: gs.Graph, axes: AxisMap) -> PlacedGraph:
    """Decide for each node of the main graph. Nodes must be in topological order."""
    forget_disordered(graph, axes)
    placed = PlacedGraph(graph, axes, Placement())
    placement = placed.placement
    for node in graph.nodes:
        refusal = why_not_token_wise(node, axes)
        if refusal is None:
            placement.packed.add(id(node))
        else:
            placement.reasons[id(node)] = refusal.at(node)
    outputs = {id(tensor) for tensor in graph.outputs}
    while True:
        # One at a time in reverse order: what a node's consumers do decides about the node.
        saved = next((node for node in reversed(graph.nodes) if _saves_nothing(node, placed, outputs)), None)
        if saved is None:
            return placed
        placement.packed.discard(id(saved))


def _saves_nothing(node: gs.Node, placed: PlacedGraph, outputs: set[int]) -> bool:
    axes = placed.axes
    if not placed.runs_packed(node) or node.op in HEAVY_OPS:
        return False
    if any(id(tensor) in outputs for tensor in node.outputs):
        return False
    from_unpacked = [tensor for tensor in node.inputs if axes.axes(tensor) and not placed.comes_packed(tensor)]
    if node.op == "QuantizeLinear" and from_unpacked:
        return True
    if node.op in _LAYOUT_OPS and any(not _canonical(tensor, axes) for tensor in from_unpacked):
        return True
    consumers = [consumer for tensor in node.outputs for consumer in tensor.outputs]
    if any(placed.runs_packed(consumer) for consumer in consumers):
        return False
    if node.op in _LAYOUT_OPS or all(_is_narrow(tensor, axes) for tensor in node.outputs):
        return True
    if any(not _canonical(tensor, axes) for tensor in node.outputs):
        return True
    carrying = [tensor for tensor in node.inputs if axes.axes(tensor)]
    return len(from_unpacked) == len(carrying)


def _canonical(tensor: gs.Tensor, axes: AxisMap) -> bool:
    token = axes.axes(tensor)
    return token is None or token.canonical


def _is_narrow(tensor: gs.Tensor, axes: AxisMap) -> bool:
    token, shape = axes.axes(tensor), axes.shape(tensor)
    if token is None or shape is None:
        return False
    width = sympy.prod(extent for axis, extent in enumerate(shape) if axis not in token.positions)
    return bool(sympy.sympify(width).is_number and width <= _NARROW)

"""Tensors whose shape says that they carry tokens, and whose values lie in another order.

A crossing takes the first places of a row for the sample's tokens. A tensor that was reversed, sorted or picked along
the sequence has the shape of one that carries tokens, yet its first places may hold padding. An axis of extent
batch * seq may hold its tokens batch first or sequence first. Such tensors stay on the unpacked side.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.base import subgraphs
from passes.node_values import constant
from passes.operators import Family, members
from passes.packing.tokens.axes import AxisMap, blocks
from passes.packing.tokens.positional import Positional, own_places
from passes.refusal import RefusedError

#: Operators that move values of their first input along an axis.
_REORDERING = members(Family.PICK) | {"ReverseSequence", "ScatterElements", "ScatterND", "TopK"}

#: Extents at which indices are looked at.
_SAMPLES, _PLACES = 3, 8


def forget_disordered(graph: gs.Graph, axes: AxisMap) -> None:
    """Take from ``axes`` the token axes of disordered tensors. Nodes must be in topological order.

    All that is computed from a reordered tensor counts as reordered: nothing shows where the order is restored.
    """
    reordered: set[str] = set()
    positional = Positional(graph, axes)
    for node in graph.nodes:
        if _reads(node, reordered) or (_reorders(node, axes) and not _takes_each_place(node, axes, positional)):
            reordered.update(tensor.name for tensor in node.outputs)
            for tensor in node.outputs:
                axes.forget(tensor)
        for tensor in node.outputs:
            token = axes.axes(tensor)
            if token is not None and token.flat and not _keeps_flat_order(node, tensor, axes):
                axes.forget(tensor)


def _reads(node: gs.Node, names: set[str]) -> bool:
    inner = (item for nested in subgraphs(node) for item in nested.nodes)
    return any(tensor.name in names for tensor in node.inputs) or any(_reads(item, names) for item in inner)


def _reorders(node: gs.Node, axes: AxisMap) -> bool:
    """Whether ``node`` moves values along the tokens of its first input, and its result seems to carry tokens."""
    token = axes.axes(node.inputs[0]) if node.inputs else None
    if token is None or not any(axes.axes(tensor) for tensor in node.outputs):
        return False
    if node.op == "Slice":
        steps = constant(node.inputs[4]) if len(node.inputs) > 4 else None
        return len(node.inputs) > 4 and (steps is None or bool((steps < 0).any())) and _touches_tokens(node, axes)
    return node.op in _REORDERING and _touches_tokens(node, axes)


def _takes_each_place(node: gs.Node, axes: AxisMap, positional: Positional) -> bool:
    """Whether a GatherND of [batch, seq] takes at each place what stands there; exporters index a mask so."""
    data, *indices = node.inputs
    token, taken = axes.axes(data), axes.axes(node.outputs[0])
    if node.op != "GatherND" or node.attrs.get("batch_dims", 0) or token is None or not token.canonical:
        return False
    if taken is None or taken.flat or indices[0] not in positional:
        return False
    try:
        picked = positional.value(indices[0], _PLACES, batch=_SAMPLES)
    except RefusedError:
        return False
    if picked.shape[taken.batch] != _SAMPLES or picked.shape[taken.seq] != _PLACES:
        return False
    return own_places(picked, taken.batch, [taken.seq]) is not None


def _touches_tokens(node: gs.Node, axes: AxisMap) -> bool:
    data = node.inputs[0]
    token, shape = axes.require(data), axes.require_shape(data)
    if node.op in ("ReverseSequence", "GatherND", "ScatterND"):
        return True
    if node.op == "Slice":
        cut = constant(node.inputs[3]) if node.inputs[3].name else None
        touched = range(len(shape)) if cut is None else [int(axis) for axis in cut.reshape(-1)]
    else:
        touched = [int(node.attrs.get("axis", -1 if node.op == "TopK" else 0))]
    return any(axis % len(shape) in token.positions for axis in touched)


def _keeps_flat_order(node: gs.Node, output: gs.Tensor, axes: AxisMap) -> bool:
    """Whether ``output``, of extent batch * seq, has its tokens batch first."""
    carried = [(tensor, token) for tensor in node.inputs if (token := axes.axes(tensor)) is not None]
    if any(token.flat for _, token in carried):
        return True
    source, target = axes.shape(node.inputs[0]) if node.inputs else None, axes.shape(output)
    if node.op not in ("Reshape", "Flatten") or not carried or source is None or target is None:
        return False
    return blocks(source, carried[0][1]) == blocks(target, axes.require(output))

"""From a graph to its token axes: infer symbolic shapes, take the branches they decide, fold what they know."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.base import node_label
from passes.errors import PackingError
from passes.fusion.attention_ops import attention_inputs, inputs_at
from passes.fusion.expand_fused_ops import expand_fused_ops
from passes.packing.opening.branches import resolve_branches
from passes.packing.opening.geometry import Geometry
from passes.packing.opening.known_extents import fold_known_extents
from passes.packing.opening.length_bound import LengthBound
from passes.packing.opening.unbake import Unbaked, unbake
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap
from passes.refusal import Refusal
from passes.shapes.symbolic import SymbolicShapes, infer_symbolic_shapes


def map_axes(graph: gs.Graph, geometry: Geometry, bound: LengthBound) -> tuple[AxisMap, Unbaked]:
    """Where each tensor of ``graph`` keeps its tokens, and what became of extents that were fixed before.

    Shape arithmetic of known result becomes constants. Fused operators that hide
    matrix products or masks are taken apart. What is the smaller of the sequence and a number is decided by ``bound``.
    Nodes must be in topological order.

    Raises:
        PackingError: a fused attention continues from the keys and values of an earlier run, or a node fixes an extent
            that the inputs declare open.
    """
    _refuse_past(graph)
    expand_fused_ops(graph, geometry.symbolic_shapes())
    unbaked = unbake(graph, geometry, bound)
    shapes = _inferred(graph, geometry, bound)
    while resolve_branches(graph, shapes):
        graph.toposort(mode="nodes")
        unbaked = unbaked.then(unbake(graph, geometry, bound))
        shapes = _inferred(graph, geometry, bound)
    _refuse_contradictions(shapes, geometry)
    fold_known_extents(graph, shapes)
    return AxisMap(graph, shapes), unbaked


def _inferred(graph: gs.Graph, geometry: Geometry, bound: LengthBound) -> SymbolicShapes:
    shapes = infer_symbolic_shapes(graph, geometry.symbolic_shapes())
    bound.decide_all(shapes)
    return shapes


def _refuse_contradictions(shapes: SymbolicShapes, geometry: Geometry) -> None:
    """Refuse a model whose inputs are open where a node of it takes one batch size or length alone."""
    rows, columns = geometry.fixed
    for node, (name, number) in shapes.contradictions.items():
        if (name, 0) in ((str(BATCH), rows), (str(SEQ), columns)):
            what = f"a batch of {number}" if name == str(BATCH) else f"sequences of {number} tokens"
            raise PackingError(
                f"{node} takes {what} alone, whatever the inputs declare; export the model with dynamic axes",
                [Refusal(node, f"takes {what} alone")],
            )


def _refuse_past(graph: gs.Graph) -> None:
    for node in graph.nodes:
        slots = attention_inputs(node)
        past = inputs_at(node, slots.past) if slots else []
        if past:
            raise PackingError(
                f"{node_label(node)} continues from an earlier run by its input {past[0].name!r}; packing runs whole "
                "samples: export the model without past keys and values"
            )

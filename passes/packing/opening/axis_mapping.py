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
from passes.packing.opening.unbake import Unbaked, unbake
from passes.packing.tokens.axes import AxisMap
from passes.shapes.symbolic import infer_symbolic_shapes


def map_axes(graph: gs.Graph, geometry: Geometry) -> tuple[AxisMap, Unbaked]:
    """Where each tensor of ``graph`` keeps its tokens, and what became of extents that were fixed before.

    Shape arithmetic of known result becomes constants. Fused operators that hide
    matrix products or masks are taken apart.
    Nodes must be in topological order.

    Raises:
        PackingError: a fused attention continues from the keys and values of an earlier run.
    """
    _refuse_past(graph)
    expand_fused_ops(graph, geometry.symbolic_shapes())
    unbaked = unbake(graph, geometry)
    shapes = infer_symbolic_shapes(graph, geometry.symbolic_shapes())
    while resolve_branches(graph, shapes):
        graph.toposort(mode="nodes")
        unbaked = unbaked.then(unbake(graph, geometry))
        shapes = infer_symbolic_shapes(graph, geometry.symbolic_shapes())
    fold_known_extents(graph, shapes)
    return AxisMap(graph, shapes), unbaked


def _refuse_past(graph: gs.Graph) -> None:
    for node in graph.nodes:
        slots = attention_inputs(node)
        past = inputs_at(node, slots.past) if slots else []
        if past:
            raise PackingError(
                f"{node_label(node)} continues from an earlier run by its input {past[0].name!r}; packing runs whole "
                "samples: export the model without past keys and values"
            )

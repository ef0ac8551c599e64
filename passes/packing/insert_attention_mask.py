"""The pass ``insert_attention_mask``: several samples share a row, and attention stays within each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult
from passes.errors import PackingError
from passes.graph_io import header
from passes.ops import MINIMUM_OPSET, declare_operators
from passes.packing.analysis import map_axes
from passes.packing.flops import flop_share
from passes.packing.geometry import Geometry, GeometryFinder
from passes.packing.mask import binarise, find_masks
from passes.packing.metadata import METADATA_KEY
from passes.packing.placement import place
from passes.packing.positional import Positional
from passes.packing.row_rewrite import RowRewriter
from passes.packing.rows import RowAnalysis, check_all_kept_apart
from passes.registry import register

POSITION_IDS = "position_ids"


@register("insert_attention_mask")
class InsertAttentionMask(GraphPass):
    """Lets samples share a row: style B of packing (docs/architecture.md).

    Adds the operator AttentionMask to the input of every softmax over pairs of places. The mask input numbers the
    samples of a row from 1 and is 0 where there is none; what the model computed from it before sees 0 and 1. Positions
    are read from the input ``position_ids``, which is added where the model has none and needs one. Outputs keep the
    packed layout. Refuses, by name, what cannot be shown to keep samples apart. Does nothing to a packed model.

    Args:
        input_shape: shapes that the inputs will be fixed to, by name. The row length must be known.
        batch_size, batch_axis: as for ``const_input_shape``.
    """

    def __init__(
        self,
        input_shape: Mapping[str, Sequence[int]] | None = None,
        batch_size: int | None = None,
        batch_axis: int | None = None,
    ) -> None:
        super().__init__()
        self._finder = GeometryFinder(input_shape, batch_size, batch_axis)

    def apply(self, graph: gs.Graph) -> PassResult:
        """Insert the masks; see the class."""
        result = PassResult()
        if METADATA_KEY in header(graph).metadata:
            result.refuse("graph", "the model is packed already")
            return result
        if graph.opset < MINIMUM_OPSET:
            raise PackingError(
                f"insert_attention_mask needs opset {MINIMUM_OPSET} or newer, the model has {graph.opset}"
            )
        graph.toposort(mode="nodes")
        geometry = self._finder.find(graph)
        if not geometry.columns:
            raise PackingError(
                "samples that share a row need rows of known length; give --input_shape, for example "
                f"--input_shape {geometry.names[0]}=16,256"
            )
        axes = map_axes(graph, geometry)
        placement = place(graph, axes, graph.opset)
        mask = _the_mask(graph, geometry, find_masks(graph, geometry.inputs, axes, placement).explicit)
        positional = Positional(graph, axes)
        analysis = RowAnalysis(graph, axes, positional, geometry.columns)
        check_all_kept_apart(graph, analysis.run())
        plan = analysis.plan
        if not plan.masked:
            raise PackingError("this model has no softmax over pairs of places: there is no attention to mask")
        binarise(graph, mask)
        positions = next((tensor for tensor in geometry.inputs if tensor.name == POSITION_IDS), None)
        given = positions is not None
        positions = positions or gs.Variable(POSITION_IDS, np.int64, list(mask.shape))
        rewriter = RowRewriter(graph, axes, positional, geometry.columns, mask, positions)
        needed = rewriter.needs_positions(plan)
        rewriter.apply(plan)
        if needed and not given:
            graph.inputs.append(positions)
            result.count("position inputs added")
        declare_operators(graph, ["AttentionMask"])
        share = flop_share(graph, axes, placement, geometry.rows or 1, geometry.columns)
        names = [*geometry.names, *([POSITION_IDS] if needed and not given else [])]
        header(graph).metadata[METADATA_KEY] = json.dumps(
            {
                "style": "attention_mask",
                "rows": geometry.rows,
                "columns": geometry.columns,
                "max_valid_num": (geometry.rows or 1) * geometry.columns,
                "segment_max_size": [geometry.columns],
                "unpack_info": "",
                "dynamic_inputs": names,
                "mask": mask.name,
                "position_ids": POSITION_IDS if given or needed else "",
                "outputs": {tensor.name: "packed" for tensor in graph.outputs},
                "shape_agnostic": False,
                "packed_flops": share.total,
                "total_flops": share.total,
            },
            sort_keys=True,
        )
        graph.cleanup(remove_unused_graph_inputs=False).toposort(mode="nodes")
        result.count("attentions masked", len(plan.masked))
        result.details["packed share of FLOPs"] = 1.0
        return result


def _the_mask(graph: gs.Graph, geometry: Geometry, masks: Sequence[str]) -> gs.Variable:
    if not masks:
        raise PackingError(
            "no input of this model serves as an attention mask alone, so nothing can number the samples of a row; "
            f"export the model with its attention mask as an input (inputs now: {', '.join(geometry.names)})"
        )
    if len(masks) > 1:
        raise PackingError(
            f"inputs {', '.join(map(repr, masks))} both mask attention; only one can number the samples of a row"
        )
    found: Any = next(tensor for tensor in graph.inputs if tensor.name == masks[0])
    return found

"""The pass ``packed_transformer``: samples laid end to end, unpacked only where tokens meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult
from passes.errors import PackingError
from passes.graph_io import copy_graph
from passes.ops import DOMAIN, MINIMUM_OPSET, declare_operators
from passes.packed_model import POSITION_IDS, UNPACK_INFO, PackedModel, is_packed
from passes.packing.across_rows.crossings import Crossings
from passes.packing.across_rows.head_pattern import report_head
from passes.packing.across_rows.lengths import count_lengths
from passes.packing.across_rows.rewrite import rewrite, sample_token_axes
from passes.packing.across_rows.unpack_reasons import explain_unpacks
from passes.packing.isolation.company import ANY, NONE, SAME_LENGTH, Isolation, isolate
from passes.packing.isolation.quantised_scores import hide_quantised_padding
from passes.packing.isolation.sharpen import Sharpener
from passes.packing.opening.axis_mapping import map_axes
from passes.packing.opening.geometry import Geometry, GeometryFinder
from passes.packing.opening.length_bound import LengthBound
from passes.packing.opening.longest import read_longest_from_tokens
from passes.packing.opening.pack_args import PackArgs, parse_pack_args
from passes.packing.opening.pair_inputs import refuse_segments
from passes.packing.opening.room import least_room
from passes.packing.tokens.flops import FlopShare, flop_share, node_flops
from passes.packing.tokens.masks import find_masks
from passes.packing.tokens.memory import padded_memory
from passes.packing.tokens.sides import PlacedGraph, place
from passes.precision.dynamic_products import refuse_shared_scales
from passes.precision.int8_kinds import QUANTISED, QUANTISED_OPS, product_kinds
from passes.refusal import MOST_NAMED, explain
from passes.registry import register
from passes.shapes.input_shapes import InputShapes
from poprt_format.packing import ACROSS_ROWS

#: What the nodes that are not proved to hide padding or neighbours mean for the runner.
_CONSEQUENCES = {
    ANY: "",
    SAME_LENGTH: "a run takes samples of one length only",
    NONE: "every sample runs by itself, and packing saves nothing",
}


@register("packed_transformer")
class PackedTransformer(GraphPass):
    """Packs an encoder by its axes, whatever its family (docs/architecture.md, "Packing").

    Matches every node that treats each (batch, seq) place alone and runs it on tokens laid end to end. Puts ``Unpack``
    on each edge to a node that does not, ``Repack`` on each edge back. Adds the input ``unpack_info``, int32
    [max_valid_num, segments]; each output becomes one row a sample. Does nothing to a model that is packed already.
    Nodes inside subgraphs run unpacked.

    Args:
        pack_args: ``max_valid_num``, ``segment_max_size`` and optional keys (:mod:`passes.packing.opening.pack_args`).
        input_shape: shapes that the inputs will be fixed to afterwards, by name or as ``const_input_shape`` gets them.
    """

    def __init__(
        self,
        pack_args: PackArgs | Mapping[str, Any] | None = None,
        input_shape: InputShapes | Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self._args = parse_pack_args(pack_args or {})
        self._shapes = InputShapes.of(input_shape)
        self._finder = GeometryFinder(self._shapes, self._args.dynamic_inputs)

    def apply(self, graph: gs.Graph) -> PassResult:
        """Pack the graph; see the class."""
        result = PassResult()
        if is_packed(graph):
            result.refuse("graph", "the model is packed already")
            return result
        refuse_shared_scales(graph)
        if graph.opset < MINIMUM_OPSET:
            raise PackingError(
                f"packing needs opset {MINIMUM_OPSET} or newer, the model has {graph.opset}; "
                f"run convert_opset before it, or give --convert_version {MINIMUM_OPSET}"
            )
        graph.toposort(mode="nodes")
        geometry = self._finder.find(graph)
        refuse_segments(geometry.pairs, self._args.segment_max_size)
        untouched = graph if geometry.shape_agnostic else copy_graph(graph)
        counted = read_longest_from_tokens(graph, geometry.samples, geometry.inputs[0])
        axes, unbaked = map_axes(graph, geometry, LengthBound(self._args.width))
        unbaked.check(self._args, lambda args: PackedTransformer(args, self._shapes).apply(untouched))
        self._args.check_room(least_room(graph, axes))
        if geometry.rows and geometry.columns:
            self._args.check_capacity(geometry.rows, geometry.columns)
        placed = place(graph, axes)
        share = self._checked_share(placed, geometry)
        report_head(placed, self._args.head_pattern)
        masks = find_masks(placed, geometry.narrow)
        lengths = count_lengths(placed, geometry, [*masks.explicit, *masks.derived], counted)
        geometry = lengths.geometry
        hidden = hide_quantised_padding(placed, [*masks.explicit, *masks.derived], geometry.inputs[0])
        isolation = isolate(placed, [*masks.explicit, *lengths.masks], self._args.width)
        sharpened = Sharpener(placed, isolation.facts, geometry.inputs[0]).run()
        agnostic = not unbaked.refusals
        neighbours = self._neighbours(isolation, agnostic, result)
        anchor = next((t for t in geometry.inputs if t.name in masks.explicit), geometry.inputs[0])
        info = gs.Variable(UNPACK_INFO, np.int32, [self._args.max_valid_num, len(self._args.segment_max_size)])
        original_ops = len(graph.nodes)
        crossings = Crossings(graph, axes, self._args, info, anchor)
        result.refusals.extend(explain_unpacks(placed))
        memory = padded_memory(placed, self._args.width)
        token_axes = {name: tuple(own) for name, own in sample_token_axes(graph, axes).items()}
        outputs = rewrite(placed, crossings, self._args, masks.explicit, geometry)
        graph.inputs.append(info)
        declare_operators(graph, ["Repack", "Unpack"])
        record = self._record(geometry, [*masks.explicit, *masks.derived], agnostic, share)
        record = replace(record, cell_bytes=memory.cell_bytes, pair_bytes=memory.pair_bytes)
        isolated = replace(record, neighbours=neighbours, isolation=isolation.explain())
        replace(isolated, outputs=outputs, token_axes=token_axes).write(graph)
        graph.cleanup(remove_unused_graph_inputs=False).toposort(mode="nodes")
        self.logger.debug("packed %d of %d nodes", len(placed.placement.packed), original_ops)
        result.count("Unpacks", _count(graph, "Unpack"))
        result.count("Repacks", _count(graph, "Repack"))
        result.count("masks strengthened", sharpened + hidden)
        result.count("lengths computed", int(bool(lengths.name)))
        result.details["packed share of FLOPs"] = round(share.share, 4)
        return result

    def _record(self, geometry: Geometry, masks: Sequence[str], agnostic: bool, share: FlopShare) -> PackedModel:
        """What holds of the pack whatever became of the graph."""
        names = geometry.names
        return PackedModel(
            layout=ACROSS_ROWS,
            rows=geometry.rows,
            columns=geometry.columns,
            max_valid_num=self._args.max_valid_num,
            segment_max_size=self._args.segment_max_size,
            unpack_info=UNPACK_INFO,
            dynamic_inputs=tuple(names),
            mask=masks[0] if masks else "",
            position_ids=POSITION_IDS if POSITION_IDS in names else "",
            sample_inputs=tuple(tensor.name for tensor in geometry.samples),
            run_inputs=tuple(tensor.name for tensor in geometry.runs),
            pair_inputs={pair.tensor.name: pair.axes for pair in geometry.pairs},
            outputs={},
            shape_agnostic=agnostic,
            packed_flops=share.packed,
            total_flops=share.total,
        )

    def _neighbours(self, isolation: Isolation, agnostic: bool, result: PassResult) -> str:
        """Which samples may share a run, noted with the reasons."""
        ragged = agnostic and len(self._args.segment_max_size) == 1
        neighbours = isolation.neighbours
        if neighbours == SAME_LENGTH and not ragged:
            neighbours, consequence = ANY, f"every run pads to {self._args.width}"
        else:
            consequence = _CONSEQUENCES[neighbours]
        for refusal in isolation.refusals:
            result.refusals.append(replace(refusal, reason=f"{refusal.reason}, so {consequence}"))
        return neighbours

    def _checked_share(self, placed: PlacedGraph, geometry: Geometry) -> FlopShare:
        share = flop_share(placed, geometry.rows or 1, geometry.columns or self._args.width)
        if share.packed:
            return share
        reasons = placed.placement.reasons
        refusals = [
            reasons[id(node)]
            for node in placed.graph.nodes
            if id(node) in reasons and (node.op in QUANTISED_OPS or node_flops(node, placed.axes) != 0)
        ][:MOST_NAMED]
        quantised = product_kinds(placed.graph).get(QUANTISED, 0)
        if quantised:
            raise PackingError(
                f"{quantised} matrix products of this model are already quantised, and none of the products packs: "
                f"{explain(refusals) or 'what they are is not known'}; convert the float32 model with --precision int8",
                refusals,
            )
        raise PackingError(
            "no matrix product of this model treats every token alone, so packing would save nothing: "
            + (explain(refusals) or "no matrix product with a known shape was found"),
            refusals,
        )


def _count(graph: gs.Graph, op: str) -> int:
    return sum(node.op == op and node.domain == DOMAIN for node in graph.nodes)

"""The pass ``packed_transformer``: samples laid end to end, unpacked only where tokens meet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult
from passes.errors import PackingError
from passes.graph_io import copy_graph
from passes.ops import MINIMUM_OPSET
from passes.packed_model import PackedModel, is_packed
from passes.packing.across_rows.counted_places import count_places
from passes.packing.across_rows.cutting import cut
from passes.packing.across_rows.front_end import FrontEnd, find_front_end
from passes.packing.across_rows.head_pattern import report_head
from passes.packing.across_rows.joining import join
from passes.packing.across_rows.part import Part, refuse_without_products
from passes.packing.opening.axis_mapping import map_axes
from passes.packing.opening.geometry import Geometry, GeometryFinder
from passes.packing.opening.length_bound import LengthBound
from passes.packing.opening.longest import read_longest_from_tokens
from passes.packing.opening.pack_args import PackArgs, parse_pack_args
from passes.packing.opening.pair_inputs import refuse_before_encoder, refuse_segments
from passes.packing.opening.room import least_room
from passes.packing.tokens.axes import AxisMap
from passes.packing.tokens.flops import flop_share
from passes.packing.tokens.sides import place
from passes.packing.tokens.subsampling import Subsampling
from passes.precision.dynamic_products import refuse_shared_scales
from passes.registry import register
from passes.shapes.input_shapes import InputShapes
from poprt_format.packing import NEIGHBOURS


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
        front_end = self._front_end(graph, axes, geometry, result)
        part = Part(graph, axes, geometry, self._args, agnostic=not unbaked.refusals)
        if front_end is not None:
            refuse_before_encoder(geometry.pairs)
            behind = self._apply_behind(front_end, part, counted, result)
            if behind is not None:
                return behind
        refuse_without_products(part.placed, part.share)
        report_head(part.placed, self._args.head_pattern)
        part.pack(counted, result).write(graph)
        result.details["packed share of FLOPs"] = round(part.share.share, 4)
        return result

    def _front_end(self, graph: gs.Graph, axes: AxisMap, geometry: Geometry, result: PassResult) -> FrontEnd | None:
        """What stands before an encoder of other places than the tokens; None where there is no such thing.

        Where the two cannot be told apart, a model of which something packs without is packed so; ``result`` says why.
        """
        try:
            front_end = find_front_end(graph, axes, geometry)
            if front_end is not None and count_places(graph, axes, geometry, front_end):
                front_end = find_front_end(graph, axes, geometry)
        except PackingError as error:
            if not flop_share(place(graph, axes), 1, self._args.width).packed:
                raise
            _packed_by_tokens(result, error)
            return None
        return front_end

    def _apply_behind(
        self, front_end: FrontEnd, whole: Part, counted: Sequence[str], alone: PassResult
    ) -> PassResult | None:
        """Pack the encoder behind a front end that changes the length: each by itself, then one behind the other.

        None where the encoder does not pack by itself and something of the whole does; the graph is as it was, and
        ``alone`` says why.
        """
        graph, result = whole.graph, PassResult()
        shared = {name for name, tensor in graph.tensors().items() if isinstance(tensor, gs.Constant)}
        try:
            args = self._args.behind(front_end.subsampling, whole.agnostic)
            front, encoder = cut(graph, whole.axes, front_end)
            inner = PackedTransformer(args).apply(encoder)
        except PackingError as error:
            if not whole.share.packed:
                raise
            _packed_by_tokens(alone, error)
            return None
        behind = PackedModel.read(encoder)
        assert behind is not None
        geometry = whole.geometry.within(front)
        part = Part(front, whole.axes, geometry, self._args, agnostic=True, handed=front_end.subsampling)
        record = part.pack(counted, result)
        join(front, encoder, args, front_end.subsampling, shared)
        _move(front, graph)
        together = _and_behind(record, behind, front_end.subsampling)
        together.write(graph)
        for what, number in inner.counts.items():
            result.count(what, number)
        result.refusals.extend(inner.refusals)
        result.details["packed share of FLOPs"] = round(together.packed_flops / together.total_flops, 4)
        return result


def _packed_by_tokens(result: PassResult, error: PackingError) -> None:
    result.refuse("encoder", f"it is packed by the places of the tokens, which are not its own: {error}")


def _move(source: gs.Graph, target: gs.Graph) -> None:
    """Let ``target`` be what ``source`` is."""
    target.nodes, target.inputs, target.outputs = source.nodes, source.inputs, source.outputs
    target.functions, target.import_domains = source.functions, source.import_domains
    target.cleanup(remove_unused_graph_inputs=False).toposort(mode="nodes")


def _and_behind(front: PackedModel, encoder: PackedModel, subsampling: Subsampling) -> PackedModel:
    """What holds of a front end and the encoder behind it together."""
    stride = subsampling.stride
    # The encoder's work was counted for one sample, that of the front end for all declared places.
    samples = (front.rows or 1) * (front.columns or front.width) / front.width
    return replace(
        front,
        outputs=encoder.outputs,
        token_axes=encoder.token_axes,
        subsampling=subsampling.receptive_field,
        neighbours=max(front.neighbours, encoder.neighbours, key=NEIGHBOURS.index),
        isolation="; ".join(filter(None, [front.isolation, encoder.isolation])),
        cell_bytes=front.cell_bytes + math.ceil(encoder.cell_bytes / stride),
        pair_bytes=front.pair_bytes * stride**2 + encoder.pair_bytes,  # of places
        packed_flops=front.packed_flops + round(samples * encoder.packed_flops),
        total_flops=front.total_flops + round(samples * encoder.total_flops),
    )

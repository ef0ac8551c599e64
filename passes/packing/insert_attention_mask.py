"""The pass ``insert_attention_mask``: several samples share a row, and attention stays within each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult
from passes.errors import PackingError
from passes.graph_io import copy_graph
from passes.ops import MINIMUM_OPSET, declare_operators
from passes.packed_model import POSITION_IDS, UNPACK_INFO, PackedModel, is_packed
from passes.packing.across_rows.head_pattern import report_head
from passes.packing.across_rows.rewrite import sample_token_axes
from passes.packing.isolation.company import isolate
from passes.packing.isolation.values import ORDINARY, ZERO, hull
from passes.packing.opening.axis_mapping import map_axes
from passes.packing.opening.geometry import Geometry, GeometryFinder
from passes.packing.opening.length_bound import LengthBound
from passes.packing.opening.pack_args import PackArgs, parse_pack_args
from passes.packing.opening.room import least_room
from passes.packing.tokens.axes import AxisMap
from passes.packing.tokens.flops import FlopShare, flop_share
from passes.packing.tokens.masks import binarise, find_masks
from passes.packing.tokens.positional import Positional
from passes.packing.tokens.sides import PlacedGraph, Placement, place
from passes.packing.within_rows.no_attention import no_attention
from passes.packing.within_rows.other_inputs import (
    refuse_front_end,
    refuse_rows_and_pairs,
    values_of_the_run,
)
from passes.packing.within_rows.padding_masks import drop_padding_masks
from passes.packing.within_rows.row_analysis import RowAnalysis, RowPlan, check_all_kept_apart
from passes.packing.within_rows.row_rewrite import RowRewriter
from passes.packing.within_rows.row_rules import ROW_RULES
from passes.packing.within_rows.unpacked_head import UnpackedHead
from passes.precision.dynamic_products import refuse_shared_scales
from passes.refusal import Cause, Refusal, because, explain
from passes.registry import register
from passes.shapes.input_shapes import InputShapes
from passes.shapes.shape_inference import Extent
from poprt_format.packing import WITHIN_ROWS


@register("insert_attention_mask")
class InsertAttentionMask(GraphPass):
    """Lets samples share a row: the layout within rows (docs/architecture.md).

    Gives the scores that the operator AttentionMask forbids the lowest number, before every softmax over pairs of
    places. The mask input numbers the samples of a row from 1 and is 0 where there is none; a token that its own sample
    masks has the number with a minus. What the model computed from the mask before sees 0 and 1. Positions
    are read from the input ``position_ids``, which is added where the model has none and needs one. Outputs keep the
    packed layout. Refuses, by name, what cannot be shown to keep samples apart. Does nothing to a packed model.

    Args:
        input_shape: shapes that the inputs will be fixed to afterwards, by name or as ``const_input_shape`` gets them.
            The row length must be known.
        pack_args: ``max_valid_num`` and ``segment_max_size``. Where given, a head that needs one row a sample (pooling)
            is fed through one final Unpack, and the input ``unpack_info`` is added: int32 [max_valid_num, 1], the
            distance from each sample's start to the next one's, the last of a row counted to the row's end.
    """

    def __init__(
        self,
        input_shape: InputShapes | Mapping[str, Sequence[int]] | None = None,
        pack_args: PackArgs | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._args = parse_pack_args(pack_args) if pack_args else None
        dynamic = self._args.dynamic_inputs if self._args else ()
        self._shapes = InputShapes.of(input_shape)
        self._finder = GeometryFinder(self._shapes, dynamic)

    def apply(self, graph: gs.Graph) -> PassResult:
        """Insert the masks; see the class."""
        result = PassResult()
        if is_packed(graph):
            result.refuse("graph", "the model is packed already")
            return result
        geometry = self._checked_geometry(graph)
        untouched = graph if geometry.shape_agnostic else copy_graph(graph)
        axes, unbaked = map_axes(graph, geometry, self._bound(geometry))
        refuse_front_end(graph, axes)
        if not any("mask" in name for name in geometry.names):  # else what was not opened may hide it
            _the_mask(graph, geometry, find_masks(place(graph, axes), geometry.narrow or geometry.inputs).explicit)
        if self._args:
            unbaked.check(self._args, lambda args: InsertAttentionMask(self._shapes, args).apply(untouched))
            self._args.check_room(least_room(graph, axes))
            self._args.check_samples(geometry.rows, geometry.columns)
        placed = place(graph, axes)
        report_head(placed, self._args.head_pattern if self._args else ())
        mask = _the_mask(graph, geometry, find_masks(placed, geometry.narrow or geometry.inputs).explicit)
        drop_padding_masks(graph, axes, mask, geometry.columns)
        positional = Positional(graph, axes)
        refused, plan = self._analysed(graph, axes, positional, geometry, mask)
        in_rows = PlacedGraph(graph, axes, Placement({id(node) for node in graph.nodes if id(node) not in refused}))
        share = flop_share(in_rows, geometry.rows or 1, geometry.columns)
        of_run = values_of_the_run(graph, axes, geometry.runs)
        head = self._head(in_rows, refused, mask, geometry.columns, of_run)
        token_axes = sample_token_axes(graph, axes)
        outputs = head.cut() if head else {tensor.name: "packed" for tensor in graph.outputs}
        _refuse_pairs([name for name, kind in outputs.items() if kind == "packed"], token_axes)
        binarise(graph, mask, numbered=True)
        positions = _positions(geometry, mask)
        rewriter = RowRewriter(graph, axes, positional, geometry.columns, mask, positions)
        if rewriter.needs_positions(plan) and positions not in graph.inputs:
            graph.inputs.append(positions)
            result.count("position inputs added")
        rewriter.apply(plan)
        declare_operators(graph, ["AttentionMask", *(["Unpack"] if head else [])])
        for tensor in graph.outputs:
            if outputs[tensor.name] == "packed" and tensor.shape is not None:
                tensor.shape = _in_rows(geometry, mask, tensor.shape)
        token_axes = {name: own for name, own in token_axes.items() if outputs[name] == "sample"}
        self._record(graph, geometry, mask, outputs, share, token_axes).write(graph)
        graph.cleanup(remove_unused_graph_inputs=False).toposort(mode="nodes")
        result.count("attentions masked", len(plan.masked))
        result.count("Unpacks", head.count if head else 0)
        result.details["packed share of FLOPs"] = round(share.share, 4)
        return result

    def _bound(self, geometry: Geometry) -> LengthBound:
        """A row is one sequence to the model, whatever samples share it; the head sees one sample."""
        return LengthBound(max(geometry.columns, self._args.width if self._args else 0))

    def _analysed(
        self, graph: gs.Graph, axes: AxisMap, positional: Positional, geometry: Geometry, mask: gs.Variable
    ) -> tuple[dict[int, Refusal], RowPlan]:
        """The nodes that cannot stay in rows of several samples, and what is done to the others."""
        of_run = values_of_the_run(graph, axes, geometry.runs)
        analysis = RowAnalysis(graph, axes, positional, geometry.columns, ROW_RULES, of_run)
        refused, plan = analysis.run(), analysis.plan
        if self._args is None:
            check_all_kept_apart(graph, refused)
        _refuse_mixed_rows(PlacedGraph(graph, axes, Placement()), mask)
        if not plan.masked:
            raise no_attention(graph, axes, refused)
        return refused, plan

    def _head(
        self,
        in_rows: PlacedGraph,
        refused: dict[int, Refusal],
        mask: gs.Variable,
        columns: int,
        of_run: frozenset[str],
    ) -> UnpackedHead | None:
        """The part that gets a row a sample; none where no ``pack_args`` are given."""
        if not self._args:
            return None
        _keep_padding_out(in_rows, refused, mask, self._args)
        return UnpackedHead(in_rows.graph, in_rows.axes, refused, mask, self._args, columns, of_run)

    def _checked_geometry(self, graph: gs.Graph) -> Geometry:
        refuse_shared_scales(graph)
        if graph.opset < MINIMUM_OPSET:
            raise PackingError(
                f"this pass needs opset {MINIMUM_OPSET} or newer, the model has {graph.opset}; "
                "run convert_opset before it"
            )
        graph.toposort(mode="nodes")
        geometry = self._finder.find(graph)
        refuse_rows_and_pairs(geometry)
        if not geometry.columns:
            raise PackingError(
                "samples that share a row need rows of known length; give --input_shape, for example "
                f"--input_shape {geometry.names[0]}=16,256"
            )
        if self._args and len(self._args.segment_max_size) > 1:
            raise PackingError("samples that share a row have one segment each; give one segment_max_size")
        return geometry

    def _record(
        self,
        graph: gs.Graph,
        geometry: Geometry,
        mask: gs.Variable,
        outputs: dict[str, str],
        share: FlopShare,
        token_axes: dict[str, list[int]],
    ) -> PackedModel:
        names, runs = [tensor.name for tensor in graph.inputs], [tensor.name for tensor in geometry.runs]
        args = self._args or PackArgs((geometry.rows or 1) * geometry.columns, (geometry.columns,))
        return PackedModel(
            layout=WITHIN_ROWS,
            rows=geometry.rows,
            columns=geometry.columns,
            max_valid_num=args.max_valid_num,
            segment_max_size=args.segment_max_size,
            unpack_info=UNPACK_INFO if UNPACK_INFO in names else "",
            dynamic_inputs=tuple(name for name in names if name not in (UNPACK_INFO, *runs)),
            run_inputs=tuple(runs),
            mask=mask.name,
            position_ids=POSITION_IDS if POSITION_IDS in names else "",
            outputs=outputs,
            token_axes={name: tuple(own) for name, own in token_axes.items()},
            shape_agnostic=False,
            packed_flops=share.packed,
            total_flops=share.total,
        )


def _keep_padding_out(in_rows: PlacedGraph, refused: dict[int, Refusal], mask: gs.Variable, args: PackArgs) -> None:
    """Refuse a head that shows what stands behind a sample; move to it what applies the mask to what it reads.

    Behind a sample's tokens its row of the head holds what the rest of the layout's row held, then zeros.

    Raises:
        PackingError: padding shows in what the head gives, or is not proved to stay hidden.
    """
    inputs = {tensor.name for tensor in in_rows.graph.inputs}
    behind = hull([ORDINARY, ZERO])
    isolation = isolate(in_rows, [mask.name], args.width, lambda name: ZERO if name in inputs else behind)
    if isolation.refusals:
        raise PackingError(
            f"samples cannot share a row of this model, for padding may show in its head: {isolation.explain()}. "
            "Lay them end to end instead: leave out insert_attention_mask, and give --pack_args",
            isolation.refusals,
        )
    moved = [node for node in in_rows.graph.nodes if not in_rows.runs_packed(node) and id(node) not in refused]
    _copy_to_head(in_rows.graph, in_rows.axes, moved, refused)


def _copy_to_head(graph: gs.Graph, axes: AxisMap, nodes: Sequence[gs.Node], refused: dict[int, Refusal]) -> None:
    """Let the head apply the mask itself, by copies of ``nodes``; the rows may need them too."""
    copies: dict[int, gs.Tensor] = {}
    for node in nodes:
        outputs = [_copy_of(tensor, axes) for tensor in node.outputs]
        copies.update({id(old): new for old, new in zip(node.outputs, outputs, strict=True)})
        inputs = [copies.get(id(tensor), tensor) for tensor in node.inputs]
        copy = gs.Node(node.op, f"{node.name}_of_head", dict(node.attrs), inputs, outputs, domain=node.domain)
        graph.nodes.append(copy)
        refused[id(copy)] = because("it applies the mask to what the head reads").at(copy)
    for node in graph.nodes:
        if id(node) in refused:
            for index, tensor in enumerate(node.inputs):
                if id(tensor) in copies:
                    node.inputs[index] = copies[id(tensor)]
    graph.toposort(mode="nodes")


def _copy_of(tensor: gs.Tensor, axes: AxisMap) -> gs.Variable:
    copy = gs.Variable(f"{tensor.name}_of_head", tensor.dtype)
    axes.record(copy, axes.shape(tensor) or ())
    if tensor.name in axes.shapes.dtypes:
        axes.shapes.dtypes[copy.name] = axes.shapes.dtypes[tensor.name]
    return copy


def _refuse_mixed_rows(unpacked: PlacedGraph, mask: gs.Variable) -> None:
    """Refuse what looks along the batch: the rows of a run would see each other, as samples of a batch do."""
    mixing = [refusal for refusal in isolate(unpacked, [mask.name], 1).refusals if refusal.cause is Cause.BATCH]
    if mixing:
        raise PackingError(f"samples cannot share a row of this model: {explain(mixing)}", mixing)


def _refuse_pairs(packed_outputs: Sequence[str], token_axes: Mapping[str, list[int]]) -> None:
    """Refuse outputs in the rows' layout that hold pairs of places: a sample's row would tell of its neighbours."""
    pairs = [name for name in packed_outputs if len(token_axes.get(name, ())) > 1]
    if pairs:
        raise PackingError(
            f"output {pairs[0]!r} relates all places of a row, also those of other samples; remove it with "
            "--remove_outputs, or lay the samples end to end: leave out insert_attention_mask, and give --pack_args"
        )


def _positions(geometry: Geometry, mask: gs.Variable) -> gs.Variable:
    """The input that places each token in its sample; a new one where the model has none."""
    positions = next((tensor for tensor in geometry.inputs if tensor.name == POSITION_IDS), None)
    if positions is not None:
        return positions
    return gs.Variable(POSITION_IDS, np.int64, _in_rows(geometry, mask, mask.shape))


def _in_rows(geometry: Geometry, mask: gs.Variable, shape: Sequence[Extent]) -> list[Extent]:
    """``shape``, which starts with the extents of ``mask``, with the numbers that these will be fixed to.

    A named extent is fixed by its name, later. One without a name is fixed in the inputs that the user named, and
    nowhere else.
    """
    numbers = (geometry.rows, geometry.columns)
    pairs = zip(shape, mask.shape, numbers, strict=False)
    lead = [number or None if named is None else extent for extent, named, number in pairs]
    return [*lead, *shape[2:]]


def _the_mask(graph: gs.Graph, geometry: Geometry, masks: Sequence[str]) -> gs.Variable:
    if not masks:
        raise PackingError(
            "no input of this model serves as an attention mask alone, so nothing can number the samples of a row; "
            f"export the model with its attention mask as an input (inputs now: {', '.join(geometry.names)})"
        )
    if len(masks) > 1:
        raise PackingError(
            f"inputs {', '.join(map(repr, masks))} both mask attention; only one can number the samples of a row. Lay "
            "the samples end to end: leave out insert_attention_mask, and give --pack_args"
        )
    mask: Any = next(tensor for tensor in graph.inputs if tensor.name == masks[0])
    return mask

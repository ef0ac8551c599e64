"""The pass ``packed_transformer``: samples laid end to end, unpacked only where tokens meet."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, node_label
from passes.errors import PackingError
from passes.graph_io import header
from passes.ops import DOMAIN, MINIMUM_OPSET, function_body
from passes.packing.axes import BATCH, SEQ, AxisMap
from passes.packing.crossings import Crossings
from passes.packing.flops import FlopShare, flop_share, node_flops
from passes.packing.mask import find_masks
from passes.packing.metadata import METADATA_KEY, UNPACK_INFO
from passes.packing.pack_args import PackArgs, parse_pack_args
from passes.packing.placement import Placement, place
from passes.packing.rewrite import rewrite
from passes.registry import register
from passes.shapes.symbolic import infer_symbolic_shapes


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The packed inputs.

    Attributes:
        inputs: the inputs that hold one value a token, [rows, columns, ...].
        rows, columns: their declared extents; 0 where nothing declares them.
    """

    inputs: tuple[gs.Variable, ...]
    rows: int
    columns: int

    @property
    def shape_agnostic(self) -> bool:
        """Whether the model came with variable extents, so that none of them can be baked into its constants."""
        return not any(_fixed(extent) for tensor in self.inputs for extent in tensor.shape[:2])


@register("packed_transformer")
class PackedTransformer(GraphPass):
    """Packs an encoder by its axes, whatever its family (docs/architecture.md, "Packing by axes").

    Matches every node that treats each (batch, seq) place alone and runs it on tokens laid end to end. Puts ``Unpack``
    on each edge to a node that does not, ``Repack`` on each edge back. Adds the input ``unpack_info``, int32
    [max_valid_num, segments]; each output becomes one row a sample. Does nothing to a model that is packed already.
    Nodes inside subgraphs run unpacked.

    Args:
        pack_args: ``max_valid_num``, ``segment_max_size`` and optional keys (:mod:`passes.packing.pack_args`).
        input_shape: shapes that the inputs will be fixed to, by name.
        batch_size, batch_axis: as for ``const_input_shape``.
    """

    def __init__(
        self,
        pack_args: Mapping[str, Any] | None = None,
        input_shape: Mapping[str, Sequence[int]] | None = None,
        batch_size: int | None = None,
        batch_axis: int | None = None,
    ) -> None:
        super().__init__()
        self._args = parse_pack_args(pack_args or {})
        self._input_shape = dict(input_shape or {})
        self._batch_size = batch_size
        self._batch_axis = batch_axis or 0

    def apply(self, graph: gs.Graph) -> PassResult:
        result = PassResult()
        if METADATA_KEY in header(graph).metadata:
            result.refuse("graph", "the model is packed already")
            return result
        if graph.opset < MINIMUM_OPSET:
            raise PackingError(
                f"packing needs opset {MINIMUM_OPSET} or newer, the model has {graph.opset}; "
                f"run convert_opset before it, or give --convert_version {MINIMUM_OPSET}"
            )
        graph.toposort(mode="nodes")
        geometry = self._geometry(graph)
        if geometry.rows and geometry.columns:
            self._args.check_capacity(geometry.rows, geometry.columns)
        axes = AxisMap(graph, infer_symbolic_shapes(graph, _assumed(geometry)))
        placement = place(graph, axes, graph.opset)
        share = self._checked_share(graph, axes, placement, geometry)
        masks = find_masks(graph, geometry.inputs, axes, placement)
        if not masks.explicit and not masks.derived:
            raise PackingError(
                "no input of this model masks padding, so samples of different length cannot share a run; export the "
                f"model with its attention mask as an input (inputs now: {', '.join(t.name for t in graph.inputs)})"
            )
        agnostic = geometry.shape_agnostic
        anchor = next((t for t in geometry.inputs if t.name in masks.explicit), geometry.inputs[0])
        info = gs.Variable(UNPACK_INFO, np.int32, [self._args.max_valid_num, len(self._args.segment_max_size)])
        original_ops = len(graph.nodes)
        crossings = Crossings(graph, axes, self._args, info, anchor)
        _report(result, graph, axes, placement)
        outputs = rewrite(graph, axes, placement, crossings, self._args, masks.explicit)
        graph.inputs.append(info)
        graph.functions.extend(_functions(graph))
        _write_metadata(graph, self._args, geometry, masks.explicit + masks.derived, outputs, share, agnostic)
        graph.cleanup(remove_unused_graph_inputs=False).toposort(mode="nodes")
        self.logger.debug("packed %d of %d nodes", len(placement.packed), original_ops)
        result.count("Unpacks", _count(graph, "Unpack"))
        result.count("Repacks", _count(graph, "Repack"))
        result.details["packed share of FLOPs"] = round(share.share, 4)
        return result

    def _geometry(self, graph: gs.Graph) -> Geometry:
        candidates = [tensor for tensor in graph.inputs if tensor.shape is not None and len(tensor.shape) >= 2]
        first = self._first_dynamic(graph, candidates)
        rows, columns = self._declared(first)
        shared = [t for t in candidates if self._declared(t) == (rows, columns) and _same_symbols(t, first, self._input_shape)]
        left_out = [tensor.name for tensor in graph.inputs if tensor not in shared]
        if left_out:
            raise PackingError(
                f"inputs {', '.join(map(repr, left_out))} do not have the axes [batch, sequence] of {first.name!r} "
                f"{first.shape}; packing knows one sequence: remove them, or fix them to constants before the conversion"
            )
        return Geometry(tuple(shared), rows, columns)

    def _first_dynamic(self, graph: gs.Graph, candidates: Sequence[gs.Variable]) -> gs.Variable:
        for name in self._args.dynamic_inputs:
            found = next((tensor for tensor in candidates if tensor.name == name), None)
            if found is None:
                names = ", ".join(tensor.name for tensor in graph.inputs)
                raise PackingError(f"pack_args dynamic_groups names {name!r}, which is no input [batch, sequence]; inputs: {names}")
            return found
        for tensor in candidates:
            if np.issubdtype(tensor.dtype, np.integer) and len(tensor.shape) == 2:
                return tensor
        if candidates:
            return candidates[0]
        shown = ", ".join(f"{tensor.name} {tensor.shape}" for tensor in graph.inputs) or "none"
        raise PackingError(f"no input has the axes [batch, sequence]; inputs: {shown}")

    def _declared(self, tensor: gs.Variable) -> tuple[int, int]:
        """Rows and columns that the user or the model declares; 0 where neither does."""
        shape = list(self._input_shape.get(tensor.name, tensor.shape))
        if self._batch_size and self._batch_axis < len(shape) and not _fixed(shape[self._batch_axis]):
            shape[self._batch_axis] = self._batch_size
        return (int(shape[0]) if _fixed(shape[0]) else 0, int(shape[1]) if _fixed(shape[1]) else 0)

    def _checked_share(self, graph: gs.Graph, axes: AxisMap, placement: Placement, geometry: Geometry) -> FlopShare:
        share = flop_share(graph, axes, placement, geometry.rows or 1, geometry.columns or self._args.width)
        if share.packed:
            return share
        why = [
            f"{node_label(node)}: {placement.reasons[id(node)]}"
            for node in graph.nodes
            if id(node) in placement.reasons and node_flops(node, axes) != 0
        ]
        raise PackingError(
            "no matrix product of this model treats every token alone, so packing would save nothing: "
            + ("; ".join(why[:3]) or "no matrix product with a known shape was found")
        )


def _same_symbols(tensor: gs.Variable, first: gs.Variable, declared: Mapping[str, Sequence[int]]) -> bool:
    """Two inputs with named axes must name the same sequence, unless the user gave both the same shape."""
    if tensor.name in declared and first.name in declared:
        return True
    ours, theirs = tensor.shape[1], first.shape[1]
    return not (isinstance(ours, str) and isinstance(theirs, str)) or ours == theirs


def _fixed(extent: Any) -> bool:
    return isinstance(extent, (int, np.integer)) and extent > 0


def _assumed(geometry: Geometry) -> dict[str, list[int | str]]:
    return {t.name: [str(BATCH), str(SEQ), *t.shape[2:]] for t in geometry.inputs}


def _count(graph: gs.Graph, op: str) -> int:
    return sum(node.op == op and node.domain == DOMAIN for node in graph.nodes)


def _functions(graph: gs.Graph) -> list[gs.Function]:
    from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter

    present = {(function.domain, function.name) for function in graph.functions}
    wanted = [op for op in ("Repack", "Unpack") if (DOMAIN, op) not in present]
    return [OnnxImporter.import_function(function_body(op, graph.opset)) for op in wanted]


def _report(result: PassResult, graph: gs.Graph, axes: AxisMap, placement: Placement) -> None:
    """One refusal for each node that mixes tokens and reads what the packed side makes."""
    for node in graph.nodes:
        reason = placement.reasons.get(id(node))
        if reason is None or node.op == "Shape":
            continue
        from_packed = [t for t in node.inputs if axes.axes(t) and t.inputs and placement.runs_packed(t.inputs[0])]
        if from_packed:
            result.refuse(node, reason)


def _write_metadata(
    graph: gs.Graph,
    args: PackArgs,
    geometry: Geometry,
    masks: Sequence[str],
    outputs: dict[str, str],
    share: FlopShare,
    shape_agnostic: bool,
) -> None:
    names = [tensor.name for tensor in geometry.inputs]
    header(graph).metadata[METADATA_KEY] = json.dumps(
        {
            "style": "unpack_repack",
            "rows": geometry.rows,
            "columns": geometry.columns,
            "max_valid_num": args.max_valid_num,
            "segment_max_size": list(args.segment_max_size),
            "unpack_info": UNPACK_INFO,
            "dynamic_inputs": names,
            "mask": masks[0],
            "position_ids": "position_ids" if "position_ids" in names else "",
            "outputs": outputs,
            "shape_agnostic": shape_agnostic,
            "packed_flops": share.packed,
            "total_flops": share.total,
        },
        sort_keys=True,
    )

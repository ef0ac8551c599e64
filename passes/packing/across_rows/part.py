"""Pack one graph across rows: prove who may share a run, put the crossings in, and say what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import PassResult
from passes.errors import PackingError
from passes.ops import DOMAIN, declare_operators
from passes.packed_model import POSITION_IDS, UNPACK_INFO, PackedModel
from passes.packing.across_rows.crossings import Crossings
from passes.packing.across_rows.lengths import count_lengths, narrowest
from passes.packing.across_rows.rewrite import rewrite, sample_token_axes
from passes.packing.across_rows.unpack_reasons import explain_unpacks
from passes.packing.across_rows.window_padding import WindowPadding
from passes.packing.isolation.company import ANY, NONE, SAME_LENGTH, Isolation, isolate
from passes.packing.isolation.quantised_scores import hide_quantised_padding
from passes.packing.isolation.sharpen import Sharpener
from passes.packing.opening.geometry import Geometry
from passes.packing.opening.pack_args import PackArgs
from passes.packing.tokens.axes import AxisMap
from passes.packing.tokens.flops import FlopShare, flop_share, node_flops
from passes.packing.tokens.masks import MaskInputs, find_masks
from passes.packing.tokens.memory import padded_memory
from passes.packing.tokens.sides import PlacedGraph, place
from passes.packing.tokens.subsampling import WHOLE, Subsampling
from passes.precision.int8_kinds import QUANTISED, QUANTISED_OPS, product_kinds
from passes.refusal import MOST_NAMED, explain
from poprt_format.packing import ACROSS_ROWS

#: What the nodes that are not proved to hide padding or neighbours mean for the runner.
_CONSEQUENCES = {
    ANY: "",
    SAME_LENGTH: "a run takes samples of one length only",
    NONE: "every sample runs by itself, and packing saves nothing",
}


class Part:
    """A graph whose nodes are placed, ready to be packed.

    Args:
        graph: the graph, which is packed in place.
        axes: where its tensors keep their tokens.
        geometry: its inputs.
        args: the size of a pack.
        agnostic: whether it holds for any batch and length.
        handed: how the places of its outputs follow from the tokens.

    Attributes:
        placed: the graph, and on which side each node runs.
        share: how much of its work runs packed.
    """

    def __init__(
        self,
        graph: gs.Graph,
        axes: AxisMap,
        geometry: Geometry,
        args: PackArgs,
        *,
        agnostic: bool,
        handed: Subsampling = WHOLE,
    ) -> None:
        self.graph, self.axes, self.geometry, self.agnostic = graph, axes, geometry, agnostic
        self._args, self._handed = args, handed
        self.placed = place(graph, axes)
        self.share = flop_share(self.placed, geometry.rows or 1, geometry.columns or args.width)

    def pack(self, counted: Sequence[str], result: PassResult) -> PackedModel:
        """Pack the graph.

        Args:
            counted: inputs whose largest value was taken for the extent of the sequence.
            result: gets what was done, and the places that run unpacked.

        Returns:
            How the graph is packed; it does not say so itself yet.
        """
        graph, placed, args = self.graph, self.placed, self._args
        masks = _beside_content(find_masks(placed, self.geometry.narrow), self.geometry)
        lengths = count_lengths(placed, self.geometry, [*masks.explicit, *masks.derived], counted, self._handed)
        geometry = lengths.geometry
        hidden = hide_quantised_padding(placed, [*masks.explicit, *masks.derived], geometry.inputs[0])
        masking = [*masks.explicit, *lengths.masks]
        isolation = isolate(placed, masking, args.width, handed=self._handed)
        zeroed = WindowPadding(placed, narrowest(geometry)).hide(isolation)
        if zeroed:
            isolation = isolate(placed, masking, args.width, handed=self._handed)
        sharpened = Sharpener(placed, isolation.facts, geometry.inputs[0]).run()
        neighbours = self._neighbours(isolation, result)
        anchor = next((t for t in geometry.inputs if t.name in masks.explicit), geometry.inputs[0])
        info = gs.Variable(UNPACK_INFO, np.int32, [args.max_valid_num, len(args.segment_max_size)])
        crossings = Crossings(graph, self.axes, args, info, anchor)
        result.refusals.extend(explain_unpacks(placed))
        record = replace(
            self._record(geometry, masks),
            neighbours=neighbours,
            isolation=isolation.explain(),
            token_axes={name: tuple(own) for name, own in sample_token_axes(graph, self.axes).items()},
        )
        outputs = rewrite(placed, crossings, args, masks.explicit, geometry)
        graph.inputs.append(info)
        declare_operators(graph, ["Repack", "Unpack"])
        graph.cleanup(remove_unused_graph_inputs=False).toposort(mode="nodes")
        result.count("Unpacks", _count(graph, "Unpack"))
        result.count("Repacks", _count(graph, "Repack"))
        result.count("masks strengthened", sharpened + hidden)
        result.count("convolutions kept from padding", zeroed)
        result.count("lengths computed", int(bool(lengths.name)))
        return replace(record, outputs=outputs)

    def _record(self, geometry: Geometry, masks: MaskInputs) -> PackedModel:
        """What holds of the pack whatever became of the graph, which is not rewritten yet."""
        names = geometry.names
        masking = [*masks.explicit, *masks.derived]
        memory = padded_memory(self.placed, self._args.width)
        return PackedModel(
            layout=ACROSS_ROWS,
            rows=geometry.rows,
            columns=geometry.columns,
            max_valid_num=self._args.max_valid_num,
            segment_max_size=self._args.segment_max_size,
            unpack_info=UNPACK_INFO,
            dynamic_inputs=tuple(names),
            mask=masking[0] if masking else "",
            position_ids=POSITION_IDS if POSITION_IDS in names else "",
            sample_inputs=tuple(tensor.name for tensor in geometry.samples),
            run_inputs=tuple(tensor.name for tensor in geometry.runs),
            pair_inputs={pair.tensor.name: pair.axes for pair in geometry.pairs},
            outputs={},
            shape_agnostic=self.agnostic,
            cell_bytes=memory.cell_bytes,
            pair_bytes=memory.pair_bytes,
            packed_flops=self.share.packed,
            total_flops=self.share.total,
        )

    def _neighbours(self, isolation: Isolation, result: PassResult) -> str:
        """Which samples may share a run, noted with the reasons."""
        ragged = self.agnostic and len(self._args.segment_max_size) == 1
        neighbours = isolation.neighbours
        if neighbours == SAME_LENGTH and not ragged:
            neighbours, consequence = ANY, f"every run pads to {self._args.width}"
        else:
            consequence = _CONSEQUENCES[neighbours]
        for refusal in isolation.refusals:
            result.refusals.append(replace(refusal, reason=f"{refusal.reason}, so {consequence}"))
        return neighbours


def _beside_content(masks: MaskInputs, geometry: Geometry) -> MaskInputs:
    """The masks without the input that they are masks of: raw sound [batch, time] is a number a token, as a mask is."""
    explicit = [tensor for tensor in geometry.inputs if tensor.name in masks.explicit]
    floats = [tensor for tensor in explicit if _is_float(tensor)]
    if not floats or len(explicit) < len(geometry.inputs):
        return masks
    rest = [tensor for tensor in explicit if tensor not in floats] or [t for t in floats if "mask" in t.name.lower()]
    return replace(masks, explicit=tuple(tensor.name for tensor in rest if len(rest) < len(explicit)))


def _is_float(tensor: gs.Tensor) -> bool:
    """Whether a tensor holds floats; a type that numpy lacks is held as ONNX's number for it."""
    return not isinstance(tensor.dtype, int) and tensor.dtype is not None and np.dtype(tensor.dtype).kind == "f"


def refuse_without_products(placed: PlacedGraph, share: FlopShare) -> None:
    """Raise PackingError where no matrix product runs packed; it names the first that do not."""
    if share.packed:
        return
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

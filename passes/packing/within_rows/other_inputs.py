"""What rows of several samples have no place for: rows a sample, pairs, and other places than the tokens'."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from passes.base import subgraphs
from passes.errors import PackingError
from passes.packing.across_rows.front_end import places_of_encoder
from passes.packing.opening.geometry import Geometry
from passes.packing.tokens.axes import AxisMap
from passes.packing.tokens.subsampling import WHOLE


def refuse_rows_and_pairs(geometry: Geometry) -> None:
    """Refuse inputs [batch, ...] without tokens: a row of several samples would need one for each of them.

    Raises:
        PackingError: it names them and the other layout.
    """
    pairs = [pair.tensor for pair in geometry.pairs]
    for what, tensors in (("holds one row a sample", geometry.samples), ("has a value for each pair of places", pairs)):
        if tensors:
            named = ", ".join(f"{tensor.name!r} {tensor.shape}" for tensor in tensors)
            raise PackingError(
                f"input {named} {what}, and samples that share a row have no place for it: lay them end to end, "
                "leave out insert_attention_mask and give --pack_args alone"
            )


def refuse_front_end(graph: gs.Graph, axes: AxisMap) -> None:
    """Refuse an encoder behind strided convolutions and the like: its places are not those of the row.

    Raises:
        PackingError: it names the other layout.
    """
    places = places_of_encoder(graph, axes)
    if places is not None and places != WHOLE:
        raise PackingError(
            f"the front end of this model makes floor((length {places.add:+}) / {places.stride}) places of a sample, "
            "and samples that share a row keep theirs: lay them end to end, leave out insert_attention_mask and give "
            "--pack_args"
        )


def values_of_the_run(graph: gs.Graph, axes: AxisMap, runs: Sequence[gs.Tensor]) -> frozenset[str]:
    """Names of the tensors that follow from inputs of one value a run alone: the same at each place of every row."""
    names = {tensor.name for tensor in runs}
    for node in graph.nodes:
        if any(True for _ in subgraphs(node)) or not any(tensor.name in names for tensor in node.inputs):
            continue
        if all(axes.is_free(tensor) or tensor.name in names for tensor in node.inputs):
            names.update(tensor.name for tensor in node.outputs)
    return frozenset(names)

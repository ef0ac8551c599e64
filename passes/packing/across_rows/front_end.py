"""Find the encoder behind a front end that changes the length of the sequence, and what one hands to the other.

    sound [n, L] -> strided convolutions -> [n, L', H] -> encoder -> [n, L', H]

The front end looks along the sequence, so it runs on samples in rows of their own. What it hands to the encoder is laid
end to end again, L' places a sample, and the encoder is packed as if those were its inputs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs
import sympy

from passes.base import node_label, subgraphs
from passes.errors import PackingError
from passes.operators import Family, members
from passes.packing.opening.geometry import Geometry
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap, show
from passes.packing.tokens.flops import node_flops
from passes.packing.tokens.positional import Positional
from passes.packing.tokens.subsampling import WHOLE, Subsampling, subsampling_of
from passes.shapes.symbolic import Shape

_LONG = 1 << 16  # a length at which the work along two sequences is compared
_MEASURE = members(Family.EXTENT)


@dataclass(frozen=True)
class FrontEnd:
    """What stands before an encoder.

    Attributes:
        subsampling: what it does to the length.
        tokens: names of the tensors with the encoder's places that it hands over, [.., batch, .., places, ..].
        rows: those with a row a sample, [batch, ...].
        runs: inputs with a value a run that the encoder reads.
    """

    subsampling: Subsampling
    tokens: tuple[str, ...]
    rows: tuple[str, ...]
    runs: tuple[str, ...]


def places_of(shape: Shape | None) -> tuple[Subsampling, int, int] | None:
    """The sequence that a shape has beside the batch, and the axes of both; None where it has none, or several.

    [batch, 64, floor(seq / 2)] -> every second place, axes 0 and 2. [batch * seq, H] -> the sequence, axes 0 and 0.
    """
    growing = [
        (axis, extent)
        for axis, extent in enumerate(shape or ())
        if isinstance(extent, sympy.Expr) and extent.free_symbols & {BATCH, SEQ}
    ]
    if len(growing) == 1 and BATCH in growing[0][1].free_symbols:
        axis, extent = growing[0]
        places = subsampling_of(sympy.cancel(extent / BATCH))
        return None if places is None else (places, axis, axis)
    if len(growing) != 2 or BATCH not in (growing[0][1], growing[1][1]):
        return None
    batch, seq = growing if growing[0][1] == BATCH else growing[::-1]
    places = subsampling_of(seq[1])
    return None if places is None else (places, batch[0], seq[0])


def find_front_end(graph: gs.Graph, axes: AxisMap, geometry: Geometry) -> FrontEnd | None:
    """The front end of ``graph``, whose nodes are in topological order; None where most of the work is on the tokens.

    Raises:
        PackingError: the encoder reads the sequence of the inputs as well, or an output is made before it, or has their
            places again behind it.
    """
    subsampling = places_of_encoder(graph, axes)
    if subsampling is None or subsampling == WHOLE:
        return None
    positional = Positional(graph, axes)
    encoder = _encoder(graph, axes, subsampling, positional)
    behind = {tensor.name for node in encoder for tensor in node.outputs}
    handed = {tensor.name: tensor for node in encoder for tensor in _handed(node, axes, behind, positional)}
    runs = {tensor.name for tensor in geometry.runs}
    kinds: dict[str, list[str]] = defaultdict(list)
    for name, tensor in handed.items():
        kinds["runs" if name in runs else _kind(tensor, axes, subsampling)].append(name)
    early = next((tensor for tensor in graph.outputs if tensor.name not in behind), None)
    if early is not None:
        raise PackingError(
            f"output {early.name!r} {show(axes.shape(early))} is made before the encoder, which has other places than "
            "the inputs; remove it with --remove_outputs"
        )
    whole = next((tensor for tensor in graph.outputs if _has_places(tensor, axes, WHOLE)), None)
    if whole is not None:
        raise PackingError(
            f"output {whole.name!r} {show(axes.shape(whole))} has the places of the tokens again, behind an encoder "
            "that has others; export the model so that it gives what the encoder makes, and cut that where it is read"
        )
    return FrontEnd(subsampling, tuple(kinds["tokens"]), tuple(kinds["rows"]), tuple(kinds["runs"]))


def places_of_encoder(graph: gs.Graph, axes: AxisMap) -> Subsampling | None:
    """The sequence whose places are compared with each other and, of several, that of most products by constants.

    WHOLE where those are the tokens; None where no product has places.

    Convolutions look along a sequence before it is one, and do not count.
    """
    work: dict[Subsampling, float] = defaultdict(float)
    compared: set[Subsampling | None] = set()
    for node in graph.nodes:
        flops = node_flops(node, axes) if node.op != "Conv" else 0
        if flops == 0:
            continue
        shape = axes.shape(node.outputs[0])
        if not any(axes.is_free(tensor) for tensor in node.inputs):
            compared.update(subsampling_of(extent) for extent in shape or ())
            continue
        places = places_of(shape)
        if places is not None:
            work[places[0]] += float(sympy.sympify(flops).subs({BATCH: 1, SEQ: _LONG}))
    return max(work, key=lambda places: (places in compared, work[places], places == WHOLE), default=None)


def _encoder(graph: gs.Graph, axes: AxisMap, subsampling: Subsampling, positional: Positional) -> list[gs.Node]:
    """The nodes that compute with the encoder's places. What measures a tensor only is built anew where it is read."""
    behind, nodes = set[str](), []
    for node in graph.nodes:
        if node.op in _MEASURE or all(tensor in positional for tensor in node.outputs):
            continue
        reads = [tensor for tensor in node.inputs if not axes.is_free(tensor) and tensor not in positional]
        if any(tensor.name in behind or _has_places(tensor, axes, subsampling) for tensor in reads):
            if any(True for _ in subgraphs(node)):
                raise PackingError(f"{node_label(node)} has branches, behind a front end that changes the length")
            nodes.append(node)
            behind.update(tensor.name for tensor in node.outputs)
    return nodes


def _has_places(tensor: gs.Tensor, axes: AxisMap, subsampling: Subsampling) -> bool:
    places = places_of(axes.shape(tensor))
    return places is not None and places[0] == subsampling


def _handed(node: gs.Node, axes: AxisMap, behind: set[str], positional: Positional) -> Iterator[gs.Tensor]:
    for tensor in node.inputs:
        is_told = tensor.name in axes.shapes.contents or axes.is_free(tensor) or tensor in positional
        if not tensor.is_empty() and not is_told and tensor.name not in behind:
            yield tensor


def _kind(tensor: gs.Tensor, axes: AxisMap, subsampling: Subsampling) -> str:
    shape = axes.shape(tensor)
    if _has_places(tensor, axes, subsampling):
        return "tokens"
    if shape and shape[0] == BATCH and not any(_grows(extent) for extent in shape[1:]):
        return "rows"
    raise PackingError(
        f"{tensor.name!r} {show(shape)} reaches the encoder, which has other places than the inputs: packing takes one "
        "sequence and what a front end makes of it; export the model so that nothing passes the front end by"
    )


def _grows(extent: Any) -> bool:
    return isinstance(extent, sympy.Expr) and bool(extent.free_symbols & {BATCH, SEQ})

"""Find the encoder behind a front end that changes the length of the sequence, and cut the graph between the two.

    sound [n, L] -> strided convolutions -> [n, L', H] -> encoder -> [n, L', H]

The front end looks along the sequence, so it runs on samples in rows of their own. What it hands to the encoder is laid
end to end again, L' places a sample, and the encoder is packed as if those were its inputs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import sympy

from passes.base import node_label, subgraphs
from passes.building import add_node
from passes.errors import PackingError
from passes.graph_io import copy_graph
from passes.operators import Family, members
from passes.packing.across_rows.known_contents import rebuilt
from passes.packing.opening.geometry import Geometry
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap, show
from passes.packing.tokens.extents import Extents
from passes.packing.tokens.flops import node_flops
from passes.packing.tokens.positional import Positional
from passes.packing.tokens.subsampling import WHOLE, Subsampling, subsampling_of
from passes.shapes.symbolic import Shape

#: Names of the open extents of what the encoder reads.
_SAMPLES, _PLACES = "samples", "places"
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


def cut(graph: gs.Graph, axes: AxisMap, front_end: FrontEnd) -> tuple[gs.Graph, gs.Graph]:
    """The front end and the encoder as graphs of their own; what one hands over is called the same in both.

    The encoder's inputs are [samples, places, ...] and [samples, ...], the front end's outputs likewise.
    """
    tensors = graph.tensors()
    for name in (*front_end.tokens, *front_end.rows):
        if tensors[name].dtype is None:
            tensors[name].dtype = onnx.helper.tensor_dtype_to_np_dtype(axes.shapes.dtypes[name])
    front, encoder = copy_graph(graph), copy_graph(graph)
    tensors = front.tensors()
    front.outputs = [_places_second(front, tensors[name], axes) for name in front_end.tokens]
    front.outputs += [tensors[name] for name in front_end.rows]
    front.cleanup(remove_unused_graph_inputs=False).toposort(mode="nodes")
    return front, _encoder_graph(encoder, axes, front_end)


def _encoder_graph(graph: gs.Graph, axes: AxisMap, front_end: FrontEnd) -> gs.Graph:
    tensors = graph.tensors()
    tokens = [_as_input(graph, tensors[name], axes) for name in front_end.tokens]
    rows = [tensors[name] for name in front_end.rows]
    for tensor in rows:
        tensor.inputs.clear()
        tensor.shape = [_SAMPLES, *_numbers(axes.require_shape(tensor)[1:])]
    extents = Extents(graph, lambda: tokens[0], "encoder_extent")
    _measure_anew(graph, axes, extents, front_end.subsampling)
    for node in graph.nodes:
        for tensor in node.outputs:
            tensor.shape = None
    graph.inputs = [*tokens, *rows, *(tensors[name] for name in front_end.runs)]
    graph.cleanup(remove_unused_graph_inputs=False).toposort(mode="nodes")
    inputs = {id(tensor) for tensor in graph.inputs}
    for node in graph.nodes:
        for tensor in node.inputs:
            if (
                isinstance(tensor, gs.Variable)
                and not tensor.inputs
                and not tensor.is_empty()
                and id(tensor) not in inputs
            ):
                raise PackingError(
                    f"{node_label(node)} reads {tensor.name!r} behind a front end that changes the length; packing "
                    "takes one sequence and what a front end makes of it"
                )
    return graph


def _measure_anew(graph: gs.Graph, axes: AxisMap, extents: Extents, subsampling: Subsampling) -> None:
    """Read extents of the sequence from the encoder's inputs, wherever the model measured them."""
    for node in list(graph.nodes):
        for index, tensor in enumerate(node.inputs):
            if axes.is_free(tensor):
                continue
            measured = rebuilt(tensor, axes, extents, lambda extent: _in_places(extent, subsampling))
            if measured is not None:
                node.inputs[index] = measured


def _in_places(extent: Any, subsampling: Subsampling) -> Any:
    """An extent of the front end as the encoder sees it, where ``seq`` are its places; None where it is none of these.

    floor(seq / 4) + 1 -> seq + 1, behind a stride of 4.
    """
    expression = sympy.sympify(extent)
    if SEQ not in expression.free_symbols:
        return expression
    own = subsampling_of(expression)
    if own is not None:
        more, rest = divmod(own.add - subsampling.add, subsampling.stride)
        return SEQ + more if own.stride == subsampling.stride and not rest else None
    if not (expression.is_Add or expression.is_Mul):
        return None
    parts = [_in_places(argument, subsampling) for argument in expression.args]
    return None if any(part is None for part in parts) else expression.func(*parts)


def _places_second(graph: gs.Graph, tensor: gs.Tensor, axes: AxisMap) -> gs.Tensor:
    """What the front end hands over as [batch, places, ...]."""
    order = _order(tensor, axes)
    if order is None:
        return tensor
    name = handed_name(tensor.name)
    turned = add_node(graph.nodes, "Transpose", name, [tensor], tensor.dtype, perm=order)
    shape = axes.require_shape(tensor)
    axes.record(turned, tuple(shape[axis] for axis in order))
    return turned


def _as_input(graph: gs.Graph, tensor: gs.Tensor, axes: AxisMap) -> gs.Variable:
    """What the encoder reads, [samples, places, ...], in place of what makes ``tensor``."""
    order, shape = _order(tensor, axes), axes.require_shape(tensor)
    tensor.inputs.clear()
    if order is None:
        tensor.shape = [_SAMPLES, _PLACES, *_numbers(shape[2:])]
        return tensor
    rest = _numbers([shape[axis] for axis in order[2:]])
    source = gs.Variable(handed_name(tensor.name), tensor.dtype, [_SAMPLES, _PLACES, *rest])
    back = [order.index(axis) for axis in range(len(order))]
    add_node(graph.nodes, "Transpose", f"{tensor.name}_turned_back", [source], into=tensor, perm=back)
    return source


def handed_name(name: str) -> str:
    """What a tensor is called whose axes are turned before it is handed over."""
    return f"{name}_places_second"


def _order(tensor: gs.Tensor, axes: AxisMap) -> list[int] | None:
    """The order of axes that gives [batch, places, ...]; None where it is so."""
    places = places_of(axes.shape(tensor))
    assert places is not None
    _, batch, seq = places
    if batch == seq:
        raise PackingError(f"{tensor.name!r} {show(axes.shape(tensor))} has samples and places on one axis")
    rank = len(axes.require_shape(tensor))
    order = [batch, seq, *(axis for axis in range(rank) if axis not in (batch, seq))]
    return None if order == list(range(rank)) else order


def _numbers(extents: Any) -> list[int | str]:
    return [int(extent) if sympy.sympify(extent).is_Integer else f"open_{extent}" for extent in extents]

"""Cut a graph between a front end and the encoder behind it, into two graphs.

sound [n, L] -> places [n, L', H]        places [n, L', H] -> answers
"""

from __future__ import annotations

from typing import Any

import onnx
import onnx_graphsurgeon as gs
import sympy

from passes.base import node_label
from passes.building import add_node
from passes.errors import PackingError
from passes.graph_io import copy_graph
from passes.packing.across_rows.front_end import FrontEnd, places_of
from passes.packing.across_rows.known_contents import rebuilt
from passes.packing.tokens.axes import SEQ, AxisMap, show
from passes.packing.tokens.extents import Extents
from passes.packing.tokens.subsampling import Subsampling, subsampling_of

#: Names of the open extents of what the encoder reads.
_SAMPLES, _PLACES = "samples", "places"


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

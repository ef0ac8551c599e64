"""Put the crossings in: each node reads the form of its inputs that its side has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import sympy

from passes.errors import PackingError
from passes.lookups import is_lookup, lookup_axis
from passes.packing.across_rows.crossings import Crossings
from passes.packing.across_rows.known_contents import rebuilt
from passes.packing.opening.geometry import Geometry
from passes.packing.opening.pack_args import PackArgs
from passes.packing.tokens.axes import BATCH, PACKED_NAMES, SEQ, UNPACKED_NAMES, AxisMap, TokenAxes, show
from passes.packing.tokens.broadcasting import is_liftable
from passes.packing.tokens.masks import binarise
from passes.packing.tokens.sides import PlacedGraph
from passes.shapes.symbolic import Shape


def rewrite(
    placed: PlacedGraph,
    crossings: Crossings,
    args: PackArgs,
    masks: Sequence[str],
    geometry: Geometry,
) -> dict[str, str]:
    """Rewire the graph in place.

    Returns:
        Output name -> "tokens" ([max_valid_num, width, ...]) or "sample" ([max_valid_num, ...]).
    """
    _name_extents(placed, geometry, args)
    for node in list(placed.graph.nodes):
        if placed.runs_packed(node):
            _read_packed(node, placed, crossings)
        else:
            _read_unpacked(node, placed, crossings)
    kinds = _rewrite_outputs(placed, crossings, args)
    for tensor in placed.graph.inputs:
        if tensor.name in masks:
            binarise(placed.graph, tensor)
    return kinds


def _read_packed(node: gs.Node, placed: PlacedGraph, crossings: Crossings) -> None:
    axes, output = placed.axes, node.outputs[0]
    token, before = axes.axes(output), axes.axes(node.inputs[0])  # the map does not know a Repack's output
    for index, tensor in enumerate(node.inputs):
        if axes.axes(tensor) is not None:
            if not placed.comes_packed(tensor):
                node.inputs[index] = crossings.packed(tensor)
        elif token is not None and not axes.is_free(tensor) and is_liftable(tensor, axes, output):
            node.inputs[index] = _lift(tensor, output, axes, crossings)
    if node.op == "Reshape":
        node.inputs[1] = _packed_reshape_target(node, before, axes, crossings)
        node.attrs.pop("allowzero", None)
    elif node.op == "Expand":
        node.inputs[1] = crossings.packed_extents.constant(_expand_target(node, axes))


def _lift(tensor: gs.Tensor, like: gs.Tensor, axes: AxisMap, crossings: Crossings) -> gs.Tensor:
    """Bring what broadcasts over tokens to the packed side, a table lookup by its indices: they are the smaller."""
    token, shape = axes.require(like), axes.require_shape(like)
    producer = tensor.inputs[0] if tensor.inputs else None
    if producer is not None and is_lookup(producer) and axes.is_free(producer.inputs[0]):
        table, indices = producer.inputs[:2]
        added = len(axes.shape(table) or ()) - 1
        if lookup_axis(producer) == 0 and max(token.positions) < len(shape) - added:
            return crossings.looked_up(producer, crossings.lifted(indices, token, len(shape) - added))
    return crossings.lifted(tensor, token, len(shape))


def _packed_reshape_target(node: gs.Node, before: TokenAxes | None, axes: AxisMap, crossings: Crossings) -> gs.Tensor:
    after, target = axes.require(node.outputs[0]), axes.require_shape(node.outputs[0])
    if after.flat:
        return crossings.packed_extents.constant([-1, *(int(extent) for extent in target[1:])])
    if before == after:
        return crossings.packed_extents.constant(
            [0 if axis in after.positions else int(extent) for axis, extent in enumerate(target)]
        )
    return crossings.packed_extents.vector(target)


def _expand_target(node: gs.Node, axes: AxisMap) -> list[int]:
    token, target = axes.require(node.outputs[0]), axes.require_shape(node.outputs[0])
    return [1 if axis in token.positions else int(extent) for axis, extent in enumerate(target)]


def _read_unpacked(node: gs.Node, placed: PlacedGraph, crossings: Crossings) -> None:
    axes = placed.axes
    for index, tensor in enumerate(node.inputs):
        if axes.is_free(tensor):
            continue
        extents = rebuilt(tensor, axes, crossings.unpacked_extents)
        if extents is not None:
            node.inputs[index] = extents
        elif axes.axes(tensor) is not None and placed.comes_packed(tensor):
            node.inputs[index] = crossings.unpacked(tensor)
    for value in node.attrs.values():
        if isinstance(value, gs.Graph):
            for inner in value.nodes:
                _read_unpacked(inner, placed, crossings)


def _rewrite_outputs(placed: PlacedGraph, crossings: Crossings, args: PackArgs) -> dict[str, str]:
    graph, axes, kinds = placed.graph, placed.axes, {}
    for index, tensor in enumerate(graph.outputs):
        shape = axes.shape(tensor)
        if not shape or shape[0] != BATCH:
            raise PackingError(
                f"output {tensor.name!r} {show(shape)} does not hold one row a sample: its first axis is not the "
                "batch; remove it with --remove_outputs"
            )
        token = axes.axes(tensor)
        kinds[tensor.name] = "tokens" if token is not None and token.canonical else "sample"
        declared = declared_shape(shape, args)
        if token is not None and placed.comes_packed(tensor):
            final = gs.Variable(tensor.name, tensor.dtype, declared)
            tensor.name += "_packed"
            axes.record(tensor, shape)
            graph.outputs[index] = final
            crossings.unpack_into(tensor, final)
        else:
            tensor.shape = declared
    return kinds


def sample_token_axes(graph: gs.Graph, axes: AxisMap) -> dict[str, list[int]]:
    """The axes that grow with the sample, of each output whose rows hold more than one value a token.

    Attention weights [batch, heads, seq, seq]: [2, 3]. What lies behind a sample's own length there is padding.
    """
    grown = {}
    for tensor in graph.outputs:
        token, shape = axes.axes(tensor), axes.shape(tensor) or ()
        own = [axis for axis, extent in enumerate(shape) if extent == SEQ]
        if own and (token is None or not token.canonical):
            grown[tensor.name] = own
    return grown


def declared_shape(shape: Shape, args: PackArgs) -> list[Any]:
    """The shape that an output of one row a sample declares."""
    return [_substitute(extent, {BATCH: args.max_valid_num, SEQ: args.width}) for extent in shape]


def _substitute(extent: Any, values: Mapping[sympy.Symbol, Any]) -> Any:
    if not isinstance(extent, sympy.Expr):
        return extent
    if extent in values:
        return values[extent]
    number = extent.subs({key: value for key, value in values.items() if isinstance(value, int)})
    return int(number) if number.is_Integer else str(number)


def _name_extents(placed: PlacedGraph, geometry: Geometry, args: PackArgs) -> None:
    """Give every interior tensor the extents of its side, so that one name never means two numbers."""
    for tensor in geometry.inputs:
        tensor.shape = [
            name if isinstance(extent, str) else extent
            for extent, name in zip(tensor.shape, ["rows", "columns", *tensor.shape[2:]], strict=True)
        ]
    for tensor in geometry.samples:
        tensor.shape = [args.max_valid_num, *tensor.shape[1:]]
    for pair in geometry.pairs:
        pair.tensor.shape = pair.shape(args.max_valid_num, args.width)
    for node in placed.graph.nodes:
        name_extents(node, placed.axes, PACKED_NAMES if placed.runs_packed(node) else UNPACKED_NAMES)


def name_extents(node: gs.Node, axes: AxisMap, names: Mapping[sympy.Symbol, str]) -> None:
    """Give the node's results the extents of a side, and their types where they lack them."""
    for tensor in node.outputs:
        shape = axes.shape(tensor)
        simple = shape is not None and all(_simple(extent) for extent in shape)
        tensor.shape = [_substitute(extent, names) for extent in shape] if simple and shape is not None else None
        if tensor.dtype is None and tensor.name in axes.shapes.dtypes:
            tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(axes.shapes.dtypes[tensor.name])


def _simple(extent: Any) -> bool:
    return isinstance(extent, (int, sympy.Integer)) or extent in (BATCH, SEQ)

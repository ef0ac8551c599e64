"""Masks of an encoder's places that a front end computes from the tokens' mask, or from their number.

    mask [n, L] -> its sum -> floor((sum + a) / s) -> ones up to there [n, L']

Speech encoders write them in ways that nothing can be proved of (a one is scattered to the last place, and summed from
the end). What they hold is tried, on masks and lengths of many kinds, and they are written as a comparison with places.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.building import add_node
from passes.cleanup.rewiring import replace_uses
from passes.operators import KEEPS_VALUES
from passes.packing.across_rows.front_end import FrontEnd, places_of
from passes.packing.opening.geometry import Geometry
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap
from passes.packing.tokens.positional import Positional
from passes.packing.tokens.subsampling import Subsampling
from passes.refusal import RefusedError
from passes.shapes.symbolic import Shape

#: Places of the samples of a trial; what is more than a whole number of strides is added in turn.
_TRIED = ((7, 4, 1), (9, 2, 9))

Array = np.ndarray[Any, Any]


def count_places(graph: gs.Graph, axes: AxisMap, geometry: Geometry, front_end: FrontEnd) -> bool:
    """Write masks of the encoder's places as comparisons, where they hold as many ones as the tokens' mask leaves.

    Returns:
        Whether anything was changed; the nodes are in topological order again.
    """
    positional, changed = Positional(graph, axes), False
    masks = {tensor.name: tensor for tensor in geometry.narrow if len(tensor.shape) == 2 and _is_whole(tensor)}
    for node in reversed(list(graph.nodes)):
        for tensor in node.outputs:
            names = _sources(tensor, axes, positional, front_end.subsampling)
            if len(names) != 1 or not names <= masks.keys() or not tensor.outputs or _is_comparison(node, positional):
                continue
            (mask,) = (masks[name] for name in names)
            turned = _turned(positional, tensor, mask, front_end.subsampling)
            if turned is not None:
                _compare(graph, axes, front_end, mask, tensor, turned)
                changed = True
    if changed:
        graph.cleanup(remove_unused_graph_inputs=False).toposort(mode="nodes")
    return changed


def counts_tokens(graph: gs.Graph, axes: AxisMap, lengths: gs.Tensor, handed: Subsampling) -> bool:
    """Whether a mask of the places that a front end leaves follows from ``lengths`` as from the samples' lengths."""
    positional = Positional(graph, axes)
    return any(
        _sources(tensor, axes, positional, handed) == {lengths.name}
        and _turned(positional, tensor, lengths, handed) is not None
        for node in graph.nodes
        for tensor in node.outputs
    )


def _sources(tensor: gs.Tensor, axes: AxisMap, positional: Positional, handed: Subsampling) -> set[str]:
    """Names of the inputs on which a tensor of numbers [batch, places] depends; none for other tensors."""
    if tensor in positional or not _is_grid(tensor, axes, handed) or not _is_plain(tensor, axes):
        return set()
    return positional.inputs_of(tensor)


def _is_grid(tensor: gs.Tensor, axes: AxisMap, handed: Subsampling) -> bool:
    """Whether a tensor is [batch, places]."""
    places = places_of(axes.shape(tensor))
    return places is not None and places[0] == handed and len(axes.require_shape(tensor)) == 2 and places[1:] == (0, 1)


def _is_plain(tensor: gs.Tensor, axes: AxisMap) -> bool:
    dtype = axes.shapes.dtypes.get(tensor.name, 0)
    return bool(dtype) and np.dtype(onnx.helper.tensor_dtype_to_np_dtype(dtype)).kind in "biuf"


def _is_whole(tensor: gs.Tensor) -> bool:
    return not isinstance(tensor.dtype, int) and np.dtype(tensor.dtype).kind in "biu"


def _is_comparison(node: gs.Node, positional: Positional) -> bool:
    """Whether it is what would be put in its place, turned or in another type."""
    if (node.op in KEEPS_VALUES or node.op == "Not") and node.inputs[0].inputs:
        return _is_comparison(node.inputs[0].inputs[0], positional)
    return node.op in ("Less", "Greater") and any(tensor in positional for tensor in node.inputs)


def _turned(positional: Positional, tensor: gs.Tensor, source: gs.Tensor, handed: Subsampling) -> bool | None:
    """Whether ``tensor`` is 1 behind a sample's places instead of at them; None where it tells something else."""
    answers = set()
    for lengths, values in _trials(source, handed):
        seq = int(max(lengths))
        try:
            result = positional.value_for(tensor, seq, len(lengths), {source.name: values})
        except RefusedError:
            return None
        counted = values.sum(axis=1) if values.ndim == 2 and values.shape[1] == seq else values.reshape(-1)
        places = np.array([handed.places(int(number)) for number in counted])
        is_place = np.arange(handed.places(seq)) < places[:, None]
        answers.add(next((turn for turn in (False, True) if np.array_equal(result, is_place ^ turn)), None))
    return answers.pop() if len(answers) == 1 else None


def _trials(source: gs.Tensor, handed: Subsampling) -> Iterator[tuple[list[int], Array]]:
    """Lengths, and what ``source`` holds for samples of these: masks with holes too, or the lengths themselves."""
    for number, tried in enumerate(_TRIED):
        lengths = [handed.tokens(places) + number * (handed.stride // 2) for places in tried]
        if len(source.shape) < 2 or source.shape[1] == 1:
            yield lengths, np.array(lengths, source.dtype).reshape(-1, *source.shape[1:])
            continue
        for holes in ((), (0,), (0, 2)):  # what is left is as long as without: of nothing, models make what they like
            longer = [length + len(holes) for length in lengths]
            mask = np.arange(max(longer)) < np.array(longer)[:, None]
            mask[:, list(holes)] = False
            yield longer, mask.astype(source.dtype)


def _compare(
    graph: gs.Graph, axes: AxisMap, front_end: FrontEnd, mask: gs.Variable, tensor: gs.Tensor, turned: bool
) -> None:
    """Put a comparison in the place of ``tensor`` [batch, places]."""
    name = f"{tensor.name}_counted"
    element = axes.shapes.dtypes[tensor.name]
    grid, subsampling = axes.require_shape(tensor), front_end.subsampling

    def add(op: str, suffix: str, inputs: list[gs.Tensor], dtype: Any, shape: Shape, **attrs: Any) -> gs.Tensor:
        output = add_node(graph.nodes, op, f"{name}_{suffix}", inputs, np.dtype(dtype), **attrs)
        axes.record(output, shape)
        axes.shapes.dtypes[output.name] = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return output

    def number(suffix: str, value: Any) -> gs.Constant:
        constant = gs.Constant(f"{name}_{suffix}", np.array(value, np.int64))
        axes.shapes[constant.name] = tuple(constant.shape)
        return constant

    def places_in(count: gs.Tensor, suffix: str, shape: Shape) -> gs.Tensor:
        """floor((count + add) / stride), not below 0."""
        more = add("Add", f"{suffix}_added", [count, number(f"{suffix}_add", subsampling.add)], np.int64, shape)
        some = add("Max", f"{suffix}_not_negative", [more, number(f"{suffix}_zero", 0)], np.int64, shape)
        return add("Div", f"{suffix}_places", [some, number(f"{suffix}_stride", subsampling.stride)], np.int64, shape)

    wide = add("Cast", "int64", [mask], np.int64, (BATCH, SEQ), to=onnx.TensorProto.INT64)
    total = add("ReduceSum", "sum", [wide, number("axis", [1])], np.int64, (BATCH, 1), keepdims=1)
    extent = add("Shape", "extent", [mask], np.int64, (1,), start=1, end=2)
    longest = add("Squeeze", "longest", [extent, number("first", [0])], np.int64, ())
    every = places_in(longest, "longest", ())
    axes.shapes.contents |= {extent.name: [SEQ], longest.name: SEQ, every.name: grid[1]}
    order = add("Range", "range", [number("start", 0), every, number("step", 1)], np.int64, (grid[1],))
    result = add("Less", "is_place", [order, places_in(total, "sum", (BATCH, 1))], np.bool_, grid)
    if turned:
        result = add("Not", "is_padding", [result], np.bool_, grid)
    replace_uses(tensor, add("Cast", "mask", [result], onnx.helper.tensor_dtype_to_np_dtype(element), grid, to=element))

"""Where a token stands: a tensor that is true at every token, and false in the padding of the unpacked side."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.building import add_node
from passes.packing.tokens.axes import BATCH, SEQ
from passes.packing.tokens.sides import PlacedGraph
from passes.shapes.symbolic import Shape


def add_placed(
    placed: PlacedGraph,
    op: str,
    name: str,
    inputs: list[gs.Tensor],
    dtype: Any,
    shape: Shape,
    *,
    packed: bool = False,
    **attrs: Any,
) -> gs.Tensor:
    """Append a node of one output to a placed graph, with all that is known of it; the nodes' order is left behind."""
    output = add_node(placed.graph.nodes, op, name, inputs, np.dtype(dtype), **attrs)
    placed.axes.record(output, shape)
    placed.axes.shapes.dtypes[name] = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    if packed:
        placed.placement.packed.add(id(output.inputs[0]))
    return output


def token_numbers(placed: PlacedGraph, anchor: gs.Tensor, name: str) -> gs.Tensor:
    """int32 [batch, seq], one at every token: the packed side makes it, and Unpack fills with zeros.

    Args:
        placed: the graph, which gets the nodes.
        anchor: an input [batch, seq, ...].
        name: of the result, and what other names begin with.
    """
    grid = (BATCH, SEQ)
    here, shape = anchor, placed.axes.require_shape(anchor)
    if len(shape) > 2:  # one value of each token
        rest = list(range(2, len(shape)))
        zeros, ones, axes = (
            gs.Constant(f"{name}_{what}", np.array(values, np.int64))
            for what, values in (("starts", [0] * len(rest)), ("ends", [1] * len(rest)), ("axes", rest))
        )
        dtype, one = np.dtype(anchor.dtype), (*grid, *(1 for _ in rest))
        here = add_placed(placed, "Slice", f"{name}_first", [anchor, zeros, ones, axes], dtype, one, packed=True)
        here = add_placed(placed, "Squeeze", f"{name}_value", [here, axes], dtype, grid, packed=True)
    to = onnx.TensorProto
    truth = add_placed(placed, "Cast", f"{name}_truth", [here], np.bool_, grid, packed=True, to=to.BOOL)
    always = add_placed(placed, "Equal", f"{name}_always", [truth, truth], np.bool_, grid, packed=True)
    return add_placed(placed, "Cast", name, [always], np.int32, grid, packed=True, to=to.INT32)


def laid_along(placed: PlacedGraph, grid: gs.Tensor, name: str, batch: int, seq: int, rank: int) -> gs.Tensor:
    """bool [batch, seq or places] laid along the axes ``batch`` and ``seq`` of ``rank``: [n, L] -> [n, 1, 1, L]."""
    shape: list[Any] = [1] * rank
    _, places = placed.axes.require_shape(grid)
    shape[batch], shape[seq] = BATCH, places
    if batch > seq:
        grid = add_placed(placed, "Transpose", f"{name}_turned", [grid], np.bool_, (places, BATCH), perm=[1, 0])
    others = [axis for axis in range(rank) if axis not in (batch, seq)]
    if not others:
        return grid
    axes = gs.Constant(f"{name}_axes", np.array(others, np.int64))
    return add_placed(placed, "Unsqueeze", name, [grid, axes], np.bool_, tuple(shape))

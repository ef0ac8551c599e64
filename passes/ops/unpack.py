"""Unpack: from samples laid end to end to one row a sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx.defs import OpSchema

from passes.ops.common import DOMAIN, INDEX_BODY, tensor_types

SCHEMA = OpSchema(
    "Unpack",
    DOMAIN,
    1,
    doc="Reads x as a stream of tokens and gives each sample a row of its own; all other places are zero.",
    inputs=[
        OpSchema.FormalParameter("x", "T", "[R, C, ...]: the token stream, row after row"),
        OpSchema.FormalParameter("unpack_info", "I", "[N, K]: tokens of sample n in segment k"),
    ],
    outputs=[OpSchema.FormalParameter("y", "T", "[N, sum(segment_max_size), ...]")],
    type_constraints=[("T", tensor_types(), "any"), ("I", ["tensor(int32)", "tensor(int64)"], "lengths")],
    attributes=[
        OpSchema.Attribute("segment_max_size", OpSchema.AttrType.INTS, "longest sample, by segment", required=True),
        OpSchema.Attribute("max_valid_num", OpSchema.AttrType.INT, "N, the most samples in one pack", required=True),
    ],
)

#: The operator in standard operators. A leading row of zeros is what the places without a token read.
BODY = f"""
Unpack <segment_max_size, max_valid_num> (x, unpack_info) => (y)
{{
    {INDEX_BODY}
    rank1 = Constant <value_ints = [1]> ()
    from_start = Constant <value_ints = [-1]> ()
    x_shape = Shape (x)
    rest = Shape <start = 2> (x)
    stream_shape = Concat <axis = 0> (from_start, rest)
    stream = Reshape (x, stream_shape)
    zero_shape = Concat <axis = 0> (rank1, rest)
    zero = ConstantOfShape (zero_shape)
    zero_row = CastLike (zero, x)
    padded_stream = Concat <axis = 0> (zero_row, stream)
    order = CumSum (occupied, axis0)
    place = Mul (order, occupied)
    grid_shape = Shape (occupied_grid)
    index = Reshape (place, grid_shape)
    y = Gather <axis = 0> (padded_stream, index)
}}
"""


def reference(x: np.ndarray, unpack_info: np.ndarray, segment_max_size: Sequence[int]) -> np.ndarray:
    """Unpack in numpy.

    Args:
        x: [R, C, ...].
        unpack_info: [N, K] lengths.
        segment_max_size: K extents.

    Returns:
        [N, sum(segment_max_size), ...], of x's dtype.
    """
    stream = x.reshape(-1, *x.shape[2:])
    y = np.zeros((len(unpack_info), sum(segment_max_size), *x.shape[2:]), x.dtype)
    starts = np.cumsum([0, *segment_max_size[:-1]])
    position = 0
    for row, lengths in zip(y, unpack_info, strict=True):
        for start, length in zip(starts, lengths, strict=True):
            row[start : start + length] = stream[position : position + length]
            position += int(length)
    return y

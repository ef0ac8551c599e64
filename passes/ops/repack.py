"""Repack: from one row a sample back to samples laid end to end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx.defs import OpSchema

from passes.ops.common import DOMAIN, INDEX_BODY, tensor_types

SCHEMA = OpSchema(
    "Repack",
    DOMAIN,
    1,
    doc="The inverse of Unpack: lays the samples' tokens end to end; the unused tail is zero.",
    inputs=[
        OpSchema.FormalParameter("y", "T", "[N, sum(segment_max_size), ...]"),
        OpSchema.FormalParameter("x_like", "X", "[R, C, ...]: gives R and C"),
        OpSchema.FormalParameter("unpack_info", "I", "[N, K]: tokens of sample n in segment k"),
    ],
    outputs=[OpSchema.FormalParameter("x", "T", "[R, C, ...]")],
    type_constraints=[
        ("T", tensor_types(), "any"),
        ("X", tensor_types(), "any"),
        ("I", ["tensor(int32)", "tensor(int64)"], "lengths"),
    ],
    attributes=[
        OpSchema.Attribute("segment_max_size", OpSchema.AttrType.INTS, "longest sample, by segment", required=True),
        OpSchema.Attribute("max_valid_num", OpSchema.AttrType.INT, "N, the most samples in one pack", required=True),
    ],
)

#: The operator in standard operators.
BODY = f"""
Repack <segment_max_size, max_valid_num> (y, x_like, unpack_info) => (x)
{{
    {INDEX_BODY}
    from_start = Constant <value_ints = [-1]> ()
    rest = Shape <start = 2> (y)
    rows_shape = Concat <axis = 0> (from_start, rest)
    rows = Reshape (y, rows_shape)
    is_occupied = Cast <to = 9> (occupied)
    tokens = Compress <axis = 0> (rows, is_occupied)
    token_count = Shape <start = 0, end = 1> (tokens)
    extents = Shape <start = 0, end = 2> (x_like)
    capacity = ReduceProd <keepdims = 1> (extents)
    tail_length = Sub (capacity, token_count)
    tail_shape = Concat <axis = 0> (tail_length, rest)
    zeros = ConstantOfShape (tail_shape)
    tail = CastLike (zeros, y)
    stream = Concat <axis = 0> (tokens, tail)
    x_shape = Concat <axis = 0> (extents, rest)
    x = Reshape (stream, x_shape)
}}
"""


def reference(
    y: np.ndarray, rows_and_columns: tuple[int, int], unpack_info: np.ndarray, segment_max_size: Sequence[int]
) -> np.ndarray:
    """Repack in numpy.

    Args:
        y: [N, sum(segment_max_size), ...].
        rows_and_columns: R and C.
        unpack_info: [N, K] lengths.
        segment_max_size: K extents.

    Returns:
        [R, C, ...], of y's dtype.
    """
    rows, columns = rows_and_columns
    stream = np.zeros((rows * columns, *y.shape[2:]), y.dtype)
    starts = np.cumsum([0, *segment_max_size[:-1]])
    position = 0
    for row, lengths in zip(y, unpack_info, strict=True):
        for start, length in zip(starts, lengths, strict=True):
            stream[position : position + length] = row[start : start + length]
            position += int(length)
    return stream.reshape(rows, columns, *y.shape[2:])

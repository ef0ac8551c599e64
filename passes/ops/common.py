"""What the operators share: their domain, their types, and the index arithmetic of Unpack and Repack."""

from __future__ import annotations

DOMAIN = "ai.graphcore"
VERSION = 1

#: `occupied_grid` [N, W] and its flat form `occupied` [N*W]: 1 where row n holds a token in column w, else 0. Column w
#: belongs to segment k when 0 <= w - start_k < min(unpack_info[n, k], segment_max_size[k]). Read row after row, the
#: occupied places are the token stream: their running count is the place in the stream.
INDEX_BODY = """
    axis0 = Constant <value_int = 0> ()
    axes_segment = Constant <value_ints = [1]> ()
    axes_sample_segment = Constant <value_ints = [0, 1]> ()
    axes_sample_column = Constant <value_ints = [0, 2]> ()
    axes_column = Constant <value_ints = [2]> ()
    all_places = Constant <value_ints = [-1]> ()
    zero_int = Constant <value_int = 0> ()
    one_int = Constant <value_int = 1> ()
    widths = Constant <value_ints : ints = @segment_max_size> ()
    ends = CumSum (widths, axis0)
    starts = Sub (ends, widths)
    width = ReduceSum <keepdims = 0> (widths)
    columns = Range (zero_int, width, one_int)
    column = Unsqueeze (columns, axes_sample_segment)
    start = Unsqueeze (starts, axes_sample_column)
    offset = Sub (column, start)
    lengths = Cast <to = 7> (unpack_info)
    lengths_that_fit = Min (lengths, widths)
    length = Unsqueeze (lengths_that_fit, axes_column)
    not_before = GreaterOrEqual (offset, zero_int)
    not_after = Less (offset, length)
    inside = And (not_before, not_after)
    inside_count = Cast <to = 7> (inside)
    occupied_grid = ReduceSum <keepdims = 0> (inside_count, axes_segment)
    occupied = Reshape (occupied_grid, all_places)
"""


def tensor_types() -> list[str]:
    """Element types that a token may have."""
    names = ("bool", "int8", "uint8", "int16", "int32", "int64", "float16", "bfloat16", "float", "double")
    return [f"tensor({name})" for name in names]

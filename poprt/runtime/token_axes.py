"""Values of a sample that have axes which grow with it: class scores by token, attention weights, inputs of pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from poprt.runtime.buffers import Array


def clear_padding(result: Array, token_axes: Sequence[int], lengths: Sequence[int]) -> None:
    """Set to zero, in place, what lies behind each sample's own length.

    Args:
        result: [n or more, ...], a row a sample.
        token_axes: the axes of ``result`` that grow with the sample.
        lengths: places of the first samples' answers.
    """
    for row, length in zip(result, lengths, strict=False):
        for axis in token_axes:
            row[(slice(None),) * (axis - 1) + (slice(length, None),)] = 0


def own_part(row: Array, token_axes: Sequence[int], length: int) -> Array:
    """Cut one sample's row of a result to its own length, along the axes that grow with it (counted from 1)."""
    return row[tuple(slice(length if axis + 1 in token_axes else None) for axis in range(row.ndim))]


def with_places(array: Array, axes: Sequence[int], places: int) -> Array:
    """``array`` cut to, or filled up with zeros to, as many ``places`` along ``axes``."""
    own = array[tuple(slice(places if axis in axes else None) for axis in range(array.ndim))]
    missing = [(0, places - extent if axis in axes else 0) for axis, extent in enumerate(own.shape)]
    return np.pad(own, missing) if any(more for _, more in missing) else own

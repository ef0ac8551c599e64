"""int8 numbers for float weights, and how far they are from them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: The largest magnitude of a weight, and the one that keeps a sum of two products within 16 bits.
FULL_RANGE, REDUCED_RANGE = 127, 63
#: The zero point of an activation, uint8, that treats both signs alike.
MIDDLE = 128
_ZERO_POINTS = np.arange(8, 256, 8)  # coarse: a choice among these does not hang on the last bit of a sample
_WORTH = 0.9  # another zero point than the middle one must save a tenth of the squared step
_MOST_ROWS = 4096


def quantise(values: Floats, axis: int, limit: int = FULL_RANGE) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric int8 for a matrix, with one scale for each place of the other axis.

    Args:
        values: float32 [rows, columns].
        axis: the axis that shares a scale: 0 gives one a column, 1 one a row.
        limit: the largest magnitude to use, at most 127.

    Returns:
        int8 [rows, columns], and float32 scales with extent 1 at ``axis``.
    """
    largest = np.abs(values).max(axis=axis, keepdims=True, initial=0.0)
    scale = np.where(largest > 0, largest / limit, 1).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale


def relative_error(values: Floats, got: NDArray[Any]) -> float:
    """The norm of the difference over the norm of ``values``; 0 where both are zero."""
    norm = float(np.linalg.norm(values))
    return float(np.linalg.norm(values - got)) / norm if norm else 0.0


def best_zero_point(largest: Floats, smallest: Floats) -> int:
    """The zero point that gives the finest steps to rows of uint8, each with its own scale.

    The scale of a row is max(largest / (255 - z), -smallest / z), so that nothing is cut off whatever z is. Values of
    both signs want 128; the output of a GELU or ReLU hardly has negative ones and gets almost twice the steps.

    Args:
        largest, smallest: the extremes of each row of the sample data, float32 [n].
    """
    step = max(1, len(largest) // _MOST_ROWS)
    high, low = np.maximum(largest[::step], 0), np.maximum(-smallest[::step], 0)
    middle = np.maximum(high / (255 - MIDDLE), low / MIDDLE)
    told = middle > 0
    if not told.any() or not np.isfinite(middle).all():
        return MIDDLE
    points = _ZERO_POINTS[_ZERO_POINTS < 255, None]
    steps = np.maximum(high[told] / (255 - points), low[told] / points) / middle[told]
    costs = np.mean(np.square(steps), axis=1)
    best = int(np.argmin(costs))
    return int(points[best, 0]) if costs[best] < _WORTH else MIDDLE

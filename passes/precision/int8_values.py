"""int8 numbers for float weights, and how far they are from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: The largest magnitude of a weight, and the one that keeps a sum of two products within 16 bits.
FULL_RANGE, REDUCED_RANGE = 127, 63
#: The zero point of an activation, uint8, that treats both signs alike.
MIDDLE = 128
#: The scale of a row of zeros; it must not be 0.
LEAST_STEP = np.float32(1e-30)
_ZERO_POINTS = np.arange(8, 256, 8)  # coarse: a choice among these does not hang on the last bit of a sample
_WORTH = 0.9  # another zero point than the middle one must save a tenth of the squared step


def quantise(values: Floats, axis: int, limit: int = FULL_RANGE) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric int8 for a matrix, with one scale for each place of the other axis.

    Args:
        values: float32 [rows, columns].
        axis: the axis that shares a scale: 0 gives one a column, 1 one a row.
        limit: the largest magnitude to use, at most 127.

    Returns:
        int8 [rows, columns], and float32 scales with extent 1 at ``axis``.
    """
    largest = np.maximum(values.max(axis, keepdims=True, initial=0), -values.min(axis, keepdims=True, initial=0))
    scale = np.where(largest > 0, largest / limit, 1).astype(np.float32)
    with np.errstate(invalid="ignore"):  # a weight that is not finite shows in its error
        levels = values / scale
        return np.rint(levels, out=levels).astype(np.int8), scale


def rounded_rows(rows: Floats, zero_point: int) -> Floats:
    """``rows``, float32 [rows, columns], as an activation in uint8 with one scale a row would have them."""
    high = rows.max(axis=1, keepdims=True, initial=0) * np.float32(1 / (255 - zero_point))
    low = rows.min(axis=1, keepdims=True, initial=0) * np.float32(-1 / zero_point)
    steps = np.maximum(np.maximum(high, low), LEAST_STEP)
    levels: Floats = rows / steps
    np.rint(levels, out=levels)
    levels *= steps
    return levels


@dataclass(frozen=True)
class Rounding:
    """How an activation becomes uint8.

    Attributes:
        zero_point: the same for all tokens.
        factors: what each channel is divided by before, float32 [channels]; None for nothing.
    """

    zero_point: int = MIDDLE
    factors: Floats | None = None

    @classmethod
    def best(cls, rows: Floats, factors: Floats | None = None) -> Rounding:
        """The one with the zero point that suits ``rows``, float32 [rows, channels], once they are divided."""
        divided = cls(factors=factors).divided(rows)
        return cls(best_zero_point(divided.max(axis=1, initial=0), divided.min(axis=1, initial=0)), factors)

    def divided(self, rows: Floats) -> Floats:
        """``rows`` by the factors."""
        return rows if self.factors is None else rows / self.factors

    def rounded(self, rows: Floats) -> Floats:
        """``rows`` as a product's integers stand for them, still divided."""
        return rounded_rows(self.divided(rows), self.zero_point)


class QuantisedWeights:
    """Quantises each weight once, though it is measured, judged and written.

    Args:
        limit: the largest magnitude in a product's weight; tables always use all 8 bits.
    """

    def __init__(self, limit: int = FULL_RANGE) -> None:
        self.limit = limit
        self._known: dict[tuple[str, bool], tuple[NDArray[np.int8], Floats]] = {}

    def multiply(self, name: str, transposed: bool, matrix: Floats, factors: Floats) -> None:
        """Let :meth:`columns` give ``matrix`` with its rows multiplied by ``factors``, float32 [rows]."""
        self.put(name, transposed, quantise(matrix * factors[:, None], 0, self.limit))

    def put(self, name: str, transposed: bool, quantised: tuple[NDArray[np.int8], Floats]) -> None:
        """Let :meth:`columns` give these levels and scales."""
        self._known[name, transposed] = quantised

    def columns(self, name: str, transposed: bool, matrix: Floats) -> tuple[NDArray[np.int8], Floats]:
        """int8 [rows, columns] and a scale [1, columns] for the weight ``name``, whose matrix is stored transposed."""
        key = (name, transposed)
        if key not in self._known:
            levels, scale = quantise(matrix, 0, self.limit)
            self._known[key] = np.ascontiguousarray(levels), scale
        return self._known[key]

    def rows(self, name: str, table: Floats) -> tuple[NDArray[np.int8], Floats]:
        """int8 [rows, columns] and a scale [rows, 1] for the table ``name``."""
        key = (f"{name} by rows", False)
        if key not in self._known:
            self._known[key] = quantise(table, 1)
        return self._known[key]


def relative_error(values: Floats, levels: NDArray[np.int8], scale: Floats) -> float:
    """Norm of ``values - levels * scale`` over the norm of ``values``; infinite where that is not finite."""
    with np.errstate(invalid="ignore"):
        norm, error = float(np.linalg.norm(values)), float(np.linalg.norm(values - levels * scale))
    if not np.isfinite(norm) or not np.isfinite(error):
        return np.inf
    return error / norm if norm else 0.0


def best_zero_point(largest: Floats, smallest: Floats) -> int:
    """The zero point that gives the finest steps to rows of uint8, each with its own scale.

    The scale of a row is max(largest / (255 - z), -smallest / z), so that nothing is cut off whatever z is. Values of
    both signs want 128; the output of a GELU or ReLU hardly has negative ones and gets almost twice the steps.

    Args:
        largest, smallest: the extremes of each row of the sample data, float32 [n].
    """
    high, low = np.maximum(largest, 0), np.maximum(-smallest, 0)
    middle = np.maximum(high / (255 - MIDDLE), low / MIDDLE)
    told = middle > 0
    if not told.any() or not np.isfinite(middle).all():
        return MIDDLE
    points = _ZERO_POINTS[_ZERO_POINTS < 255, None]
    steps = np.maximum(high[told] / (255 - points), low[told] / points) / middle[told]
    costs = np.mean(np.square(steps), axis=1)
    best = int(np.argmin(costs))
    return int(points[best, 0]) if costs[best] < _WORTH else MIDDLE

"""What is known of a set of numbers: those in the padded places of a tensor, or in its real ones."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

#: The largest finite float32; whatever is known to be a number lies within.
LARGEST = 3.4028234663852886e38
#: A score this low gets no weight in a softmax beside scores of ordinary size: exp underflows at -104 already.
LOW_SCORE = -1000.0
#: A value this low is below every ordinary value. The lowest float16 counts, -10000 does not: hidden states reach it.
LOWEST_VALUE = -6e4


@dataclass(frozen=True)
class Values:
    """Numbers between two bounds, in the float sense: an infinite bound means that infinity may be among them.

    Attributes:
        low, high: the bounds.
        ordinary: whether a number of ordinary size, of which nothing else is known, is added to each.
        nan: whether NaN may be among them.
    """

    low: float
    high: float
    ordinary: bool = False
    nan: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether it is one number."""
        return self.low == self.high and not self.ordinary and not self.nan

    @property
    def is_zero(self) -> bool:
        """Whether it is zero and nothing else."""
        return self.is_exact and self.low == 0

    @property
    def is_finite(self) -> bool:
        """Whether neither NaN nor infinity is among them."""
        return not self.nan and self.low >= -LARGEST and self.high <= LARGEST

    @property
    def is_unbounded(self) -> bool:
        """Whether nothing is known but that they are numbers."""
        return self.low <= -LARGEST and self.high >= LARGEST

    def is_below(self, floor: float) -> bool:
        """Whether all lie at ``floor`` or below, up to an ordinary number."""
        return not self.nan and self.high <= floor

    def as_padding_sees_it(self) -> Values:
        """Real values of unknown size, read where padding is computed: numbers of ordinary size."""
        return replace(ORDINARY, nan=self.nan) if self.is_unbounded and not self.ordinary else self


def exactly(number: float) -> Values:
    """One number."""
    return Values(float(number), float(number))


ZERO, ONE, UNIT = exactly(0), exactly(1), Values(0.0, 1.0)
NUMBER = Values(-LARGEST, LARGEST)
ORDINARY = Values(0.0, 0.0, ordinary=True)
UNKNOWN = Values(-math.inf, math.inf, nan=True)


def hull(parts: Iterable[Values]) -> Values:
    """What holds for all the parts together."""
    items = list(parts)
    return Values(
        min(item.low for item in items),
        max(item.high for item in items),
        any(item.ordinary for item in items),
        any(item.nan for item in items),
    )


def add(left: Values, right: Values) -> Values:
    """Sums; an infinity and its opposite give NaN."""
    low, high = left.low + right.low, left.high + right.high
    nan = left.nan or right.nan or _may_cancel(left, right)
    if math.isnan(low) or math.isnan(high):
        return UNKNOWN
    return Values(_clamped(low, left, right), _clamped(high, left, right), left.ordinary or right.ordinary, nan)


def _may_cancel(left: Values, right: Values) -> bool:
    return (left.high == math.inf and right.low == -math.inf) or (left.low == -math.inf and right.high == math.inf)


def _clamped(bound: float, *operands: Values) -> float:
    """A bound that left the finite range only because nothing was known of the operands."""
    return max(-LARGEST, min(LARGEST, bound)) if all(item.is_finite for item in operands) else bound


def negate(values: Values) -> Values:
    """The numbers with the other sign."""
    return replace(values, low=-values.high, high=-values.low)


def multiply(left: Values, right: Values) -> Values:
    """Products; zero times a number is zero, times an infinity or NaN it is NaN."""
    if (left.is_zero and right.is_finite) or (right.is_zero and left.is_finite):
        return ZERO
    if left.nan or right.nan or not (left.is_finite and right.is_finite):
        return _unbounded_product(left, right)
    if left.ordinary and right.ordinary:
        return ORDINARY
    if left.ordinary or right.ordinary:
        exact = right if left.ordinary else left
        return _scaled(left if left.ordinary else right, exact)
    products = [a * b for a in (left.low, left.high) for b in (right.low, right.high)]
    return Values(max(-LARGEST, min(products)), min(LARGEST, max(products)))


def _unbounded_product(left: Values, right: Values) -> Values:
    if left.is_exact and right.is_exact and not (left.is_zero or right.is_zero):
        return exactly(left.low * right.low)
    return UNKNOWN


def _scaled(ordinary: Values, factor: Values) -> Values:
    """Ordinary numbers times a factor that keeps their size; a large one makes them numbers of any size."""
    if max(abs(factor.low), abs(factor.high)) > 100:
        return NUMBER if not factor.is_unbounded else ORDINARY
    products = [a * b for a in (ordinary.low, ordinary.high) for b in (factor.low, factor.high)]
    return Values(min(products), max(products), ordinary=True)


def divide(left: Values, right: Values, *, real_divisor: bool) -> Values:
    """Quotients.

    Args:
        left, right: dividend and divisor.
        real_divisor: whether the divisor stands in real places; a zero there spoils the sample's answer anyway.
    """
    if not right.ordinary and right.is_finite and (right.low > 0 or right.high < 0):
        inverse = Values(min(1 / right.low, 1 / right.high), max(1 / right.low, 1 / right.high))
        if inverse.is_finite:  # not where the divisor is next to nothing
            return multiply(left, inverse)
    if real_divisor and left.is_finite:
        return ZERO if left.is_zero else ORDINARY
    return UNKNOWN


def largest(left: Values, right: Values) -> Values:
    """The larger of each pair."""
    return Values(
        max(left.low, right.low), max(left.high, right.high), left.ordinary or right.ordinary, left.nan or right.nan
    )


def smallest(left: Values, right: Values) -> Values:
    """The smaller of each pair."""
    return negate(largest(negate(left), negate(right)))

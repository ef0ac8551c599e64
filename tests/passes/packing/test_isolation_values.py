"""Bounds of sets of numbers hold for the numbers, and facts go where their axes go."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.packing.isolation import values as v
from passes.packing.isolation.facts import Facts, facts_of, moved
from passes.packing.isolation.values import Values

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda number: number + 0.0)  # no -0.0: it sorts as 0.0


@st.composite
def sets(draw: st.DrawFn) -> tuple[Values, float]:
    """Bounds, and a number within them."""
    low, high = sorted(draw(st.tuples(NUMBERS, NUMBERS)))
    return Values(low, high), draw(st.floats(low, high))


def holds(bounds: Values, number: float) -> bool:
    slack = 1e-9 * max(1.0, abs(number))
    return bounds.ordinary or (bounds.low - slack <= number <= bounds.high + slack)


@pytest.mark.parametrize(
    ("of_sets", "of_numbers"),
    [
        (v.add, lambda a, b: a + b),
        (v.multiply, lambda a, b: a * b),
        (v.largest, max),
        (v.smallest, min),
        (lambda a, b: v.hull([a, b]), lambda a, b: a),
        (lambda a, b: v.negate(a), lambda a, b: -a),
    ],
    ids=["add", "multiply", "largest", "smallest", "hull", "negate"],
)
@given(sets(), sets())
def test_bounds_hold_for_what_is_computed(
    of_sets: Callable[[Values, Values], Values],
    of_numbers: Callable[[float, float], float],
    left: tuple[Values, float],
    right: tuple[Values, float],
) -> None:
    assert holds(of_sets(left[0], right[0]), of_numbers(left[1], right[1]))


@given(sets(), sets())
def test_bounds_hold_for_quotients(left: tuple[Values, float], right: tuple[Values, float]) -> None:
    quotients = v.divide(left[0], right[0], real_divisor=False)
    if right[1] != 0 and quotients != v.UNKNOWN:
        quotient = max(-v.LARGEST, min(v.LARGEST, left[1] / right[1]))  # as products are: numbers stay numbers
        assert holds(quotients, quotient)
    if right[0].low <= 0 <= right[0].high:
        assert quotients == v.UNKNOWN


def test_a_divisor_of_next_to_nothing_bounds_nothing() -> None:
    least = v.exactly(5e-324)
    assert v.divide(least, least, real_divisor=False) == v.UNKNOWN


def test_zero_times_a_number_is_zero_and_times_infinity_is_not() -> None:
    assert v.multiply(v.ZERO, v.NUMBER) == v.multiply(v.ORDINARY, v.ZERO) == v.ZERO
    assert not v.multiply(v.ZERO, v.UNKNOWN).is_finite
    assert v.multiply(v.ZERO, Values(-math.inf, 0)) == v.UNKNOWN


def test_infinities_that_cancel_may_be_nan() -> None:
    assert v.add(Values(0, math.inf), Values(-math.inf, 0)).nan
    assert not v.add(Values(0, math.inf), v.NUMBER).nan


def test_a_low_score_stays_low_beside_an_ordinary_number() -> None:
    low = v.add(v.exactly(-1e9), v.ORDINARY)
    assert low.is_below(v.LOW_SCORE)
    assert not v.add(v.exactly(-10.0), v.ORDINARY).is_below(v.LOW_SCORE)


def test_real_values_of_any_size_are_ordinary_where_padding_is_computed() -> None:
    assert v.NUMBER.as_padding_sees_it() == v.ORDINARY
    assert v.UNIT.as_padding_sees_it() == v.UNIT
    assert v.UNKNOWN.as_padding_sees_it().nan


def test_facts_follow_their_axes() -> None:
    facts = Facts(v.UNIT, {1: v.ZERO, 2: v.ONE}, v.UNIT)
    turned = moved(facts, [2, 1, 0].index)
    assert dict(turned.padded) == {1: v.ZERO, 0: v.ONE}
    reduced = moved(facts, lambda axis: None if axis == 1 else axis - 1)
    assert dict(reduced.padded) == {1: v.ONE}


def test_the_corner_counts_where_two_axes_are_padded() -> None:
    one, two = facts_of(v.UNIT, (1,), v.ZERO), Facts(v.UNIT, {1: v.ZERO, 2: v.ZERO}, v.exactly(7))
    assert one.in_padding == v.ZERO
    assert two.in_padding == Values(0, 7)
    assert two.anywhere == Values(0, 7)
    assert one.at(0) == v.UNKNOWN
    assert np.isinf(one.at(0).low)

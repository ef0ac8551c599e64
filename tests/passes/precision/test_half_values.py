"""Any float32 array becomes float16 without new infinities, NaN or lost epsilons."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from passes.precision.half_values import HalfValues

ARRAYS = hnp.arrays(np.float32, hnp.array_shapes(max_side=5), elements=st.floats(width=32))


@given(ARRAYS)
def test_infinities_and_nan_stay_and_nothing_else_becomes_one(values: NDArray[np.float32]) -> None:
    half = HalfValues().convert("w", values)
    assert half.shape == values.shape
    np.testing.assert_array_equal(np.isnan(half), np.isnan(values))
    np.testing.assert_array_equal(np.isinf(half), np.isinf(values))
    np.testing.assert_array_equal(np.signbit(half[~np.isnan(half)]), np.signbit(values[~np.isnan(values)]))


@given(ARRAYS)
def test_what_fits_is_rounded_to_nearest(values: NDArray[np.float32]) -> None:
    half = HalfValues().convert("w", values)
    fits = np.abs(values) <= 60000
    if values.size == 1:
        fits &= np.abs(values) >= 2.0**-24
    np.testing.assert_array_equal(half[fits], values[fits].astype(np.float16))


@given(ARRAYS)
def test_exactly_the_finite_values_beyond_half_are_counted(values: NDArray[np.float32]) -> None:
    converter = HalfValues()
    converter.convert("w", values)
    beyond = int(np.count_nonzero(np.isfinite(values) & (np.abs(values) > 65504)))
    assert converter.clamped.get("w", 0) == beyond


@given(st.floats(width=32, min_value=2.0**-149, max_value=2.0**-25))
def test_a_single_tiny_number_does_not_become_zero(value: float) -> None:
    half = HalfValues().convert(
        "eps",
        np.array(
            [
                value,
            ],
            np.float32,
        ),
    )
    assert half.shape == (1,)
    assert half[0] == np.float16(2.0**-24)


def test_an_empty_array_stays_empty() -> None:
    assert HalfValues().convert("w", np.zeros((0, 3), np.float32)).shape == (0, 3)

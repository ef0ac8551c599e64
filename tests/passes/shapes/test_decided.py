"""What comparisons of extents come to whatever the open extents are."""

from __future__ import annotations

from typing import Any

import pytest
import sympy

from passes.shapes.decided import equal, truth

N = sympy.Symbol("n", integer=True, positive=True)
M = sympy.Symbol("m", integer=True, nonnegative=True)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (3, 3, True),
        (3, 4, False),
        (True, 1, True),
        (N, N, True),
        (N * (M + 1), N * M + N, True),
        (N, -1, False),
        (N + 1, 0, False),
        (2 * N, 1, False),
        (N // 2, -1, False),
        (sympy.Max(0, N - 3), -1, False),
        (N, 1, None),
        (N, 0, None),
        (N, M, None),
        (N - 2, -1, None),
        (N / 2, 1, None),
        (0.5 * N, 1, None),
    ],
)
def test_equal(left: Any, right: Any, expected: bool | None) -> None:
    assert equal(left, right) is expected
    assert equal(right, left) is expected


def test_what_is_an_extent_is_not_below_zero() -> None:
    assert equal(N - 2, -1, {N - 2}) is False
    assert equal(N - 2, 0, {N - 2}) is None


@pytest.mark.parametrize(("value", "expected"), [(2, True), (0, False), (False, False), (N + 1, True), (N, None)])
def test_truth(value: Any, expected: bool | None) -> None:
    assert truth(value) is expected

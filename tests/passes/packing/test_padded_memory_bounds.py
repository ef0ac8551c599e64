"""Extents that are no polynomial of the sequence count with an upper bound of them."""

from __future__ import annotations

import pytest
import sympy

from passes.packing.tokens.axes import BATCH, SEQ
from passes.packing.tokens.memory import _at_most, _by_degree

LONGEST = 9
EXTENTS = {
    "a third": BATCH * SEQ + sympy.floor(BATCH * SEQ / 3),
    "pairs of halves": SEQ * sympy.ceiling(SEQ / 2),
    "five at most": SEQ * sympy.Min(5, SEQ),
    "three at least": SEQ * sympy.Max(3, SEQ),
    "a fraction": SEQ**3 / (SEQ + 1),
}


@pytest.mark.parametrize("extent", EXTENTS.values(), ids=EXTENTS)
def test_what_is_no_polynomial_is_bounded(extent: sympy.Expr) -> None:
    memory = _by_degree(_at_most(extent), LONGEST)
    exact = float(extent.subs({BATCH: 1, SEQ: LONGEST}))
    assert exact <= LONGEST * memory.cell_bytes + LONGEST**2 * memory.pair_bytes <= 2 * exact

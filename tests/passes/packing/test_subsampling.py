"""How extents follow from the length of the sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy

from passes.packed_model import PackedModel
from passes.packing.tokens.axes import BATCH, SEQ
from passes.packing.tokens.subsampling import Subsampling, subsampling_of
from tests.passes.rewrites import parse, say_packed


def _chain(seed: int) -> Any:
    """A length after a few convolutions, pools that round up, and places put in front or taken away."""
    rng = np.random.default_rng(seed)
    extent: Any = SEQ
    for kind, more, stride in zip(rng.integers(0, 3, 4), rng.integers(-3, 4, 4), rng.integers(1, 6, 4), strict=True):
        added = extent + int(more)
        extent = [sympy.floor(added / int(stride)), sympy.ceiling(added / int(stride)), added][kind]
    return extent


@pytest.mark.parametrize("seed", range(40))
def test_a_chain_of_windows_is_one_window(seed: int) -> None:
    extent = _chain(seed)
    places = subsampling_of(extent)
    assert places is not None
    window, stride, pad = places.receptive_field
    assert window >= 1
    assert pad >= 0
    for length in range(200, 330, 3):  # long enough for all four
        want = int(extent.subs(SEQ, length))
        assert places.places(length) == want == (length + pad - window) // stride + 1


@pytest.mark.parametrize(
    "extent",
    [BATCH, sympy.Integer(4), 2 * SEQ, SEQ * BATCH, SEQ / 2, sympy.floor(2 * SEQ / 3), SEQ + BATCH, sympy.Max(SEQ, 4)],
    ids=str,
)
def test_other_extents_are_no_window_of_the_sequence(extent: Any) -> None:
    assert subsampling_of(extent) is None


@pytest.mark.parametrize(
    "subsampling", [Subsampling(-80, 320), Subsampling(1, 1), Subsampling(0, 1), Subsampling(3, 4)]
)
def test_what_a_packed_model_says_counts_the_same_places(subsampling: Subsampling) -> None:
    model = parse("m (int64[2, 8] ids) => (int64[2, 8] y) { y = Identity (ids) }")
    say_packed(model, subsampling=subsampling.receptive_field)
    packed = PackedModel.read(model)
    assert packed is not None
    assert [packed.places(length) for length in range(2000)] == [subsampling.places(length) for length in range(2000)]
    for places in range(1, 5):
        fewest = packed.tokens(places)
        assert packed.places(fewest) >= places
        assert fewest == 1 or packed.places(fewest - 1) < places

"""Which samples share a pack: by tokens, by count, by memory, and by what each would pay for the others."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poprt.executable import PackingSpec
from poprt.runtime.pack_choice import PackLimits, choose_equal, choose_pack
from poprt.runtime.pack_cost import PackCost, fit_cost
from tests.poprt.runtime.fake_engine import executable

#: About what two layers of 384 cost on a core: padding is cheap, pairs of places are not.
COST = PackCost(start=3e-3, token=3e-4, cell=1e-6, pair=1e-7)


def packing(cell_bytes: int = 0, pair_bytes: int = 0) -> PackingSpec:
    spec = executable().packing
    assert spec is not None
    return PackingSpec(**{**spec.__dict__, "cell_bytes": cell_bytes, "pair_bytes": pair_bytes})


PLAIN = packing()


@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=60),
    st.integers(1, 300),
    st.integers(64, 300),
    st.integers(1, 20),
    st.integers(1, 4),
    st.sampled_from([None, COST]),
)
def test_a_pack_holds_the_oldest_and_keeps_to_capacity_count_and_budget(lengths, budget, capacity, most, parts, cost):
    budget = min(budget, capacity)
    chosen = choose_pack(lengths, PackLimits(budget, capacity, most, parts), PLAIN, cost)
    assert chosen[0] == 0
    assert len(chosen) == len(set(chosen)) <= most
    tokens = [lengths[i] for i in chosen]
    assert sum(tokens) <= capacity
    assert len(chosen) == 1 or sum(tokens) <= budget + max(tokens) / 2


def packs_of(lengths: list[int], limits: PackLimits, spec: PackingSpec = PLAIN, cost: PackCost | None = None):
    """Choose packs until nothing waits."""
    packs = []
    while lengths:
        chosen = choose_pack(lengths, limits, spec, cost)
        packs.append([lengths[i] for i in chosen])
        lengths = [length for i, length in enumerate(lengths) if i not in chosen]
    return packs


def test_packs_hold_samples_of_similar_length():
    lengths = np.random.default_rng(0).integers(1, 65, 128).tolist()
    in_order = [lengths[start : start + 8] for start in range(0, 128, 8)]
    chosen = packs_of(lengths, PackLimits(260, 512, 99))
    assert _padding(chosen) < _padding(in_order) / 3


def _padding(packs):
    return sum(max(pack) * len(pack) - sum(pack) for pack in packs)


def test_the_last_pack_is_about_as_large_as_the_others():
    assert [sum(pack) for pack in packs_of([10] * 42, PackLimits(200, 512, 99))] == [140, 140, 140]


def test_lanes_share_what_waits_if_it_is_worth_their_start():
    assert [sum(pack) for pack in packs_of([10] * 20, PackLimits(500, 512, 99, 2))] == [100, 50, 50]
    assert [sum(pack) for pack in packs_of([10] * 6, PackLimits(500, 512, 99, 2))] == [60]


@pytest.mark.parametrize("budget", [256, 2048, 8192])
def test_a_short_sample_does_not_ride_with_a_long_one(budget):
    lengths = np.random.default_rng(1).choice([4, 6, 8, 10, 12, 490, 500, 512], 128).tolist()
    for pack in packs_of(lengths, PackLimits(budget, 1 << 20, 999), cost=COST):
        assert max(pack) <= 12 or min(pack) >= 490
    mixed = packs_of(lengths, PackLimits(8192, 1 << 20, 999))
    assert any(max(pack) > 12 and min(pack) <= 12 for pack in mixed)


def test_a_lone_sample_rides_where_a_run_of_its_own_would_cost_more():
    dear_start = PackCost(start=1.0, token=3e-4, cell=1e-6, pair=1e-7)
    assert packs_of([500, 8], PackLimits(8192, 1 << 20, 99), cost=dear_start) == [[500, 8]]
    assert packs_of([500, 8], PackLimits(8192, 1 << 20, 99), cost=COST) == [[500], [8]]


def test_long_samples_of_different_lengths_run_alone_where_full_packs_are_cheaper():
    full = PackCost(3e-3, 3e-4, 1e-6, 1e-7, full_pair=2e-8)
    lengths = [500, 490, 510, 500, 480, 8, 9, 8, 10, 9]
    limits = PackLimits(8192, 1 << 20, 99)
    assert packs_of(lengths, limits, cost=full) == [[500, 500], [490], [510], [480], [8, 8, 9, 9, 10]]
    assert packs_of(lengths, limits, cost=COST)[0] == [500, 500, 490, 510, 480]


@given(st.lists(st.integers(1, 512), min_size=1, max_size=128), st.integers(64, 8192))
def test_packs_by_cost_never_take_much_longer_than_one_at_a_time(lengths, budget):
    packs = packs_of(lengths, PackLimits(budget, 1 << 20, 999), cost=COST)
    together = sum(COST.seconds(sum(pack), len(pack), max(pack)) for pack in packs)
    assert together <= sum(COST.seconds(length, 1, length) for length in lengths) * 1.05


@pytest.mark.parametrize(
    "cost",
    [PackCost(), PackCost(start=1.0), PackCost(cell=1.0), PackCost(pair=1.0), PackCost(token=1e-9, pair=1e9)],
)
def test_no_cost_makes_packs_of_one_of_samples_that_are_nearly_alike(cost):
    packs = packs_of(list(range(200, 328)), PackLimits(2048, 1 << 20, 999), cost=cost)
    assert len(packs) < 32


def test_a_pack_keeps_to_its_seconds_and_its_memory():
    lengths = [10] * 50
    seconds = packs_of(lengths, PackLimits(8192, 1 << 20, 999, seconds=0.02), cost=COST)
    assert len(seconds) > 1
    assert all(COST.seconds(sum(pack), len(pack), 10) <= 0.02 for pack in seconds)
    spec = packing(cell_bytes=100, pair_bytes=48)
    memory = packs_of(lengths, PackLimits(8192, 1 << 20, 999, memory=60_000), spec)
    assert [len(pack) for pack in memory] == [10] * 5
    assert spec.padded_bytes(10, 10) == 58_000
    assert packs_of([999, 999], PackLimits(8192, 1 << 20, 999, seconds=0.02, memory=60_000), spec, COST) == [
        [999],
        [999],
    ]


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=40),
    st.integers(1, 60),
    st.integers(8, 60),
    st.integers(1, 9),
    st.integers(1, 3),
)
def test_a_pack_of_one_length_keeps_to_capacity_count_and_budget_and_its_order(lengths, budget, capacity, most, parts):
    budget = min(budget, capacity)
    chosen = choose_equal(lengths, lengths, PackLimits(budget, capacity, most, parts), PLAIN)
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))
    assert {lengths[i] for i in chosen} == {lengths[0]}
    skipped = [i for i in range(chosen[-1]) if lengths[i] == lengths[0] and i not in chosen]
    assert not skipped
    tokens = sum(lengths[i] for i in chosen)
    assert tokens <= capacity
    assert len(chosen) <= most
    assert len(chosen) == 1 or tokens <= budget + lengths[0] / 2


def test_packs_of_one_length_are_about_equally_large_and_lanes_share_them():
    assert [len(pack) for pack in _equal_packs([10] * 42, PackLimits(200, 512, 99))] == [14, 14, 14]
    assert [len(pack) for pack in _equal_packs([10] * 20, PackLimits(500, 512, 99, 2))] == [10, 5, 5]
    # Others wait: they are for the other lane, and a pack of ten stays whole.
    others = _equal_packs([10] * 10 + [7] * 99, PackLimits(100, 512, 99, 2))
    assert [len(pack) for pack in itertools.islice(others, 1)] == [10]


def test_a_pack_of_one_length_keeps_to_its_seconds_and_its_memory():
    spec = packing(cell_bytes=100, pair_bytes=48)
    assert [len(p) for p in _equal_packs([10] * 50, PackLimits(9999, 9999, 999, memory=60_000), spec)] == [10] * 5
    packs = list(_equal_packs([10] * 50, PackLimits(9999, 9999, 999, seconds=0.02), cost=COST))
    assert len(packs) > 1
    assert all(COST.seconds(10 * len(pack), len(pack), 10) <= 0.02 for pack in packs)
    assert len(list(_equal_packs([99] * 3, PackLimits(9999, 9999, 999, seconds=1e-6, memory=1), spec, COST))) == 3


def _equal_packs(lengths, limits, spec=PLAIN, cost=None):
    while lengths:
        chosen = choose_equal(lengths, lengths, limits, spec, cost)
        yield [lengths[i] for i in chosen]
        lengths = [length for i, length in enumerate(lengths) if i not in chosen]


_TIMED = [(8,), (32, *[1] * 15), (256, 1, 1, 1), (64,) * 4, (64,) * 8]


def test_the_cost_is_read_off_a_few_packs():
    cost = fit_cost(_TIMED, [COST.seconds(sum(p), len(p), max(p)) for p in _TIMED])
    for part in ("start", "token", "cell", "pair"):
        assert getattr(cost, part) == pytest.approx(getattr(COST, part), rel=1e-6)


def test_the_cost_of_full_packs_is_read_off_too():
    full = PackCost(3e-3, 3e-4, 1e-6, 1e-7, full_pair=2e-8)
    packs = [*_TIMED, (256,)]
    seconds = [full.seconds(sum(p), len(p), max(p), len(set(p)) == 1) for p in packs]
    cost = fit_cost(packs, seconds, full_packs=True)
    assert cost.full_pair == pytest.approx(2e-8, rel=1e-6)
    assert cost.pair == pytest.approx(1e-7, rel=1e-6)


@given(st.lists(st.floats(0.5, 2), min_size=5, max_size=5))
def test_noise_makes_no_part_of_the_cost_negative(noise):
    seconds = [COST.seconds(sum(p), len(p), max(p)) * factor for p, factor in zip(_TIMED, noise, strict=True)]
    cost = fit_cost(_TIMED, seconds)
    assert min(cost.start, cost.token, cost.cell, cost.pair) >= 0
    assert math.isfinite(cost.seconds(100, 4, 50))
    assert cost.seconds(100, 4, 50) > 0

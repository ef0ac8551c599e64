"""The token budget is the smallest pack size that is about as fast a token as the fastest."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest

from poprt.runtime.budget import PackPlan, plan_packs
from tests.poprt.runtime.fake_engine import executable


def _plan(
    seconds: Callable[[int], float], *, rows: int = 64, count: int = 1000, budget: int | None = None
) -> tuple[PackPlan, list[int]]:
    """The plan for an engine that takes so long for so many tokens, and the tokens of the packs of equal samples."""
    packing = executable(rows=rows, columns=64, segments=(64,), max_valid_num=count).packing
    assert packing is not None
    tried: list[int] = []

    def time_pack(lengths: Sequence[int]) -> float:
        if len(lengths) > 1 and len(set(lengths)) == 1:
            tried.append(sum(lengths))
        return seconds(sum(lengths))

    return plan_packs(time_pack, packing, count, budget), tried


def test_equal_speed_takes_the_smallest_pack() -> None:
    assert _plan(lambda size: size * 1e-6)[0].budget == 256


def test_a_cost_a_run_takes_a_larger_pack() -> None:
    assert _plan(lambda size: 0.01 + size * 1e-6)[0].budget == 2048


def test_a_pack_that_leaves_the_caches_is_not_taken() -> None:
    assert _plan(lambda size: 1e-4 + size * (1e-6 if size <= 512 else 2e-6))[0].budget == 512


def test_a_slow_engine_is_not_tried_for_long() -> None:
    spent = 0.0

    def slow(size: int) -> float:
        nonlocal spent
        spent += 0.01 * size
        return 0.01 * size

    plan, tried = _plan(slow)
    assert plan.budget == 256
    assert set(tried) <= {256}
    assert spent < 2
    assert plan.cost.token == pytest.approx(0.01, rel=1e-3)
    assert plan.cost.pair > 0  # a short sample does not ride with a very long one


@pytest.mark.parametrize("stalled", [range(1, 5), range(5, 9), range(2, 3)])
def test_a_machine_that_stalls_while_it_is_measured_leaves_the_cost_as_it_is(stalled: range) -> None:
    runs = itertools.count()

    def seconds(size: int) -> float:
        return (0.001 + size * 1e-5) * (20 if next(runs) in stalled else 1)

    cost = _plan(seconds)[0].cost
    assert cost.seconds(256, 4, 64) == pytest.approx(0.001 + 256e-5, rel=1e-3)
    assert cost.cell + cost.pair == pytest.approx(0, abs=1e-9)


def test_a_clock_that_sees_no_time_pass_gives_a_finite_cost() -> None:
    cost = _plan(lambda _: 0.0)[0].cost
    assert 0 <= cost.seconds(256, 4, 64) < 1


@pytest.mark.parametrize("budget", [0, 100, 4096])
def test_a_budget_of_the_caller_stays_and_the_cost_is_found_all_the_same(budget: int) -> None:
    plan, tried = _plan(lambda size: 0.01 + size * 1e-6, budget=budget)
    assert plan.budget == budget
    assert set(tried) == {256}
    assert plan.cost.seconds(512, 8, 64) == pytest.approx(0.01 + 512e-6, rel=1e-3)


@pytest.mark.parametrize(("rows", "count", "limit"), [(8, 1000, 512), (64, 8, 512), (1, 1000, 64)])
def test_the_executable_bounds_the_budget(rows: int, count: int, limit: int) -> None:
    assert _plan(lambda size: 0.01 + size * 1e-6, rows=rows, count=count)[0].budget == limit

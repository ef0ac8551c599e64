"""The token budget is the smallest pack size that is about as fast a token as the fastest."""

from __future__ import annotations

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
    plan, tried = _plan(float)
    assert plan.budget == 256
    assert set(tried) == {256}


@pytest.mark.parametrize("budget", [0, 100, 4096])
def test_a_budget_of_the_caller_stays_and_the_cost_is_found_all_the_same(budget: int) -> None:
    plan, tried = _plan(lambda size: 0.01 + size * 1e-6, budget=budget)
    assert plan.budget == budget
    assert set(tried) == {256}
    assert plan.cost.seconds(512, 8, 64) == pytest.approx(0.01 + 512e-6, rel=1e-3)


@pytest.mark.parametrize(("rows", "count", "limit"), [(8, 1000, 512), (64, 8, 512), (1, 1000, 64)])
def test_the_executable_bounds_the_budget(rows: int, count: int, limit: int) -> None:
    assert _plan(lambda size: 0.01 + size * 1e-6, rows=rows, count=count)[0].budget == limit

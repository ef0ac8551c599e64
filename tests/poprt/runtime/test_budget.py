"""The token budget is the smallest pack size that is about as fast a token as the fastest."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from poprt.runtime import budget
from tests.poprt.runtime.fake_engine import executable


def _found(
    monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float], *, rows: int = 64, count: int = 1000
) -> int:
    manifest = executable(rows=rows, columns=64, segments=(64,), max_valid_num=count).manifest
    monkeypatch.setattr(budget, "_run", lambda stream, manifest, packing, size, length: seconds(size))
    assert manifest.packing is not None
    return budget.find_token_budget(None, manifest, manifest.packing, count)  # type: ignore[arg-type]


def test_equal_speed_takes_the_smallest_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _found(monkeypatch, lambda size: size * 1e-6) == 256


def test_a_cost_a_run_takes_a_larger_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _found(monkeypatch, lambda size: 0.01 + size * 1e-6) == 2048


def test_a_pack_that_leaves_the_caches_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _found(monkeypatch, lambda size: 1e-4 + size * (1e-6 if size <= 512 else 2e-6)) == 512


def test_a_slow_engine_is_not_tried_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def slow(size: int) -> float:
        tried.append(size)
        return float(size)

    assert _found(monkeypatch, slow) == 256
    assert set(tried) == {256}


@pytest.mark.parametrize(("rows", "count", "limit"), [(8, 1000, 512), (64, 8, 512), (1, 1000, 64)])
def test_the_executable_bounds_the_budget(monkeypatch: pytest.MonkeyPatch, rows: int, count: int, limit: int) -> None:
    assert _found(monkeypatch, lambda size: 0.01 + size * 1e-6, rows=rows, count=count) == limit

"""The cores are shared among lanes as the caller asks, or as it suits the engine."""

from __future__ import annotations

import pytest

from poprt.engine import lanes as engine_lanes
from poprt.engine.lanes import Lanes, choose_lanes, share_cores


@pytest.mark.parametrize(
    ("cores", "lanes", "threads", "side_by_side", "count", "each"),
    [
        (1, None, None, True, 1, 1),
        (2, None, None, True, 2, 2),
        (16, None, None, True, 16, 16),
        (64, None, None, True, 16, 64),
        (16, None, None, False, 1, 16),
        (16, 8, None, False, 8, 16),
        (2, 8, None, True, 8, 2),
        (16, None, 8, True, 8, 8),
        (16, None, 1, True, 16, 1),
        (2, None, 3, True, 3, 3),
        (16, 3, 2, True, 3, 2),
    ],
)
def test_the_cores_are_shared(
    cores: int, lanes: int | None, threads: int | None, side_by_side: bool, count: int, each: int
) -> None:
    assert share_cores(cores, lanes, threads, side_by_side=side_by_side) == Lanes(count, each)


@pytest.mark.parametrize(
    ("providers", "any_size", "expected"),
    [
        (["CPUExecutionProvider"], True, Lanes(8, 8)),
        (["CPUExecutionProvider"], False, Lanes(1, 8)),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], True, Lanes(1, 8)),
    ],
)
def test_only_a_graph_of_any_size_on_a_cpu_is_run_side_by_side(
    providers: list[str], any_size: bool, expected: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_lanes, "usable_cores", lambda: 8)
    assert choose_lanes(providers=providers, any_size=any_size) == expected
    assert choose_lanes(3, 5, providers, any_size=any_size) == Lanes(3, 5)

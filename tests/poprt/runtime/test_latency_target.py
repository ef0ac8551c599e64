"""`latency_target` bounds the seconds of a pack; where it can bound nothing, the runner says so."""

from __future__ import annotations

import datetime
import logging
from typing import Any

import numpy as np
import pytest

from poprt.errors import PoprtError
from poprt.runtime import PackRunner, PackRunnerConfig
from tests.poprt.runtime.fake_engine import FakeEngine, executable

SOON = 20

#: Of a stand-in for the engine: see ``untimed_fakes``.
_A_TOKEN = 1e-6


def start(config: PackRunnerConfig, **shape: Any) -> tuple[PackRunner, FakeEngine]:
    compiled = executable(rows=64, max_valid_num=64, **shape)
    engine = FakeEngine(compiled)
    return PackRunner(compiled, config, session=engine), engine


def pack_sizes(target: float | datetime.timedelta | None) -> list[int]:
    """Tokens of the packs that 40 samples of 4 tokens make which wait together."""
    runner, engine = start(PackRunnerConfig(token_budget=0, latency_target=target))
    ids = np.arange(1, 5, dtype=np.int32)
    engine.gate.clear()
    futures = [runner.execute_async({"input_ids": ids, "attention_mask": np.ones_like(ids)}, {}) for _ in range(1)]
    assert engine.entered.wait(SOON)
    futures += [runner.execute_async({"input_ids": ids, "attention_mask": np.ones_like(ids)}, {}) for _ in range(40)]
    engine.gate.set()
    for future in futures:
        future.wait(SOON)
    runner.close()
    return [call["input_ids"].size for call in engine.calls[1:]]


def test_a_pack_takes_half_of_the_target_at_most() -> None:
    assert pack_sizes(None) == [160]
    assert pack_sizes(2 * 80.5 * _A_TOKEN) == [80, 80]
    assert pack_sizes(datetime.timedelta(microseconds=2 * 41)) == [40] * 4


def test_a_target_that_no_run_keeps_is_announced_and_requests_run_alone(caplog: pytest.LogCaptureFixture) -> None:
    assert pack_sizes(1e-9) == [4] * 40
    assert "latency_target=1e-09 s cannot be kept: the shortest run takes 1e-06 s" in caplog.messages


@pytest.mark.parametrize("shape", [{"ragged": False}, {"layout": "within_rows", "ragged": False, "unpack": False}])
def test_a_target_has_no_effect_where_every_run_takes_the_same(
    shape: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "poprt"):
        runner, _ = start(PackRunnerConfig(latency_target=1.0), **shape)
        runner.close()
    assert caplog.messages == ["latency_target has no effect: every run of this executable takes the same time"]


def test_a_target_that_the_timeout_misses_is_refused() -> None:
    config = PackRunnerConfig(latency_target=0.01, timeout_microseconds=10_000, send_when_idle=False)
    with pytest.raises(PoprtError, match=r"latency_target=0.01: with send_when_idle off .* may wait 0.01 s for others"):
        start(config)
    config.timeout_microseconds = 9000
    start(config)[0].close()

"""What an observer is told of each pack, and that it can do no harm."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from poprt.errors import RunnerClosedError
from poprt.runtime import PackObservation, PackRunner, PackRunnerConfig, RuntimeConfig
from tests.poprt.runtime.fake_engine import BAD_ID, FakeEngine, executable, with_budget
from tests.poprt.runtime.recorder import SOON, Death
from tests.poprt.runtime.test_model_runner import request
from tests.poprt.runtime.test_model_runner import start as start_model
from tests.poprt.runtime.test_submit import KINDS, hold, sample


def start(observer: Any, **shape: Any) -> tuple[PackRunner, FakeEngine]:
    compiled = executable(**shape)
    engine = FakeEngine(compiled)
    return PackRunner(compiled, with_budget(PackRunnerConfig(observer=observer)), session=engine), engine


def test_an_observation_counts_its_samples_and_what_padding_would_add() -> None:
    observation = PackObservation(1.0, 2.0, (0.1, 0.2, 0.3), (3, 5, 1), lane=0)
    assert (observation.samples, observation.tokens, observation.padded_tokens) == (3, 9, 15)
    with pytest.raises(AttributeError):
        observation.lane = 1  # type: ignore[misc]


@pytest.mark.parametrize("kind", KINDS)
def test_each_pack_is_observed_once(kind: str) -> None:
    observations: list[PackObservation] = []
    runner, engine = start(observations.append, **KINDS[kind])
    before = time.perf_counter()
    hold(runner, engine)
    futures = runner.submit([sample(1, 2), sample(3), sample(4, 5, 6)])
    futures[1].cancel()
    engine.gate.set()
    runner.close()
    after = time.perf_counter()
    assert [sorted(each.lengths) for each in observations] == [[1], [2, 3]]
    assert all(each.error is None and each.lane == 0 for each in observations)
    stats = runner.stats()
    assert sum(each.engine_seconds for each in observations) == pytest.approx(stats.engine_seconds)
    assert sum(each.tokens for each in observations) == stats.tokens
    for each in observations:
        assert before <= each.started <= after
        assert len(each.queue_seconds) == each.samples
        assert all(0 <= seconds <= after - before for seconds in each.queue_seconds)


def test_a_model_runner_observes_rows() -> None:
    observations: list[PackObservation] = []
    runner, _ = start_model(RuntimeConfig(batching_dim=0, observer=observations.append))
    runner.execute(*request(3))
    runner.close()
    (each,) = observations
    assert (each.lengths, each.lane, each.error) == ((3,), 0, None)
    assert each.engine_seconds > 0


def test_a_pack_that_fails_is_observed_once_with_its_error() -> None:
    observations: list[PackObservation] = []
    runner, engine = start(observations.append)
    hold(runner, engine)
    futures = runner.submit([sample(1), sample(BAD_ID), sample(3)])
    engine.gate.set()
    runner.close()
    assert [future.exception() is None for future in futures] == [True, False, True]
    assert [each.samples for each in observations] == [1, 3]
    assert isinstance(observations[1].error, ValueError)


def test_a_pack_that_ends_its_lane_is_observed() -> None:
    observations: list[PackObservation] = []
    runner, engine = start(observations.append)
    engine.death = Death("power cut")
    with pytest.raises(RunnerClosedError):
        runner.execute(*sample(1))
    runner.close()
    assert [each.error for each in observations] == [engine.death]


def test_the_observer_is_called_by_the_lane_when_the_answers_are_out_and_may_ask_the_runner() -> None:
    calls: list[Any] = []
    told = threading.Event()

    def observe(_: PackObservation) -> None:
        calls.append((threading.current_thread().name, future.done(), runner.running(), runner.pending().requests))
        told.set()

    runner, engine = start(observe)
    future = hold(runner, engine)
    engine.gate.set()
    assert told.wait(SOON)
    runner.close()
    assert calls == [("poprt-lane-0", True, 0, 0)]


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_an_observer_that_raises_is_logged_once(error: type, caplog: pytest.LogCaptureFixture) -> None:
    def observe(_: PackObservation) -> None:
        raise error("from an observer")

    runner, _ = start(observe)
    for ids in range(5):
        inputs, outputs = sample(ids)
        runner.execute(inputs, outputs)
        np.testing.assert_array_equal(outputs["logits"], [ids])
    runner.close()
    assert runner.failure is None
    assert caplog.text.count("an observer raised") == 1

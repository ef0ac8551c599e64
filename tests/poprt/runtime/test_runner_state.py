"""What a runner tells of its lanes: how many are busy, that one has died, and that it is not there in a fork."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from poprt.errors import RunnerClosedError
from poprt.runtime import PackRunner, PackRunnerConfig
from tests.poprt.runtime.fake_engine import FakeEngine, executable, with_budget
from tests.poprt.runtime.recorder import SOON, Death
from tests.poprt.runtime.test_failures import error_of, in_a_fork
from tests.poprt.runtime.test_submit import hold, sample, start, wait_until


def test_a_lane_that_dies_is_told_once_to_everyone_who_asked(caplog: pytest.LogCaptureFixture) -> None:
    runner, engine = start()
    told: list[Any] = []
    answered: list[bool] = []

    def broken(_: BaseException) -> None:
        raise ValueError("from a callback")

    first = hold(runner, engine)
    (waiting,) = runner.submit([sample(2)])
    runner.on_failure(broken)
    runner.on_failure(lambda cause: answered.append(first.done() and waiting.done()))
    runner.on_failure(told.append)
    assert runner.failure is None
    engine.death = Death("power cut")
    engine.gate.set()
    with pytest.raises(RunnerClosedError, match="power cut"):
        waiting.wait(SOON)
    runner.close()
    assert (told, answered, runner.failure) == ([engine.death], [True], engine.death)
    runner.on_failure(told.append)
    assert told == [engine.death] * 2
    assert runner.running() == 0
    assert "a callback for the failure of a runner raised" in caplog.text


def test_a_runner_that_is_closed_has_not_failed() -> None:
    runner, _ = start()
    told: list[BaseException] = []
    runner.on_failure(told.append)
    runner.close(cancel=True)
    assert (told, runner.failure) == ([], None)


def test_running_counts_the_lanes_that_are_busy() -> None:
    compiled = executable()
    engine = FakeEngine(compiled)
    engine.gate.clear()
    runner = PackRunner(compiled, with_budget(PackRunnerConfig(lanes=3, max_valid_num=1)), session=engine)
    assert (runner.lanes, runner.running()) == (3, 0)
    futures = runner.submit([sample(1), sample(2)])
    wait_until(lambda: runner.running() == 2)
    engine.gate.set()
    for future in futures:
        future.wait(SOON)
    runner.close()
    assert runner.running() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_in_a_fork_everything_is_refused_and_nothing_hangs() -> None:
    runner, engine = start()
    first = hold(runner, engine)
    (waiting,) = runner.submit([sample(2)])
    calls: list[Callable[[], Any]] = [
        lambda: runner.submit([sample(1)]),
        runner.pending,
        runner.running,
        lambda: runner.on_failure(print),
    ]
    with runner._batcher._queue._lock:  # at the fork some thread may hold the lock
        for call in calls:
            said = in_a_fork(lambda call=call: error_of(call))
            assert said.startswith("RunnerClosedError: the runner was made before this process was forked")
        assert in_a_fork(lambda: (waiting.cancel(), runner.failure)) == "(True, None)"
    engine.gate.set()
    for future in (first, waiting):
        future.wait(SOON)
    runner.close()

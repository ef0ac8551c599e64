"""What callers and the engine may do wrong without harm to others: bad requests, callbacks, answered futures, forks."""

import math
import os
import threading

import numpy as np
import pytest

from poprt.errors import ExecutableError, RunnerClosedError
from poprt.runtime import DeclaredSession, PackRunner
from poprt.runtime.batching import Request
from poprt.runtime.request import RunFuture
from tests.poprt.runtime.fake_engine import FakeEngine, executable, with_budget
from tests.poprt.runtime.recorder import SOON, blocked


@pytest.mark.parametrize("bad", [1, 37, 100])
def test_one_bad_request_of_a_hundred_costs_a_few_runs(bad):
    recorder, batcher, _ = blocked(most=100)
    recorder.errors = {bad: ValueError("bad")}
    futures = {i: batcher.submit(Request(i)) for i in range(1, 101)}
    recorder.gate.set()
    for i, future in futures.items():
        if i == bad:
            with pytest.raises(ValueError, match="bad"):
                future.wait(SOON)
        else:
            future.wait(SOON)
    batcher.close()
    runs = recorder.batches[1:]
    assert runs[0] == list(range(1, 101))
    assert len(runs) <= 1 + 2 * math.ceil(math.log2(100))


def test_bad_requests_fail_with_their_own_errors_wherever_they_stand():
    rng = np.random.default_rng(0)
    for _ in range(20):
        bad = {int(i) for i in rng.integers(1, 9, rng.integers(1, 9))}
        recorder, batcher, _ = blocked(most=8)
        recorder.errors = {i: ValueError(f"number {i}") for i in bad}
        futures = {i: batcher.submit(Request(i)) for i in range(1, 9)}
        recorder.gate.set()
        messages = {i: str(future.exception(SOON)) for i, future in futures.items()}
        assert messages == {i: f"number {i}" if i in bad else "None" for i in futures}
        batcher.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
@pytest.mark.parametrize("fails", [False, True])
def test_what_a_callback_raises_ends_no_lane_and_no_other_callback(error, fails):
    recorder, batcher, first = blocked()
    recorder.errors = {0: ValueError("engine")} if fails else {}
    called = threading.Event()

    def raise_it(_):
        raise error("from a callback")

    first.add_done_callback(raise_it)
    first.add_done_callback(lambda _: called.set())
    second = batcher.submit(Request(1))
    recorder.gate.set()
    second.wait(SOON)
    assert called.wait(SOON)
    batcher.submit(Request(2)).wait(SOON)
    batcher.close()


def test_closing_answers_every_request_whatever_the_callback_of_one_raises():
    recorder, batcher, _ = blocked()
    futures = [batcher.submit(Request(i)) for i in range(1, 4)]

    def raise_it(_):
        raise KeyboardInterrupt

    futures[0].add_done_callback(raise_it)
    with pytest.raises(KeyboardInterrupt):  # in the main thread it may be the user's
        batcher.close(cancel=True)
    assert all(isinstance(future.exception(SOON), RunnerClosedError) for future in futures)
    recorder.gate.set()
    batcher.close()


def test_a_future_that_its_caller_answers_keeps_that_answer_and_ends_no_lane():
    recorder, batcher, first = blocked(most=3)
    first.set_result("mine")  # while it runs
    futures = [batcher.submit(Request(i)) for i in range(1, 6)]
    futures[0].set_result("mine")  # while it waits
    futures[1].set_exception(KeyError("mine"))
    futures[2].set_running_or_notify_cancel()
    futures[3].cancel()
    recorder.gate.set()
    futures[4].wait(SOON)
    futures[2].wait(SOON)
    assert first.result(SOON) == futures[0].result(SOON) == "mine"
    assert isinstance(futures[1].exception(SOON), KeyError)
    assert [1] not in recorder.batches
    assert sorted(i for batch in recorder.batches for i in batch) == [0, 3, 5]
    batcher.submit(Request(9)).wait(SOON)
    batcher.close()


def in_a_fork(body):
    """Run ``body`` in a forked process and return what it gives as text; a process that hangs is ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, str(body()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    ender = threading.Timer(SOON, os.kill, (child, 9))
    ender.start()
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    ender.cancel()
    return said


def start():
    compiled = executable()
    engine = FakeEngine(compiled)
    return PackRunner(compiled, with_budget(None), session=engine), engine


def sample():
    return {"input_ids": np.arange(3, dtype=np.int32), "attention_mask": np.ones(3, np.int32)}


def error_of(call):
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    "use",
    [
        lambda runner, _: runner.execute(sample(), {}),
        lambda runner, _: runner.execute_async(sample(), {}),
        lambda _, pending: pending.wait(),
        lambda _, pending: pending.exception(),
    ],
)
def test_a_runner_made_before_a_fork_is_closed_in_the_child(use):
    runner, engine = start()
    engine.gate.clear()
    pending = runner.execute_async(sample(), {})
    assert engine.entered.wait(SOON)
    with runner._batcher._queue._not_empty:  # at the fork some thread may hold the lock
        said = in_a_fork(lambda: error_of(lambda: use(runner, pending)))
    assert said.startswith("RunnerClosedError: the runner was made before this process was forked")
    assert "'spawn'" in said
    engine.gate.set()
    pending.wait(SOON)
    runner.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_may_close_the_runner_of_its_parent_and_end():
    runner, _ = start()
    with runner._batcher._queue._not_empty:
        assert in_a_fork(lambda: (runner.close(), runner._batcher._queue.stop_at_exit())) == "(None, None)"
        assert in_a_fork(lambda: start()[0].execute(sample(), {})) == "None"  # its own runner works
    runner.execute(sample(), {})
    runner.close()


def test_a_future_that_is_answered_can_be_read_in_a_fork():
    done = RunFuture()
    done.set_result(None)
    done._process = -1
    assert done.result() is None


class WrongShapes(FakeEngine):
    """Answers with one of its outputs cut or stretched."""

    def __init__(self, compiled, name, change):
        super().__init__(compiled)
        self.name, self.change = name, change

    def _outputs(self, feeds):
        outputs = super()._outputs(feeds)
        return outputs | {self.name: self.change(outputs[self.name])}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("pooled", lambda values: values[:, :1]),
        ("pooled", lambda values: values[:, 0]),
        ("pooled", lambda values: values[:0]),
        ("pooled", lambda values: np.repeat(values, 2, axis=1)),
        ("logits", lambda values: values[:, :1]),
        ("hidden", lambda values: values[:, :, :1]),
        ("logits", lambda values: np.repeat(values, 9, axis=1)),
    ],
)
@pytest.mark.parametrize(
    "kind", [{}, {"ragged": False}, {"ragged": False, "layout": "within_rows"}], ids=["ragged", "fixed", "within_rows"]
)
def test_results_of_another_shape_than_the_declared_one_are_an_error(name, change, kind):
    compiled = executable(**kind)
    runner = PackRunner(compiled, with_budget(None), session=WrongShapes(compiled, name, change))
    out = {name: np.zeros((8, 3), np.float32)}
    with pytest.raises(ExecutableError, match=f"output '{name}': the engine answered with shape"):
        runner.execute(sample(), out)
    runner.close()
    feeds = {spec.name: np.zeros(spec.shape, np.int32) for spec in compiled.inputs}
    feeds["unpack_info"][0] = 3
    with pytest.raises(ExecutableError, match=f"output '{name}': the engine answered with shape"):
        DeclaredSession(compiled, session=WrongShapes(compiled, name, change)).run(feeds)

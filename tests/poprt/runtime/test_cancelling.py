"""Cancelled requests leave the queue at once; many threads that submit and cancel lose no answer and get none twice."""

from __future__ import annotations

import concurrent.futures
import gc
import random
import threading
import weakref
from collections import Counter
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest

from poprt.errors import QueueFullError, RunnerClosedError
from poprt.runtime import PackRunner, PackRunnerConfig, Pending, RunFuture
from poprt.runtime import request_queue as request_queue_module
from poprt.runtime.batching import Batcher, Request
from tests.poprt.runtime.fake_engine import FakeEngine, executable, expected, with_budget
from tests.poprt.runtime.recorder import SOON, Recorder, blocked
from tests.poprt.runtime.test_submit import sample, wait_until


def test_what_is_cancelled_counts_no_more_and_takes_no_place_in_the_window() -> None:
    recorder, batcher, _ = blocked(most=8, window=8)
    futures = batcher.submit_all([Request(size) for size in range(1, 33)])
    assert batcher.pending() == Pending(32, sum(range(1, 33)))
    for future in futures[::2]:
        assert future.cancel()
        assert future.cancel()
    assert batcher.pending() == Pending(16, sum(range(2, 33, 2)))
    recorder.gate.set()
    batcher.close()
    assert recorder.batches == [[0], list(range(2, 17, 2)), list(range(18, 33, 2))]  # full packs


def test_a_submitter_gets_the_room_of_what_is_cancelled() -> None:
    recorder, batcher, _ = blocked(limit=1)
    waiting = batcher.submit(Request(1))
    futures: list[RunFuture] = []
    submitter = threading.Thread(target=lambda: futures.append(batcher.submit(Request(2))))
    submitter.start()
    wait_until(lambda: batcher._queue._blocked)
    with pytest.raises(QueueFullError):
        batcher.submit_all([Request(3)])
    waiting.cancel()
    submitter.join(SOON)
    assert futures[0].cancel()
    (last,) = batcher.submit_all([Request(3)])
    recorder.gate.set()
    last.wait(SOON)
    batcher.close()
    assert recorder.batches == [[0], [3]]


def test_a_callback_of_a_cancelled_request_finds_its_room_free() -> None:
    recorder, batcher, _ = blocked(limit=1)
    waiting = batcher.submit(Request(1))
    futures: list[RunFuture] = []
    waiting.add_done_callback(lambda _: futures.append(batcher.submit(Request(2))))
    waiting.cancel()
    recorder.gate.set()
    futures[0].wait(SOON)
    batcher.close()


def test_whoever_waits_for_several_futures_sees_those_that_are_cancelled() -> None:
    recorder, batcher, first = blocked(most=1)
    waiting, other = batcher.submit_all([Request(1), Request(2)])
    seen: list[Any] = []
    watcher = threading.Thread(target=lambda: seen.append(concurrent.futures.wait([waiting], SOON)))
    watcher.start()
    waiting.cancel()
    watcher.join(SOON)
    assert seen[0].done == {waiting}
    other.cancel()
    assert concurrent.futures.wait([waiting, other], SOON).not_done == set()
    assert not first.cancel()  # it runs
    recorder.gate.set()
    batcher.close()
    assert not first.cancel()
    assert (first.exception(), recorder.batches) == (None, [[0]])


@pytest.mark.parametrize("how", ["answered", "failed", "begun"])
def test_a_request_that_its_caller_has_answered_is_not_cancelled(how: str) -> None:
    recorder, batcher, _ = blocked()
    future = batcher.submit(Request(1))
    if how == "begun":
        future.set_running_or_notify_cancel()
    else:
        future.answer(ValueError("mine") if how == "failed" else None)
    assert not future.cancel()
    recorder.gate.set()
    assert isinstance(future.exception(SOON), ValueError) == (how == "failed")
    batcher.close()
    assert recorder.batches == ([[0], [1]] if how == "begun" else [[0]])


def test_a_request_that_is_cancelled_between_choice_and_run_is_not_run() -> None:
    recorder, batcher, _ = blocked()
    (one, two) = batcher.submit_all([Request(1), Request(2)])
    choose = recorder.choose

    def choose_and_cancel(window: list[Request]) -> list[Request]:
        batch = choose(window)
        # Another thread cancels: it waits for the lock that the choice has, and finds the request gone.
        canceller = threading.Thread(target=one.cancel)
        canceller.start()
        cancellers.append(canceller)
        return batch

    cancellers: list[threading.Thread] = []
    begin = one.begin
    one.begin = lambda: (cancellers[0].join(SOON), begin())[1]  # type: ignore[method-assign]
    recorder.choose = choose_and_cancel
    recorder.gate.set()
    two.wait(SOON)
    with pytest.raises(CancelledError):
        one.wait(SOON)
    batcher.close()
    assert recorder.batches == [[0], [2]]
    assert recorder.released == [[0], [1, 2]]
    assert concurrent.futures.wait([one], SOON).done == {one}


def test_closing_answers_what_was_cancelled_as_cancelled() -> None:
    recorder, batcher, _ = blocked()
    futures = batcher.submit_all([Request(size) for size in range(1, 9)])
    for future in futures[:4]:
        future.cancel()
    batcher._queue.close(cancel=True)
    for future in futures[4:]:
        assert not future.cancel()
        assert isinstance(future.exception(SOON), RunnerClosedError)
    assert all(future.cancelled() for future in futures[:4])
    assert concurrent.futures.wait(futures, SOON).not_done == set()
    recorder.gate.set()
    batcher.close()


def test_an_answered_future_keeps_no_queue_alive() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder)
    gone = weakref.ref(batcher._queue)
    futures = [batcher.submit(Request(1))]
    futures[0].wait(SOON)
    recorder.gate.clear()
    recorder.entered.clear()
    futures.append(batcher.submit(Request(2)))
    assert recorder.entered.wait(SOON)
    futures += batcher.submit_all([Request(3), Request(4)])
    futures[2].cancel()
    recorder.gate.set()
    batcher.close()
    del batcher
    gc.collect()
    assert gone() is None
    assert [future.done() for future in futures] == [True] * 4


def test_one_who_cancels_inside_the_lock_is_not_held_up_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    # The garbage collector may end a forgotten call, which cancels its requests, in a thread that has the lock.
    monkeypatch.setattr(request_queue_module, "_LOCK_PATIENCE", 0.01)
    recorder, batcher, _ = blocked()
    futures = batcher.submit_all([Request(1), Request(2)])
    with batcher._queue._lock:
        assert futures[0].cancel()
        batcher._queue.abandon()
    assert concurrent.futures.wait(futures[:1], 0).not_done  # until a lane finds it
    recorder.gate.set()
    for lane in batcher._queue.lanes:
        lane.join(SOON)
    assert recorder.batches == [[0], [2]]
    assert concurrent.futures.wait(futures, SOON).not_done == set()
    assert futures[1].exception() is None


class Client(threading.Thread):
    """Submits in every way and cancels a part, until it has sent its share or the runner is closed."""

    def __init__(self, runner: PackRunner, seed: int, rounds: int) -> None:
        super().__init__(daemon=True)
        self.runner, self.draw, self.rounds = runner, random.Random(seed), rounds
        self.sent: list[tuple[RunFuture, Any]] = []
        self.calls: Counter[int] = Counter()
        self.refused = 0

    def run(self) -> None:
        try:
            for _ in range(self.rounds):
                self.send()
        except RunnerClosedError:
            self.refused += 1

    def send(self) -> None:
        draw = self.draw
        samples = [sample(*range(1, 1 + draw.randint(1, 8))) for _ in range(draw.randint(1, 6))]
        if draw.random() < 0.5:
            futures = [self.runner.execute_async(*samples[0])]
        else:
            try:
                futures = self.runner.submit(samples)
            except QueueFullError:
                return
        for future, each in zip(futures, samples, strict=False):
            self.sent.append((future, each))
            future.add_done_callback(lambda done: self.calls.update([id(done)]))
        for future, _ in draw.choices(self.sent, k=2):
            future.cancel()


def check(client: Client) -> int:
    """Check what a client got; return how many of its requests were run."""
    answered = 0
    for future, (inputs, outputs) in client.sent:
        assert future.done()
        assert client.calls[id(future)] == 1
        if future.cancelled():
            assert not outputs["logits"].any()
        elif future.exception() is None:
            answered += 1
            np.testing.assert_array_equal(outputs["logits"], expected(inputs["input_ids"])["logits"])
        else:
            assert isinstance(future.exception(), RunnerClosedError)
    return answered


@pytest.mark.parametrize("end", ["when all is sent", "in between", "in between, with cancel"])
@pytest.mark.parametrize(
    "options",
    [{}, {"queue_limit": 16, "queue_tokens": 60}, {"send_when_idle": False, "timeout_microseconds": 200, "window": 4}],
    ids=["roomy", "crowded", "company"],
)
def test_many_threads_that_submit_and_cancel_get_each_answer_once(end: str, options: dict[str, Any]) -> None:
    compiled = executable()
    config = with_budget(PackRunnerConfig(lanes=3, **options))
    runner = PackRunner(compiled, config, session=FakeEngine(compiled))
    clients = [Client(runner, seed, 150 if end == "when all is sent" else 100_000) for seed in range(8)]
    for client in clients:
        client.start()
    if end == "when all is sent":
        for client in clients:
            client.join(60)
    else:
        wait_until(lambda: runner.stats().samples > 500)
    runner.close(cancel=end == "in between, with cancel")
    for client in clients:
        client.join(SOON)
        assert not client.is_alive()
    futures = [future for client in clients for future, _ in client.sent]
    assert concurrent.futures.wait(futures, SOON).not_done == set()
    assert sum(check(client) for client in clients) == runner.stats().samples
    assert (runner.pending(), runner.running()) == (Pending(0, 0), 0)
    order = runner._batcher._queue._order
    assert (len(order), order._flows) == (0, 0)

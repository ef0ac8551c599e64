"""Several requests at once, all or none; how much may wait; what a runner tells of its queue and its lanes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from poprt.errors import InputError, QueueFullError, RequestTooLongError, RunnerClosedError
from poprt.runtime import ModelRunner, PackRunner, PackRunnerConfig, Pending, Runner, RuntimeConfig
from poprt.runtime.admission import QueueLimits
from poprt.runtime.batching import Batcher, Request
from poprt.runtime.company_wait import CompanyWait
from poprt.runtime.fair_order import FairOrder
from poprt.runtime.request_queue import RequestQueue
from tests.poprt.runtime.fake_engine import FakeEngine, executable, expected, with_budget
from tests.poprt.runtime.recorder import SOON, Recorder, blocked
from tests.poprt.runtime.test_failures import error_of
from tests.poprt.runtime.test_model_runner import request
from tests.poprt.runtime.test_model_runner import start as start_model

KINDS: dict[str, dict[str, Any]] = {
    "ragged": {},
    "fixed": {"ragged": False},
    "within_rows": {"layout": "within_rows", "ragged": False, "unpack": False},
}


def start(config: PackRunnerConfig | None = None, **shape: Any) -> tuple[PackRunner, FakeEngine]:
    compiled = executable(**shape)
    engine = FakeEngine(compiled)
    return PackRunner(compiled, with_budget(config), session=engine), engine


def sample(*ids: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    values = np.array(ids, np.int32)
    return {"input_ids": values, "attention_mask": np.ones_like(values)}, {"logits": np.zeros(len(ids), np.float32)}


def hold(runner: Runner, engine: Any) -> Any:
    """Have the only lane run a request until the engine's gate is opened."""
    engine.gate.clear()
    first = runner.execute_async(*sample(1))
    assert engine.entered.wait(SOON)
    return first


@pytest.mark.parametrize("kind", KINDS)
def test_requests_that_are_submitted_together_are_answered_each_in_its_own_future(kind: str) -> None:
    runner, _ = start(**KINDS[kind])
    samples = [sample(*range(number, number + 1 + number % 8)) for number in range(40)]
    for future in runner.submit(samples):
        future.wait(SOON)
    for inputs, outputs in samples:
        np.testing.assert_array_equal(outputs["logits"], expected(inputs["input_ids"])["logits"])
    assert runner.submit([]) == []
    runner.close()


def test_a_model_runner_takes_several_at_once_and_counts_rows() -> None:
    runner, engine = start_model(RuntimeConfig(batching_dim=0, queue_tokens=10))
    engine.gate.clear()
    first = runner.execute_async(*request(4))
    assert engine.entered.wait(SOON)
    futures = runner.submit([request(3), request(5)])
    assert (runner.pending(), runner.running(), runner.lanes) == (Pending(2, 8), 1, 1)
    with pytest.raises(QueueFullError, match=r"2 requests with 8 rows wait \(at most 4096 requests, 10 rows\), 1 r"):
        runner.submit([request(3)])
    engine.gate.set()
    for future in (first, *futures):
        future.wait(SOON)
    runner.close()
    assert (runner.pending(), runner.running()) == (Pending(0, 0), 0)


def test_a_batch_that_does_not_fit_is_refused_whole_and_may_be_tried_again() -> None:
    runner, engine = start(PackRunnerConfig(queue_limit=4, queue_tokens=9))
    first = hold(runner, engine)
    futures = runner.submit([sample(1, 2), sample(3)])
    refused = [[sample(1)] * 3, [sample(1), sample(1, 2, 3, 4, 5, 6)]]
    for samples in refused:
        with pytest.raises(
            QueueFullError, match=r"2 requests with 3 tokens wait \(at most 4 requests, 9 tokens\)"
        ) as full:
            runner.submit(samples)
        assert full.value.can_retry
    assert runner.pending() == Pending(2, 3)
    engine.gate.set()
    for future in (first, *futures):
        future.wait(SOON)
    for samples in refused:
        for future in runner.submit(samples):
            future.wait(SOON)
    runner.close()


@pytest.mark.parametrize(
    ("samples", "words"),
    [([sample(1)] * 5, "5 requests with 5 tokens"), ([sample(1, 2, 3, 4, 5)] * 2, "2 requests with 10 tokens")],
)
def test_a_batch_that_is_larger_than_the_queue_can_never_be_let_in(samples: list[Any], words: str) -> None:
    with start(PackRunnerConfig(queue_limit=4, queue_tokens=9))[0] as runner:
        with pytest.raises(
            QueueFullError, match=f"{words} are more than the queue takes .*: send them in parts"
        ) as full:
            runner.submit(samples)
        assert not full.value.can_retry


def test_a_request_alone_is_let_into_an_empty_queue_whatever_its_size() -> None:
    runner, engine = start(PackRunnerConfig(queue_tokens=3))
    first = hold(runner, engine)
    (long,) = runner.submit([sample(*range(8))])
    assert runner.pending() == Pending(1, 8)
    with pytest.raises(QueueFullError) as full:
        runner.submit([sample(*range(8))])
    assert full.value.can_retry
    engine.gate.set()
    first.wait(SOON)
    long.wait(SOON)
    runner.execute_async(*sample(*range(8))).wait(SOON)
    runner.close()


@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        (sample(*range(9)), RequestTooLongError, "sample 2: input 'input_ids': the sample has 9 tokens, at most 8 fit"),
        (({}, {}), InputError, "sample 2: missing input 'input_ids'"),
        (({"ids": np.zeros(1)}, {}), InputError, "sample 2: unknown input 'ids'"),
        (([1], {}), InputError, "sample 2: inputs: expected a mapping of names to arrays, got list"),
        ({"input_ids": np.zeros(1)}, InputError, "sample 2: expected a pair of inputs and outputs, got dict"),
        (None, InputError, "sample 2: expected a pair of inputs and outputs, got NoneType"),
    ],
)
def test_an_invalid_sample_is_named_by_its_number_and_nothing_is_queued(bad: Any, kind: type, message: str) -> None:
    runner, engine = start()
    hold(runner, engine)
    with pytest.raises(kind, match=message) as caught:
        runner.submit([sample(1), sample(2), bad, sample(3)])
    assert caught.value.sample == 2
    assert runner.pending() == Pending(0, 0)
    with pytest.raises(InputError, match="samples: expected a list of pairs of inputs and outputs, got int"):
        runner.submit(5)  # type: ignore[arg-type]
    engine.gate.set()
    runner.close()


def test_a_closed_runner_takes_nothing() -> None:
    runner, _ = start()
    runner.close()
    for samples in ([], [sample(1)]):
        with pytest.raises(RunnerClosedError):
            runner.submit(samples)
    assert runner.pending() == Pending(0, 0)


def test_a_callback_may_submit_and_is_refused_where_the_queue_is_full() -> None:
    runner, engine = start(PackRunnerConfig(queue_limit=2))
    first = hold(runner, engine)
    runner.submit([sample(1), sample(2)])
    results: list[Any] = []
    first.add_done_callback(lambda _: results.append(error_of(lambda: runner.submit([sample(3)]))))
    engine.gate.set()
    wait_until(lambda: results)
    runner.close()
    assert results[0].startswith("QueueFullError: the queue is full")


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for something that another thread is about to do."""
    waiting = threading.Event()
    for _ in range(SOON * 1000):
        if condition():
            return
        waiting.wait(0.001)
    pytest.fail("it never happened")


def test_a_submitter_waits_until_its_tokens_have_room() -> None:
    recorder, batcher, _ = blocked(most=1, token_limit=10)
    batcher.submit(Request(8))
    futures: list[Any] = []
    submitter = threading.Thread(target=lambda: futures.append(batcher.submit(Request(5))))
    submitter.start()
    wait_until(lambda: batcher._queue._blocked)
    batcher.submit(Request(2))  # has room
    assert (batcher.pending(), futures) == (Pending(2, 10), [])
    recorder.gate.set()
    submitter.join(SOON)
    futures[0].wait(SOON)
    batcher.close()
    assert recorder.batches == [[0], [8], [2], [5]]


def test_where_nothing_more_has_room_a_batch_does_not_wait_for_company() -> None:
    recorder = Recorder(most=100)
    batcher = Batcher(recorder, timeout=1000.0, send_when_idle=False, token_limit=10)
    first = batcher.submit(Request(8))
    submitter = threading.Thread(target=batcher.submit, args=(Request(5),))
    submitter.start()
    first.wait(SOON)
    submitter.join(SOON)
    assert recorder.batches == [[8]]
    batcher.close()


def test_a_large_request_is_let_in_after_small_ones_have_passed_it_for_a_while() -> None:
    queue = RequestQueue(Recorder(most=1), QueueLimits(100, 10), 8)
    queue.put(Request(4))
    ended = threading.Event()

    def put_small() -> None:
        with contextlib.suppress(RunnerClosedError):
            while not ended.is_set():
                queue.put(Request(4))

    large = threading.Thread(target=queue.put, args=(Request(9),))
    small = threading.Thread(target=put_small)
    large.start()
    small.start()
    for _ in range(200):
        wait_until(lambda: queue.pending().requests == 2 or queue._next is not None or not large.is_alive())
        if queue._next is not None:
            break
        assert [r.size for r in queue.take()[0]] == [4]
    while queue.pending().requests:  # with its turn it gets in as soon as there is room for it
        sizes = [r.size for r in queue.take()[0]]
        wait_until(lambda: queue.pending().requests or queue._next is None)
        if sizes == [9]:
            break
    large.join(SOON)
    assert not large.is_alive()
    ended.set()
    queue.close(cancel=True)
    with pytest.raises(RunnerClosedError):
        queue.put(Request(1))
    small.join(SOON)


def test_a_batch_is_due_when_any_request_has_waited_its_time() -> None:
    order: FairOrder[Request] = FairOrder(8)
    company: CompanyWait[Request] = CompanyWait(100.0, 8, lambda count, size: size > 50)
    for size, queued in ((1, 1000.0), (2, 1e12), (3, 1e12)):
        waiting = Request(size)
        order.add(waiting)
        waiting.queued = queued
        company.add(waiting, order)
    oldest = order.head()
    assert (company.is_due(order), company.patience(order)) == (True, 0.0)
    order.discard(oldest.ticket)
    company.remove(oldest)
    assert not company.is_due(order)
    assert company.patience(order) > 1000


def test_requests_that_come_and_go_leave_no_deadlines_behind() -> None:
    batcher = Batcher(Recorder(most=100), timeout=1000.0, send_when_idle=False)
    first = batcher.submit(Request(1))
    for _ in range(1000):
        batcher.submit(Request(1)).cancel()
    assert len(batcher._queue._company._deadlines) < 100  # type: ignore[union-attr]
    batcher.close(cancel=True)
    assert isinstance(first.exception(SOON), RunnerClosedError)


def test_one_of_another_flow_is_in_the_next_pack_or_the_one_after_it_though_10_000_wait() -> None:
    runner, engine = start(PackRunnerConfig(queue_limit=20_000))
    first = hold(runner, engine)
    draw = np.random.default_rng(0)
    futures = runner.submit([sample(*([5] * length)) for length in draw.integers(1, 9, 10_000)])
    late = runner.execute_async(*sample(77, 77, 77))
    together = runner.submit([sample(88)] * 6)
    engine.gate.set()
    for future in (first, late, *together):
        future.wait(SOON)
    runner.close()
    assert all(future.done() and future.exception() is None for future in futures)
    packs = [set(call["input_ids"].reshape(-1).tolist()) for call in engine.calls]
    assert 77 in packs[1] | packs[2]
    assert max(number for number, ids in enumerate(packs) if 88 in ids) < 12


def test_a_lane_that_waits_for_memory_looks_again_when_another_request_comes_to_the_head() -> None:
    recorder = Recorder(most=1)
    choose = recorder.choose
    recorder.choose = lambda window: [] if window[0].size == 99 else choose(window)
    queue = RequestQueue(recorder, QueueLimits(100), 8)
    queue.put_all([Request(4), Request(99)])
    other = Request(6)
    queue.put(other)
    assert queue.take()[0][0].size == 4
    assert other.future.cancel()
    batches: list[Any] = []
    lane = threading.Thread(target=lambda: batches.append(queue.take()[0]))
    lane.start()
    wait_until(lambda: queue._stalled)
    newer = Request(7)
    queue.put(newer)  # takes its turn before the second of a flow
    lane.join(SOON)
    assert batches == [[newer]]
    lane = threading.Thread(target=lambda: batches.append(queue.take()[0]))
    lane.start()
    wait_until(lambda: queue._stalled)
    large, last = queue._order.head(), Request(8)
    queue.put(last)
    assert large.future.cancel()
    lane.join(SOON)
    assert batches[1:] == [[last]]


def test_a_model_runner_without_a_batch_axis_has_the_same_methods() -> None:
    compiled = executable()
    with ModelRunner(compiled, session=FakeEngine(compiled)) as runner:
        feeds = {spec.name: np.zeros(spec.shape, np.int32) for spec in compiled.inputs}
        feeds["unpack_info"][0] = 3
        outputs = [{"pooled": np.full((6, 2), 9, np.float32)} for _ in range(3)]
        for future in runner.submit([(feeds, out) for out in outputs]):
            future.wait(SOON)
        assert all((out["pooled"] == outputs[0]["pooled"]).all() for out in outputs)
        assert (runner.pending(), runner.failure) == (Pending(0, 0), None)

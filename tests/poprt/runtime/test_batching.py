import gc
import threading
import time
import weakref

import pytest

from poprt.errors import PoprtError, RunnerClosedError
from poprt.runtime.batching import Batcher, Request

SOON = 20  # seconds that a test waits for something that happens at once


class Death(BaseException):
    """Ends a dispatcher, as no ordinary error does."""


class Recorder:
    """Groups requests in batches of up to ``most`` and runs them when the gate is open."""

    def __init__(self, most=4):
        self.most = most
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.errors = {}

    def is_full(self, count, size):
        return count >= self.most

    def plan(self, window):
        if "plan" in self.errors:
            raise self.errors["plan"]
        return [list(window[i : i + self.most]) for i in range(0, len(window), self.most)]

    def run(self, batch):
        self.batches.append([request.size for request in batch])
        self.entered.set()
        assert self.gate.wait(SOON)
        for request in batch:
            if request.size in self.errors:
                raise self.errors[request.size]


def blocked(most=4, **options):
    """Return a recorder that is inside a run of request 0, its batcher, and request 0's future."""
    recorder = Recorder(most)
    recorder.gate.clear()
    batcher = Batcher(recorder, **options)
    first = batcher.submit(Request(0))
    assert recorder.entered.wait(SOON)
    return recorder, batcher, first


def test_an_idle_engine_gets_a_request_at_once_and_a_busy_one_gets_the_rest_together():
    recorder, batcher, _ = blocked(timeout=1000.0)
    futures = [batcher.submit(Request(i)) for i in range(1, 6)]
    recorder.gate.set()
    for future in futures:
        future.wait(SOON)
    assert recorder.batches == [[0], [1, 2, 3, 4], [5]]
    batcher.close()


def test_without_send_when_idle_a_full_batch_is_sent_before_the_timeout():
    recorder = Recorder(most=3)
    with_company = Batcher(recorder, timeout=1000.0, send_when_idle=False)
    futures = [with_company.submit(Request(i)) for i in range(3)]
    for future in futures:
        future.wait(SOON)
    assert recorder.batches == [[0, 1, 2]]
    with_company.close()


def test_without_send_when_idle_the_oldest_request_goes_when_its_timeout_has_passed():
    recorder = Recorder(most=3)
    batcher = Batcher(recorder, timeout=0.02, send_when_idle=False)
    batcher.submit(Request(1)).wait(SOON)
    assert recorder.batches == [[1]]
    batcher.close()


def test_a_request_that_spoils_its_batch_fails_alone_with_its_own_error():
    recorder, batcher, _ = blocked()
    recorder.errors = {2: ValueError("two"), 3: KeyError("three")}
    futures = {i: batcher.submit(Request(i)) for i in range(1, 5)}
    recorder.gate.set()
    futures[1].wait(SOON)
    futures[4].wait(SOON)
    with pytest.raises(ValueError, match="two"):
        futures[2].wait(SOON)
    with pytest.raises(KeyError, match="three"):
        futures[3].wait(SOON)
    batcher.submit(Request(9)).wait(SOON)
    batcher.close()


def test_a_failing_plan_fails_its_window_and_the_batcher_goes_on():
    recorder, batcher, _ = blocked()
    recorder.errors = {"plan": ValueError("no plan")}
    future = batcher.submit(Request(1))
    recorder.gate.set()
    with pytest.raises(ValueError, match="no plan"):
        future.wait(SOON)
    recorder.errors = {}
    batcher.submit(Request(2)).wait(SOON)
    batcher.close()


def test_a_dead_dispatcher_fails_what_is_pending_and_what_comes_later_and_names_the_cause():
    recorder, batcher, first = blocked(most=1, window=2)
    recorder.errors = {0: Death("power cut")}
    futures = [first, *(batcher.submit(Request(i)) for i in range(1, 6))]
    recorder.gate.set()
    for future in futures:
        with pytest.raises(RunnerClosedError, match="power cut") as caught:
            future.wait(SOON)
        assert isinstance(caught.value.__cause__, Death)
    with pytest.raises(RunnerClosedError, match="power cut"):
        batcher.submit(Request(7))
    batcher.close()


def test_death_within_a_window_fails_the_batches_that_were_planned_after_it():
    recorder, batcher, first = blocked(most=1, window=8)
    recorder.errors = {2: Death("power cut")}
    futures = [batcher.submit(Request(i)) for i in range(1, 5)]
    recorder.gate.set()
    first.wait(SOON)
    futures[0].wait(SOON)
    for future in futures[1:]:
        with pytest.raises(RunnerClosedError, match="power cut"):
            future.wait(SOON)


def test_close_answers_what_waits_and_refuses_what_comes_later():
    recorder, batcher, first = blocked()
    futures = [first, *(batcher.submit(Request(i)) for i in range(1, 10))]
    closer = threading.Thread(target=batcher.close)
    closer.start()
    recorder.gate.set()
    closer.join(SOON)
    assert not closer.is_alive()
    assert all(future.done() and future.exception() is None for future in futures)
    with pytest.raises(RunnerClosedError, match="closed"):
        batcher.submit(Request(1))
    batcher.close()


def test_close_with_cancel_fails_what_waits_and_answers_what_runs():
    recorder, batcher, first = blocked()
    futures = [batcher.submit(Request(i)) for i in range(1, 10)]
    closer = threading.Thread(target=batcher.close, kwargs={"cancel": True})
    closer.start()
    for future in futures:
        with pytest.raises(RunnerClosedError):
            future.wait(SOON)
    recorder.gate.set()
    closer.join(SOON)
    assert first.done()
    assert first.exception() is None
    assert recorder.batches == [[0]]


def test_close_with_cancel_also_fails_batches_that_are_planned_already():
    recorder, batcher, first = blocked(most=1, window=8)
    futures = [batcher.submit(Request(i)) for i in range(1, 4)]
    shut = threading.Event()

    def shut_the_gate(_):
        recorder.gate.clear()
        recorder.entered.clear()
        shut.set()

    first.add_done_callback(shut_the_gate)
    recorder.gate.set()
    assert shut.wait(SOON)
    assert recorder.entered.wait(SOON)  # request 1 runs; 2 and 3 are planned behind it
    batcher._queue.close(cancel=True)
    recorder.gate.set()
    batcher.close()
    assert futures[0].exception(SOON) is None
    for future in futures[1:]:
        with pytest.raises(RunnerClosedError):
            future.wait(SOON)
    assert recorder.batches == [[0], [1]]


def test_a_future_that_its_caller_cancels_is_not_run():
    recorder, batcher, _ = blocked()
    futures = [batcher.submit(Request(i)) for i in range(1, 4)]
    assert futures[1].cancel()
    recorder.gate.set()
    futures[2].wait(SOON)
    assert recorder.batches == [[0], [1, 3]]
    batcher.close()


def test_the_queue_is_bounded_and_a_submitter_waits_until_there_is_room():
    recorder, batcher, _ = blocked(limit=3)
    futures, submitted = [], threading.Semaphore(0)

    def submit_many():
        for i in range(1, 11):
            futures.append(batcher.submit(Request(i)))
            submitted.release()

    submitter = threading.Thread(target=submit_many)
    submitter.start()
    for _ in range(3):
        assert submitted.acquire(timeout=SOON)
    assert not submitted.acquire(timeout=0.05)
    assert batcher.pending() == 3
    recorder.gate.set()
    submitter.join(SOON)
    for future in futures:
        future.wait(SOON)
    assert sum(len(batch) for batch in recorder.batches) == 11
    batcher.close()


def test_closing_wakes_a_submitter_that_waits_for_room():
    recorder, batcher, _ = blocked(limit=1)
    batcher.submit(Request(1))
    raised = []

    def submit():
        try:
            batcher.submit(Request(2))
        except RunnerClosedError as error:
            raised.append(error)

    submitter = threading.Thread(target=submit)
    submitter.start()
    closer = threading.Thread(target=batcher.close, kwargs={"cancel": True})
    closer.start()
    submitter.join(SOON)
    recorder.gate.set()
    closer.join(SOON)
    assert len(raised) == 1


def test_a_callback_may_submit_even_when_the_queue_is_full():
    recorder, batcher, first = blocked(limit=1)
    batcher.submit(Request(1))
    later = []
    first.add_done_callback(lambda _: later.append(batcher.submit(Request(2))))
    recorder.gate.set()
    first.wait(SOON)
    batcher.close()
    later[0].wait(SOON)


def test_waiting_for_an_answer_inside_a_callback_is_refused():
    recorder, batcher, first = blocked()
    raised = []

    def wait_here(_):
        try:
            batcher.check_may_wait()
        except PoprtError as error:
            raised.append(str(error))

    first.add_done_callback(wait_here)
    recorder.gate.set()
    batcher.close()
    assert "execute_async" in raised[0]


def test_a_batcher_that_is_dropped_answers_its_requests_and_ends_its_thread():
    recorder, batcher, first = blocked()
    thread, gone = batcher._thread, weakref.ref(batcher)
    second = batcher.submit(Request(1))
    del batcher
    gc.collect()
    assert gone() is None
    recorder.gate.set()
    first.wait(SOON)
    second.wait(SOON)
    thread.join(SOON)
    assert not thread.is_alive()


def test_an_idle_dispatcher_holds_no_answered_request():
    recorder = Recorder()
    batcher = Batcher(recorder)

    class Tracked(Request):
        __slots__ = ("__weakref__",)

    request = Tracked(1)
    gone = weakref.ref(request)
    batcher.submit(request).wait(SOON)
    del request
    for _ in range(200):  # the dispatcher answers first and lets go a moment later
        if gone() is None:
            break
        time.sleep(0.01)
    assert gone() is None
    batcher.close()


def test_a_request_is_overtaken_only_within_its_window():
    recorder, batcher, _ = blocked(most=1, window=3)

    def newest_first(window):
        return [[request] for request in reversed(window)]

    recorder.plan = newest_first
    futures = [batcher.submit(Request(i)) for i in range(1, 8)]
    recorder.gate.set()
    for future in futures:
        future.wait(SOON)
    assert [batch[0] for batch in recorder.batches] == [0, 3, 2, 1, 6, 5, 4, 7]
    batcher.close()


def test_every_submission_during_a_close_is_answered_or_refused():
    batcher = Batcher(Recorder(), limit=5)
    futures, refused = [], []

    def submit_until_closed():
        for i in range(10_000):
            try:
                futures.append(batcher.submit(Request(i)))
            except RunnerClosedError as error:
                refused.append(error)
                return

    threads = [threading.Thread(target=submit_until_closed) for _ in range(8)]
    for thread in threads:
        thread.start()
    while not futures:
        time.sleep(0.001)
    batcher.close()
    for thread in threads:
        thread.join(SOON)
    assert len(refused) == 8
    assert all(future.exception(SOON) is None for future in futures)

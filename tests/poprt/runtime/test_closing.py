import gc
import threading
import time
import weakref

import pytest

from poprt.errors import RunnerClosedError
from poprt.runtime.batching import Batcher, Request
from tests.poprt.runtime.recorder import SOON, Death, Recorder, blocked


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


def test_death_fails_the_requests_that_wait_behind_it():
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


def test_close_with_cancel_while_a_batch_runs_fails_those_that_wait_behind_it():
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
    assert recorder.entered.wait(SOON)  # request 1 runs; 2 and 3 wait behind it
    batcher._queue.close(cancel=True)
    recorder.gate.set()
    batcher.close()
    assert futures[0].exception(SOON) is None
    for future in futures[1:]:
        with pytest.raises(RunnerClosedError):
            future.wait(SOON)
    assert recorder.batches == [[0], [1]]


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


def test_a_batcher_that_is_dropped_answers_its_requests_and_ends_its_thread():
    recorder, batcher, first = blocked()
    thread, gone = batcher._queue.lanes[0], weakref.ref(batcher)
    second = batcher.submit(Request(1))
    del batcher
    gc.collect()
    assert gone() is None
    recorder.gate.set()
    first.wait(SOON)
    second.wait(SOON)
    thread.join(SOON)
    assert not thread.is_alive()


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

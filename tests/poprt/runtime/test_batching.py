import threading
import time
import weakref

import pytest

from poprt.errors import PoprtError
from poprt.runtime.batching import Batcher, Request
from tests.poprt.runtime.recorder import SOON, Recorder, blocked


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


def test_a_failing_choice_fails_its_window_and_the_batcher_goes_on():
    recorder, batcher, _ = blocked()
    recorder.errors = {"choose": ValueError("no choice")}
    future = batcher.submit(Request(1))
    recorder.gate.set()
    with pytest.raises(ValueError, match="no choice"):
        future.wait(SOON)
    recorder.errors = {}
    batcher.submit(Request(2)).wait(SOON)
    batcher.close()


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
    assert batcher.pending().requests == 3
    recorder.gate.set()
    submitter.join(SOON)
    for future in futures:
        future.wait(SOON)
    assert sum(len(batch) for batch in recorder.batches) == 11
    batcher.close()


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


def test_a_batch_is_chosen_among_the_oldest_requests_and_the_rest_keep_their_order():
    recorder, batcher, _ = blocked(most=1, window=3)
    windows = []

    def oldest_and_newest(window):
        windows.append([request.size for request in window])
        return [window[0], window[-1]] if len(window) > 1 else list(window)

    recorder.choose = oldest_and_newest
    futures = [batcher.submit(Request(i)) for i in range(1, 8)]
    recorder.gate.set()
    for future in futures:
        future.wait(SOON)
    assert windows == [[1, 2, 3], [2, 4, 5], [4, 6, 7], [6]]
    assert recorder.batches == [[0], [1, 3], [2, 5], [4, 7], [6]]
    batcher.close()


def test_lanes_run_batches_side_by_side():
    recorder = Recorder(most=1)
    recorder.gate.clear()
    entered, run = threading.Semaphore(0), recorder.run

    def watched_run(batch):
        entered.release()
        return run(batch)

    recorder.run = watched_run
    batcher = Batcher(recorder, lanes=2)
    futures = []
    for i in range(2):
        futures.append(batcher.submit(Request(i)))
        assert entered.acquire(timeout=SOON)
    futures += [batcher.submit(Request(i)) for i in range(2, 5)]
    assert not entered.acquire(timeout=0.05)
    assert batcher.pending().requests == 3
    recorder.gate.set()
    for future in futures:
        future.wait(SOON)
    assert sorted(batch[0] for batch in recorder.batches) == list(range(5))
    batcher.close()


def test_closing_ends_every_lane_and_answers_what_waits():
    recorder = Recorder(most=1)
    batcher = Batcher(recorder, lanes=3)
    lanes = list(batcher._queue.lanes)
    futures = [batcher.submit(Request(i)) for i in range(20)]
    batcher.close()
    assert all(future.done() for future in futures)
    assert not any(lane.is_alive() for lane in lanes)

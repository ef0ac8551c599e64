"""Sessions take turns: runs of one go on together, those of another wait, and nobody waits for ever."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from poprt.engine.turns import Turns

SOON = 20


def begun(turns: Turns, count: int) -> None:
    """Wait until so many runs wait for their turn."""
    deadline = time.monotonic() + SOON
    while len(turns._waiting) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_runs_of_one_session_go_on_together_and_those_of_another_wait_for_all_of_them() -> None:
    turns, together, order = Turns(), threading.Barrier(2), []
    end = threading.Event()

    def run(session: str) -> None:
        with turns.of(session):
            order.append(session)
            if session == "a":
                together.wait(SOON)
                assert end.wait(SOON)
                assert order == ["a", "a"]

    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(run, "a"), pool.submit(run, "a")]
        while len(order) < 2:
            time.sleep(0.001)
        runs.append(pool.submit(run, "b"))
        begun(turns, 1)
        end.set()
        for future in runs:
            future.result(SOON)
    assert order == ["a", "a", "b"]


def test_a_run_that_came_later_does_not_overtake_another_session() -> None:
    turns, order, first = Turns(), [], threading.Event()

    def run(session: str) -> None:
        with turns.of(session):
            order.append(session)
            if len(order) == 1:
                assert first.wait(SOON)

    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(run, "a")]
        while not order:
            time.sleep(0.001)
        for count, session in enumerate("ba", 1):
            runs.append(pool.submit(run, session))
            begun(turns, count)
        first.set()
        for future in runs:
            future.result(SOON)
    assert order == ["a", "b", "a"]


def test_a_run_that_fails_gives_its_turn_away() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="the run"), turns.of("a"):
        raise ValueError("the run")
    with turns.of("b"):
        pass


def test_a_wait_that_is_interrupted_leaves_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(turns._changed, "wait_for", interrupted)
        with pytest.raises(KeyboardInterrupt), turns.of("a"):
            pass
    with turns.of("b"):
        pass

"""A coroutine in a thread of its own: what it returns and raises, and what a signal does."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from typing import Any, NoReturn

import pytest

from poprt.bulk.loop_thread import run_in_thread


def test_it_returns_and_raises_what_the_coroutine_does() -> None:
    async def name() -> str:
        return threading.current_thread().name

    async def fail() -> NoReturn:
        raise ValueError("as it is")

    assert run_in_thread(name()).startswith("poprt-loop")
    with pytest.raises(ValueError, match="as it is"):
        run_in_thread(fail())


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("turn", [*range(1, 20), 500])
def test_a_signal_in_the_step_of_a_task_ends_all_tasks(caplog: pytest.LogCaptureFixture, turn: int) -> None:
    """In the main thread it would be the failure of the task that has the turn, which nobody asks for.

    In the first turns the caller is still starting the thread.
    """
    ended: list[int] = []
    turns: list[int] = []

    async def work(number: int) -> None:
        try:
            while True:
                await asyncio.sleep(0)
                turns.append(number)
                if len(turns) == turn:
                    os.kill(os.getpid(), signal.SIGUSR1)
        finally:
            ended.append(number)

    async def all_work() -> None:
        await asyncio.wait([asyncio.create_task(work(number)) for number in range(3)])

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_in_thread(all_work())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert sorted(ended) == [0, 1, 2]
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("poprt-loop")]
    assert not caplog.records

"""A coroutine in a thread of its own, where no signal strikes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from contextlib import suppress
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")

#: Seconds after which the waiting thread looks up: a signal that comes as it lies down does not wake it.
_LOOK_UP = 0.5


def run_in_thread(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the event loop of another thread, and wait for it.

    A signal raises its KeyboardInterrupt in the main thread, between any two instructions. In the thread of a loop that
    may be asyncio's own book-keeping: a callback is lost, and the loop waits for it for ever. Here it strikes the
    thread that only waits; that cancels the coroutine and goes on when all of its tasks have ended.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        if outcome.set_running_or_notify_cancel():
            try:
                with runner:  # ends all tasks, and closes the loop
                    result = loop.run_until_complete(task)
            except BaseException as error:
                outcome.set_exception(error)
            else:
                outcome.set_result(result)

    thread = Thread(target=run, name="poprt-loop")
    runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
    loop = runner.get_loop()
    task = loop.create_task(main)
    try:
        thread.start()
        while not wait([outcome], timeout=_LOOK_UP).done:
            pass
        return outcome.result()
    finally:
        if outcome.cancel():  # struck in start(): the thread has not begun to run, if there is one, and will not
            runner.close()
        else:
            with suppress(RuntimeError):  # the loop is closed where all is done
                loop.call_soon_threadsafe(task.cancel)
            thread.join()

"""A coroutine in a thread of its own, where no signal strikes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def run_in_thread(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the event loop of another thread, and wait for it.

    A signal raises its KeyboardInterrupt in the main thread, between any two instructions. In the thread of a loop that
    may be asyncio's own book-keeping: a callback is lost, and the loop waits for it for ever. Here it strikes the
    thread that only waits; that cancels the coroutine and goes on when all of its tasks have ended.
    """
    runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
    loop = runner.get_loop()
    task = loop.create_task(main)

    def run() -> T:
        with runner:  # ends all tasks, and closes the loop
            return loop.run_until_complete(task)

    with ThreadPoolExecutor(1, "poprt-loop") as thread:
        try:
            return thread.submit(run).result()
        finally:
            with suppress(RuntimeError):  # the loop is closed where all is done
                loop.call_soon_threadsafe(task.cancel)

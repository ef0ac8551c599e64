"""A call in steps, run by the calling thread or by an event loop. Two steps are under way at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.console import Console
from rich.progress import Progress

from poprt.errors import RunnerClosedError
from poprt.text.submission import Submission

R = TypeVar("R")

#: Texts of a call from which on progress is shown where nobody says otherwise.
LONG_WORK = 2000


@dataclass(frozen=True)
class Plan(Generic[R]):
    """What a call does.

    Attributes:
        steps: each tokenises a part of the texts and hands it to the runner. One may block.
        read: makes what is returned of the submissions of all steps, in order.
        texts: how many there are.
    """

    steps: Sequence[Callable[[], Submission]]
    read: Callable[[list[Submission]], R]
    texts: int


def run(plan: Plan[R], show_progress: bool | None) -> R:
    """Run the steps. While one is computed the next one is tokenised.

    Args:
        plan: the steps.
        show_progress: whether progress is shown on stderr; None where it is a terminal and the work is long.
    """
    submissions: list[Submission] = []
    waiting: deque[Submission] = deque()
    with _progress(plan.texts, show_progress) as advance, _cancelled_on_error(waiting):
        for step in plan.steps:
            waiting.append(step())
            submissions.append(waiting[-1])
            if len(waiting) > 1:
                waiting[0].wait()
                advance(len(waiting.popleft().tokens))
        for submission in list(waiting):
            submission.wait()
            advance(len(waiting.popleft().tokens))
    return plan.read(submissions)


async def run_async(plan: Plan[R], executor: Executor) -> R:
    """Run the steps in an executor's threads; the event loop never waits. What is cancelled leaves the queue."""
    submissions: list[Submission] = []
    waiting: deque[Submission] = deque()
    with _cancelled_on_error(waiting):
        for step in plan.steps:
            waiting.append(await submitted(scheduled(executor, step)))
            submissions.append(waiting[-1])
            if len(waiting) > 1:
                await asyncio.wrap_future(waiting.popleft().done)
        while waiting:
            await asyncio.wrap_future(waiting[0].done)
            waiting.popleft()
    return plan.read(submissions)


def scheduled(executor: Executor, step: Callable[[], Submission]) -> Future[Submission]:
    """A step in an executor's threads; raise RunnerClosedError where these were told to end."""
    try:
        return executor.submit(step)
    except RuntimeError as error:
        raise RunnerClosedError("the model is closed: open it again to send texts") from error


async def submitted(step: Future[Submission]) -> Submission:
    """Wait for a step. Where its caller goes away meanwhile, what it will have submitted is cancelled."""
    try:
        return await asyncio.wrap_future(step)
    except asyncio.CancelledError:
        step.add_done_callback(_cancel_result)
        raise


def _cancel_result(step: Future[Submission]) -> None:
    if not step.cancelled() and step.exception() is None:
        step.result().cancel()


@contextmanager
def _cancelled_on_error(waiting: deque[Submission]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for submission in waiting:
            submission.cancel()
        raise


@contextmanager
def _progress(total: int, asked: bool | None) -> Iterator[Callable[[int], None]]:
    console = Console(stderr=True)
    if asked is False or (asked is None and (total < LONG_WORK or not console.is_terminal)):
        yield lambda count: None
        return
    with Progress(console=console, transient=console.is_terminal) as progress:
        task = progress.add_task("texts", total=total)
        yield lambda count: progress.update(task, advance=count)

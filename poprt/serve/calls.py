"""One request on its way: when it has to be answered, and what it cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from fastapi import Request

from poprt.serve.errors import ClientGone, DeadlineExceeded

if TYPE_CHECKING:
    from starlette.types import Receive

R = TypeVar("R")

#: Seconds after which a client that waits is watched.
PATIENCE = 0.02
#: Where the application keeps the call of a request, in the scope.
KEY = "poprt.call"


@dataclass(slots=True)
class Call:
    """A request, as metrics see it. Times are in seconds.

    Attributes:
        endpoint: the route, without what varies: ``/v2/models/{name}/infer``.
        deadline: when it has to be answered, by the event loop's clock.
        started: ``time.perf_counter()`` when it came.
        model: the name of the model that it asks; "" where it asks none.
        tokenization_seconds: until its texts were tokenised, the wait for a thread included.
        queue_seconds: that the last of its texts to run waited for a run.
        inference_seconds: from then until all were answered.
        input_tokens, texts: that it has.
    """

    endpoint: str
    deadline: float
    started: float
    model: str = ""
    tokenization_seconds: float = 0.0
    queue_seconds: float = 0.0
    inference_seconds: float = 0.0
    input_tokens: int = 0
    texts: int = 0


def new_call(timeout: float, endpoint: str = "") -> Call:
    """A call that begins now and has so many seconds."""
    return Call(endpoint, asyncio.get_running_loop().time() + timeout, time.perf_counter())


def call_for(request: Request) -> Call:
    """The call of a request, with its endpoint filled in."""
    call: Call | None = request.scope.get(KEY)
    if call is None:  # a router in an application of somebody else's
        call = request.scope[KEY] = new_call(request.app.state.poprt.options.request_timeout)
    call.endpoint = call.endpoint or getattr(request.scope.get("route"), "path_format", "")
    return call


async def call_of(request: Request) -> Call:
    """:func:`call_for` as a dependency of FastAPI, which runs other functions in threads."""
    return call_for(request)


class _Watch:
    """Cancels the task that answers when its client goes, or its time is up.

    Most answers are there before it begins: a task that listens for each of them would cost more than the rest.
    """

    def __init__(self, receive: Receive, deadline: float) -> None:
        self.gone = self.late = False
        task = asyncio.current_task()
        assert task is not None
        self._task, self._receive, self._deadline = task, receive, deadline
        self._listener: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(min(loop.time() + PATIENCE, deadline), self._begin)

    def _begin(self) -> None:
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
            self.gone = True
        except TimeoutError:
            self.late = True
        self._task.cancel()

    def end(self) -> None:
        """Watch no more."""
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()
        if self.gone or self.late:
            self._task.uncancel()


async def watched(call: Call, request: Request, awaitable: Awaitable[R]) -> R:
    """Wait for an answer, until the call's deadline and as long as its client is there. The body must have been read.

    What waits is cancelled in either case, and takes its texts out of the queue.

    Raises:
        DeadlineExceeded: the time is up.
        ClientGone: the client went away.
    """
    watch = _Watch(request.receive, call.deadline)
    try:
        return await awaitable
    except asyncio.CancelledError:
        if watch.gone:
            raise ClientGone("the client went away") from None
        if watch.late:
            raise DeadlineExceeded("the request was not answered in time (--request-timeout)") from None
        raise
    finally:
        watch.end()

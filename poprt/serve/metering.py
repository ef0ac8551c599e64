"""What happens around every request: it gets its call, and is counted when it is over. Pure ASGI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from poprt.serve.calls import KEY, Call, new_call
from poprt.serve.errors import ClientGone, Internal

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from poprt.runtime.observation import Observer
    from poprt.serve.models import Models

#: The endpoint of requests that no route takes: their paths may be anything.
NO_ROUTE = "other"


class Metrics(Protocol):
    """What counts requests and packs."""

    def finished(self, call: Call, status: int) -> None:
        """One request is over."""

    def pack_observer(self, model: str) -> Observer | None:
        """What is told of each pack of a model."""

    def cancelled(self, model: str, count: int) -> None:
        """So many texts were taken back."""

    def watch(self, models: Models) -> None:
        """From now on these models are looked at."""

    def close(self) -> None:
        """The application ends."""


class NoMetrics:
    """Counts nothing."""

    def finished(self, call: Call, status: int) -> None:
        """Nothing."""

    def pack_observer(self, model: str) -> Observer | None:
        """Nobody."""
        return None

    def cancelled(self, model: str, count: int) -> None:
        """Nothing."""

    def watch(self, models: Models) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Metered:
    """Gives each request its :class:`Call`, and hands that to the metrics with the status of the answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics, timeout: float) -> None:
        self._app, self._metrics, self._timeout = app, metrics, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = scope[KEY] = new_call(self._timeout)
        status = ClientGone.status

        async def note(event: Message) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            await send(event)

        try:
            await self._app(scope, receive, note)
        except Exception:  # what is around answers it
            status = Internal.status if status == ClientGone.status else status
            raise
        finally:
            call.endpoint = call.endpoint or getattr(scope.get("route"), "path_format", NO_ROUTE)
            self._metrics.finished(call, status)

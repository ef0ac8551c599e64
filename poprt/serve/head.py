"""``HEAD`` is answered as ``GET`` is, without the body: load balancers ask so whether a server is there. Pure ASGI."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """Asks the application what it would answer to GET, and sends the start of that alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(event: Message) -> None:
            await send({**event, "body": b""} if event["type"] == "http.response.body" else event)

        asked = {**scope, "method": "GET"}
        await self._app(asked, receive, without_body)
        if "route" in asked:
            scope["route"] = asked["route"]  # what is around asks which it was

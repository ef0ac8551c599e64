"""The short way to endpoints that take nothing but the request. Pure ASGI."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastapi import Request, Response
from fastapi.routing import APIRoute

from poprt.serve.routing import ApiRoute

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class DirectRoutes:
    """Calls an endpoint by the method and path of a request, without FastAPI's way to it.

    That way looks at one route after the other, opens stacks for what endpoints may depend on and asks for a tracer: a
    third of all that a short text costs beside its run. Everything else goes that way still: paths with parameters,
    endpoints with parameters of their own, requests below another path, and whatever is no route.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[object]) -> None:
        self._app = app
        direct = [route for route in routes if isinstance(route, ApiRoute) and takes_request_alone(route)]
        self._routes = {(method, route.path): route for route in direct for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        route = None
        if scope["type"] == "http" and not scope.get("root_path"):
            route = self._routes.get((scope["method"], scope["path"]))
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        response = await route.answer(route.endpoint, Request(scope, receive, send))
        await response(scope, receive, send)


def takes_request_alone(route: APIRoute) -> bool:
    """Whether an endpoint is a coroutine function of the request alone, which makes its response itself."""
    signature = inspect.signature(route.endpoint, eval_str=True)
    kinds = [parameter.annotation for parameter in signature.parameters.values()]
    answers = inspect.iscoroutinefunction(route.endpoint) and signature.return_annotation is Response
    return answers and kinds == [Request] and not route.param_convertors and not route.dependencies

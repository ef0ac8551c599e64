"""The application: every API over the same models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from poprt.serve import health, live, metrics_route, openai, page
from poprt.serve.direct import DirectRoutes
from poprt.serve.document import completed
from poprt.serve.errors import NotFound, ServeError, from_exception
from poprt.serve.head import HeadAsGet
from poprt.serve.kserve import rest
from poprt.serve.limits import middleware
from poprt.serve.metering import Metered
from poprt.serve.metrics import Metrics
from poprt.serve.models import Models, Source
from poprt.serve.options import ServeOptions
from poprt.serve.routing import Form, error_response
from poprt.serve.tei import routes
from poprt.serve.tei.errors import tei_form
from poprt.version import VERSION

#: Paths that belong to none of the APIs.
_OF_NO_API = ("/metrics", "/live")
#: Each has a router.
_MODULES = (openai, routes, rest, health, page, live, metrics_route)


@dataclass
class State:
    """What requests share; the application has it as ``app.state.poprt``.

    Attributes:
        draining: whether the server is about to end: it answers, and says that it is not ready.
    """

    models: Models
    options: ServeOptions
    metrics: Metrics
    draining: bool = False


def create_app(
    models: Mapping[str, Source] | Models, options: ServeOptions | None = None, metrics: Metrics | None = None
) -> FastAPI:
    """An ASGI application that serves models.

    Args:
        models: name -> path of an executable, ``Executable`` or ``TextModel``; the first one answers where a request
            names none. They are closed when the application ends, but for a ``TextModel``, which is its maker's.
        options: limits; those of the process (host, port, ...) have no effect here. None takes the defaults.
        metrics: what counts requests and packs; None makes one.

    Raises:
        PoprtError: there is no model, or one cannot be loaded; the message names it.
    """
    options = options or ServeOptions()
    metrics = metrics or Metrics()
    loaded = models if isinstance(models, Models) else Models.load(models, options, metrics)
    metrics.watch(loaded)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(loaded.close)
        metrics.close()

    served = [route for module in _MODULES for route in module.router.routes]
    around = [
        Middleware(Metered, metrics=metrics, timeout=options.request_timeout),
        Middleware(HeadAsGet),
        *middleware(options),
        Middleware(DirectRoutes, routes=served),
    ]
    app = FastAPI(title="poprt", version=VERSION, middleware=around, lifespan=life)
    app.state.poprt = State(loaded, options, metrics)
    app.router.routes.extend(served)  # not include_router: it matches each request twice
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _failed)
    describe = app.openapi
    app.openapi = lambda: completed(describe(), list(loaded))  # type: ignore[method-assign]
    return app


async def _refused(request: Request, error: Exception) -> Response:
    """No such route, or another method."""
    assert isinstance(error, HTTPException)
    if error.status_code == NotFound.status:
        return error_response(
            NotFound(f"there is no {request.url.path[:200]!r}; /docs lists what there is"), _form(request)
        )
    refusal = ServeError(str(error.detail))
    _, body = _form(request)(refusal)
    response = error_response(refusal, lambda _: (error.status_code, body))
    response.headers.update(error.headers or {})
    return response


async def _failed(request: Request, error: Exception) -> Response:
    """What no route has caught."""
    return error_response(from_exception(error), _form(request))


def _form(request: Request) -> Form:
    """How the API that a path belongs to writes errors."""
    if request.url.path in _OF_NO_API:
        return _own_form
    return openai.openai_form if request.url.path.startswith("/v1/") else tei_form


def _own_form(error: ServeError) -> tuple[int, Any]:
    return error.status, {"error": error.message}

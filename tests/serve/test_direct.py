"""What makes a request cheap: the short way to endpoints, which answers as FastAPI's does, and threads that rest."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from poprt.engine import session as engine
from poprt.serve.app import create_app
from poprt.serve.direct import takes_request_alone
from poprt.serve.routing import ApiRoute
from tests.serve.text_models import LONG, TEXTS, executable

REQUESTS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/embeddings", {"input": TEXTS}),
    ("POST", "/v1/embeddings", {"input": LONG}),
    ("POST", "/v1/embeddings", {"input": "anna", "model": "nobody"}),
    ("POST", "/v1/embeddings", {"input": 3}),
    ("POST", "/embed", {"inputs": TEXTS}),
    ("POST", "/embed", {"inputs": LONG}),
    ("POST", "/rerank", {"query": "anna", "texts": TEXTS}),
    ("POST", "/predict", {}),
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/m", None),
    ("GET", "/v1/models/nobody", None),
    ("GET", "/embed", None),
    ("GET", "/info", None),
    ("GET", "/health", None),
    ("GET", "/v2", None),
    ("GET", "/v2/models/m", None),
]


@pytest.fixture(scope="module")
def app() -> Iterator[FastAPI]:
    served = create_app({"m": executable("plain")})
    yield served
    served.state.poprt.models.close()


def client(app: FastAPI, prefix: str = "") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, root_path=prefix)
    return httpx.AsyncClient(transport=transport, base_url="http://server")


def test_the_routes_that_take_texts_are_direct(app: FastAPI) -> None:
    direct = {
        (method, route.path)
        for route in app.router.routes
        if isinstance(route, ApiRoute) and takes_request_alone(route)
        for method in route.methods or ()
    }
    paths = ("/v1/embeddings", "/embed", "/embed_all", "/rerank", "/predict", "/tag", "/answer", "/")
    assert direct >= {("POST", path) for path in paths}
    assert not any("{" in path for _, path in direct)


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS, ids=[f"{i}{r[1]}" for i, r in enumerate(REQUESTS)])
def test_both_ways_answer_alike(app: FastAPI, method: str, path: str, body: Any) -> None:
    async def ask() -> tuple[httpx.Response, httpx.Response]:
        async with client(app) as short, client(app, "/below") as long:
            return await short.request(method, path, json=body), await long.request(method, "/below" + path, json=body)

    direct, whole = asyncio.run(ask())
    assert (direct.status_code, direct.json()) == (whole.status_code, whole.json())
    assert direct.headers["content-type"] == whole.headers["content-type"]


def test_both_ways_are_counted_as_one_endpoint(app: FastAPI) -> None:
    async def ask() -> str:
        async with client(app) as short, client(app, "/below") as long:
            await short.post("/tokenize", json={"inputs": "anna"})
            await long.post("/below/tokenize", json={"inputs": "anna"})
            return (await short.get("/metrics")).text

    assert 'poprt_requests_total{code="200",endpoint="/tokenize"} 2.0' in asyncio.run(ask())


def test_a_server_asks_for_threads_that_rest_between_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    original = engine.session_options

    def recorded(*arguments: Any, **options: Any) -> Any:
        asked.append(options["spin_between_runs"])
        return original(*arguments, **options)

    monkeypatch.setattr(engine, "session_options", recorded)
    create_app({"m": executable("plain")}).state.poprt.models.close()
    assert asked == [False]

"""Keys, and bodies that are too large or compressed, without a server."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from poprt.serve.errors import PayloadTooLarge
from poprt.serve.limits import PayloadLimit, is_key, middleware
from poprt.serve.options import ServeOptions

KEY = "s3cret-key"


def client(**options: Any) -> TestClient:
    """An application that tells what it read, behind all layers."""

    async def echo(request: Request) -> JSONResponse:
        body = await request.body()
        return JSONResponse({"body": body.decode("latin-1"), "headers": dict(request.headers)})

    async def too_large(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"in the form of this API": str(error)}, 413)

    paths = ("/echo", "/health", "/metrics", "/v2/health/live", "/v2/health/ready", "/v2/models/m/ready")
    routes = [Route(path, echo, methods=["GET", "POST"]) for path in paths]
    app = Starlette(
        routes=routes,
        middleware=middleware(ServeOptions(**options)),
        exception_handlers={PayloadTooLarge: too_large},
    )
    return TestClient(app)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer  {KEY}"},
        {"api-key": KEY},
        {"X-API-Key": KEY},
        {"Authorization": "Bearer of another layer", "X-API-Key": KEY},
    ],
)
def test_who_sends_the_key_is_let_in(headers: dict[str, str]) -> None:
    assert client(api_key=KEY).post("/echo", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"api-key": ""},
        {"X-API-Key": "Bearer"},
        {"X-API-Key": "\u00fc"},
    ],
)
def test_who_does_not_is_refused(headers: dict[str, str]) -> None:
    answer = client(api_key=KEY).post("/echo", headers={name: value.encode() for name, value in headers.items()})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert KEY not in answer.text


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v2/health/live", "/v2/health/ready"])
def test_probes_and_scrapers_need_no_key(path: str) -> None:
    assert client(api_key=KEY).get(path).status_code == 200


@pytest.mark.parametrize("path", ["/v2/models/m/ready", "/health/", "/Health", "/health/../echo", "/v2/health/../echo"])
def test_a_path_that_is_like_an_open_one_needs_a_key(path: str) -> None:
    assert client(api_key=KEY).get(path, follow_redirects=False).status_code == 401


def test_without_a_key_everybody_is_let_in() -> None:
    assert client().post("/echo").status_code == 200


def test_openai_s_clients_are_refused_in_their_form() -> None:
    error = client(api_key=KEY).get("/v1/models").json()["error"]
    assert error["type"] == "authentication_error"
    assert "Authorization: Bearer" in error["message"]


def test_all_keys_of_a_request_are_compared() -> None:
    compared = []

    def sent() -> Any:
        for value in (KEY.encode(), b"another"):
            compared.append(value)
            yield value

    assert is_key(KEY, sent())
    assert len(compared) == 2


def test_pages_of_other_origins_may_not_call_unless_they_are_named() -> None:
    ask = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert client().options("/echo", headers=ask).status_code == 405
    allowed = client(cors_origins=("https://a.example",), api_key=KEY)
    assert allowed.options("/echo", headers=ask).headers["access-control-allow-origin"] == "https://a.example"
    assert allowed.options("/echo", headers={**ask, "Origin": "https://b.example"}).status_code == 400
    refused = allowed.post("/echo", headers={"Origin": "https://a.example"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://a.example")


LIMIT = 1000
ENCODED = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": gzip.compress,
    "deflate": zlib.compress,
    "identity": lambda body: body,
}


def raw_deflate(body: bytes) -> bytes:
    return zlib.compress(body)[2:-4]


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("size", [1, LIMIT])
def test_a_compressed_body_is_read(encoding: str, size: int) -> None:
    body = ENCODED[encoding](b"a" * size)
    answer = client(payload_limit=LIMIT).post("/echo", content=body, headers={"Content-Encoding": encoding}).json()
    assert answer["body"] == "a" * size
    assert not {"content-encoding", "content-length"} & set(answer["headers"])


@pytest.mark.parametrize("encoding", ENCODED)
def test_a_body_that_is_larger_inflated_is_refused(encoding: str) -> None:
    body = ENCODED[encoding](b"a" * (LIMIT + 1))
    answer = client(payload_limit=LIMIT).post("/echo", content=body, headers={"Content-Encoding": encoding})
    assert answer.status_code == 413
    assert "1000 bytes" in answer.json()["in the form of this API"]


def test_deflate_without_its_header_and_gzip_in_parts_are_read() -> None:
    server = client(payload_limit=LIMIT)
    answer = server.post("/echo", content=raw_deflate(b"abc" * 9), headers={"Content-Encoding": "deflate"})
    assert answer.json()["body"] == "abc" * 9
    parts = gzip.compress(b"abc") + gzip.compress(b"def")
    assert server.post("/echo", content=parts, headers={"Content-Encoding": "gzip"}).json()["body"] == "abcdef"


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", b"", 400),
        ("gzip", b"no gzip", 400),
        ("gzip", gzip.compress(b"abcdef")[:-4], 400),
        ("gzip", gzip.compress(b"abc") + b"garbage", 400),
        ("gzip", gzip.compress(b"abc")[:-8] + b"\0" * 8, 400),
        ("deflate", zlib.compress(b"abc") + b"garbage", 400),
        ("deflate", b"\xff\xff", 400),
        ("br", b"abc", 415),
        ("gzip, gzip", gzip.compress(gzip.compress(b"abc")), 415),
    ],
    ids=[
        "empty",
        "no gzip",
        "cut",
        "garbage behind",
        "wrong sum",
        "deflate, garbage",
        "no deflate",
        "br",
        "twice",
    ],
)
def test_what_cannot_be_inflated_is_refused(encoding: str, body: bytes, status: int) -> None:
    answer = client().post("/echo", content=body, headers={"Content-Encoding": encoding})
    assert answer.status_code == status
    assert encoding in answer.json()["error"]


def test_the_declared_size_is_enough_to_refuse() -> None:
    reads: list[str] = []
    answer = asyncio.run(answer_of([], reads, (b"content-length", b"1001")))
    assert (answer, reads) == (413, [])


def test_a_body_in_parts_is_counted() -> None:
    reads: list[str] = []
    parts = [b"a" * 600, b"b" * 600, b"c" * 600]
    assert asyncio.run(answer_of(parts, reads)) == 413
    assert len(reads) == 2


def test_a_bomb_is_inflated_no_further_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    assert len(bomb) < 100_000
    sizes: list[int] = []
    inflate = zlib.decompressobj

    class Watched:
        def __init__(self, *arguments: Any) -> None:
            self._stream = inflate(*arguments)

        def decompress(self, *arguments: Any) -> bytes:
            data: bytes = self._stream.decompress(*arguments)
            sizes.append(len(data))
            return data

        def __getattr__(self, name: str) -> Any:
            return getattr(self._stream, name)

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    parts = [bomb[start : start + 1000] for start in range(0, len(bomb), 1000)]
    reads: list[str] = []
    assert asyncio.run(answer_of(parts, reads, (b"content-encoding", b"gzip"), limit=100_000)) == 413
    assert 100_000 < sum(sizes) <= 100_001


def test_many_members_are_one_body_and_have_one_limit() -> None:
    bomb = gzip.compress(b"a" * 100) * 20
    assert asyncio.run(answer_of([bomb], [], (b"content-encoding", b"gzip"))) == 413


async def answer_of(parts: Sequence[bytes], reads: list[str], *headers: tuple[bytes, bytes], limit: int = LIMIT) -> int:
    """The status that a bare ASGI application behind the limit gives; ``reads`` gets an item a part that is taken."""
    events = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    waiting = iter([*events, {"type": "http.request", "body": b"", "more_body": False}])
    statuses: list[int] = []
    bodies: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        reads.append("part")
        return next(waiting)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
        else:
            bodies.append(message["body"])

    await PayloadLimit(app, limit)({"type": "http", "path": "/", "headers": list(headers)}, receive, send)
    assert all(json.loads(body)["error"] for body in bodies)
    return statuses[0]


def test_a_body_of_many_empty_members_is_refused_before_they_cost_time() -> None:
    answer = client().post("/echo", content=gzip.compress(b"") * 2000, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 400
    assert "more than 1024 members" in answer.json()["error"]


@pytest.mark.parametrize("value", ["gzip, identity", "identity, gzip", " gzip ,", "GZIP"])
def test_a_list_of_codings_may_have_one_beside_identity(value: str) -> None:
    answer = client().post("/echo", content=gzip.compress(b"anna"), headers={"Content-Encoding": value})
    assert answer.json()["body"] == "anna"


@pytest.mark.parametrize("headers", [["gzip, gzip"], ["gzip", "gzip"], ["deflate", "gzip"], ["gzip, br"]])
def test_a_body_that_is_encoded_twice_is_refused_by_name(headers: list[str]) -> None:
    sent = [("Content-Encoding", value) for value in headers]
    answer = client().post("/echo", content=gzip.compress(gzip.compress(b"anna")), headers=sent)
    assert answer.status_code == 415
    assert ", ".join(headers) in answer.json()["error"]

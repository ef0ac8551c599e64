"""What is checked before a request reaches its route: the key, and the size of the body. Pure ASGI."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable
from typing import Any

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from poprt.serve.errors import PayloadTooLarge, ServeError, Unauthorized
from poprt.serve.inflating import inflater
from poprt.serve.options import ServeOptions

#: Paths that need no key: probes and scrapers have none.
OPEN_PATHS = frozenset({"/health", "/metrics", "/v2/health/live", "/v2/health/ready"})
_BODY_HEADERS = (b"content-encoding", b"content-length")


def middleware(options: ServeOptions) -> list[Middleware]:
    """What goes around an application, the outermost first. Preflights of browsers need no key."""
    layers = [Middleware(PayloadLimit, limit=options.payload_limit)]
    if options.api_key is not None:
        layers.insert(0, Middleware(ApiKey, key=options.api_key))
    if options.cors_origins:
        cors: dict[str, Any] = {"allow_origins": list(options.cors_origins), "allow_methods": ["GET", "POST"]}
        layers.insert(0, Middleware(CORSMiddleware, allow_headers=["*"], **cors))
    return layers


def is_key(key: str, sent: Iterable[bytes]) -> bool:
    """Whether one of the values that a client sent is the key, in a time that does not tell how much of it is right."""
    expected = key.encode()
    return sum(hmac.compare_digest(expected, value) for value in sent) > 0  # all of them are compared


class ApiKey:
    """Lets in who sends the key: ``Authorization: Bearer KEY``, ``api-key: KEY`` or ``X-API-Key: KEY``."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or _is_open(scope) or is_key(self._key, sent_keys(scope["headers"])):
            await self._app(scope, receive, send)
        else:
            await _answer(
                scope, send, Unauthorized("the key is missing or wrong: send it as `Authorization: Bearer KEY`")
            )


def _is_open(scope: Scope) -> bool:
    """Whether a request needs no key: a browser has none for the page, which holds nothing and asks for it."""
    return scope["path"] in OPEN_PATHS or (scope["path"] == "/" and scope["method"] in ("GET", "HEAD"))


def sent_keys(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """What a client sent as its key, in whichever header; names are in lower case."""
    keys = []
    for name, value in headers:
        if name in (b"api-key", b"x-api-key"):
            keys.append(value)
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            keys.append(value[7:].strip())
    return keys


class PayloadLimit:
    """Inflates bodies, and refuses those that are too large, before and after, and however they come.

    The error is raised where the application reads the body, so that each API renders it in its own form.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        encoding, length = (_header(scope, name) for name in _BODY_HEADERS)
        body = _Body(receive, self._limit, encoding.decode("latin-1"), length)
        if encoding:
            # In place: what is around reads in this scope which route it was.
            scope["headers"] = [header for header in scope["headers"] if header[0] not in _BODY_HEADERS]
        started = False

        async def note(event: Message) -> None:
            nonlocal started
            started = True
            await send(event)

        try:
            await self._app(scope, body.receive, note)
        except ServeError as error:  # of an application that leaves them to us
            if started:
                raise
            await _answer(scope, send, error)


class _Body:
    """A body as the application reads it."""

    def __init__(self, receive: Receive, limit: int, encoding: str, length: bytes) -> None:
        self._receive, self._limit, self._encoding = receive, limit, encoding
        self._declared = int(length) if length.isdigit() else 0
        self._inflater: Any = None
        self._received = self._inflated = 0
        self._ended = False

    async def receive(self) -> Message:
        """The next part. Raises PayloadTooLarge, BadRequest or UnsupportedMediaType."""
        if self._declared > self._limit:
            raise self._too_large("")
        event = await self._receive()
        if event["type"] != "http.request" or self._ended:
            return event
        part, more = event.get("body", b""), event.get("more_body", False)
        self._ended = not more
        self._received += len(part)
        if self._received > self._limit:
            raise self._too_large("")
        if self._encoding:
            event = {"type": "http.request", "body": self._inflate(part, last=not more), "more_body": more}
        return event

    def _inflate(self, part: bytes, *, last: bool) -> bytes:
        if self._inflater is None:
            self._inflater = inflater(self._encoding)
        room = self._limit - self._inflated
        inflated: bytes = self._inflater.feed(part, room + 1, last=last)
        self._inflated += len(inflated)
        if len(inflated) > room:
            raise self._too_large(", inflated")
        return inflated

    def _too_large(self, how: str) -> PayloadTooLarge:
        return PayloadTooLarge(f"the body{how} has more than {self._limit} bytes (--payload-limit)")


def _header(scope: Scope, name: bytes) -> bytes:
    """What a client said, in one header or in several."""
    return b", ".join(value.strip().lower() for key, value in scope["headers"] if key == name)


async def _answer(scope: Scope, send: Send, error: ServeError) -> None:
    fields: object = {"error": error.message, "error_type": error.code}
    if scope["path"].startswith("/v1/"):
        from poprt.serve.openai import openai_form  # here: it brings the engine

        _, fields = openai_form(error)
    body = json.dumps(fields).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.status == Unauthorized.status:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

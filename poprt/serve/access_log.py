"""A line for each request, at little cost."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Collection

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from poprt.serve.errors import ClientGone
from poprt.serve.logs import utc

#: Seconds that lines of requests are collected for, so that they are written together.
FLUSH_SECONDS = 0.2
#: Longest path that a line repeats.
_PATH_LIMIT = 200


class AccessLog:
    """Writes a line for each request: client, method, path without its query, status, seconds.

    Requests for ``quiet`` paths (probes, scrapes) that succeed are left out. Lines are written together, every
    :data:`FLUSH_SECONDS`.
    """

    def __init__(self, app: ASGIApp, log_format: str, quiet: Collection[str] = ()) -> None:
        self._app, self._quiet = app, quiet
        self._line = _json_line if log_format == "json" else _text_line
        self._lines: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or the application's life."""
        if scope["type"] != "http":
            try:
                await self._app(scope, receive, send)
            finally:
                self.flush()
            return
        started, status = time.perf_counter(), ClientGone.status

        async def note(event: Message) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            await send(event)

        try:
            await self._app(scope, receive, note)
        except Exception:
            status = 500 if status == ClientGone.status else status
            raise
        finally:
            self._add(scope, status, time.perf_counter() - started)

    def _add(self, scope: Scope, status: int, seconds: float) -> None:
        if status < 400 and scope["path"] in self._quiet:
            return
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        self._lines.append(self._line(scope, status, seconds))

    def flush(self) -> None:
        """Write what was collected."""
        lines, self._lines = self._lines, []
        if lines:
            try:
                sys.stderr.write("".join(lines))
                sys.stderr.flush()
            except (OSError, ValueError):  # nobody reads it; requests go on
                return


def _facts(scope: Scope) -> tuple[str, str, str]:
    """Client, method and path. The path is as it was sent, where no byte can end the line."""
    client = scope.get("client") or ("-", 0)
    path = scope.get("raw_path", b"")[:_PATH_LIMIT].decode("ascii", "backslashreplace")
    return f"{client[0]}:{client[1]}", scope["method"], path


def _text_line(scope: Scope, status: int, seconds: float) -> str:
    client, method, path = _facts(scope)
    return f"{utc(time.time())} {client} {method} {path} {status} {seconds:.4f} s\n"


def _json_line(scope: Scope, status: int, seconds: float) -> str:
    client, method, path = _facts(scope)
    fields = {
        "time": utc(time.time()),
        "level": "INFO",
        "logger": "access",
        "client": client,
        "method": method,
        "path": path,
        "status": status,
        "seconds": round(seconds, 6),
    }
    return orjson.dumps(fields).decode() + "\n"

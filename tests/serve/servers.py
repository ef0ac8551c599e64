"""A server in a thread, with an application that the test writes; and raw requests to it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from poprt.serve.addresses import bind
from poprt.serve.options import ServeOptions
from poprt.serve.process import Server, uvicorn_config


class Echo:
    """Answers with the number of bytes of the body, and notes what happened to each request.

    ``/slow`` waits for :attr:`release` before it answers.
    """

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.answered: list[str] = []
        self.gone: list[str] = []
        self.release = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        self.paths.append(scope["path"])
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.append(scope["path"])
                return
            size, more = size + len(message["body"]), message["more_body"]
        if scope["path"] == "/slow" and await self._gone_while_waiting(receive):
            self.gone.append(scope["path"])
            return
        body = str(size).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self.answered.append(scope["path"])

    async def _gone_while_waiting(self, receive: Any) -> bool:
        import asyncio

        leaving = asyncio.ensure_future(receive())
        while not self.release.is_set() and not leaving.done():
            await asyncio.sleep(0.01)
        gone = leaving.done()
        leaving.cancel()
        return gone

    @staticmethod
    async def _live(receive: Any, send: Any) -> None:
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})


class Running:
    """A server that listens on :attr:`port`."""

    def __init__(self, server: Server, port: int) -> None:
        self.server, self.port = server, port

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def send(self, data: bytes) -> bytes:
        """All that the server says to these bytes, until it closes."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)

    def end(self) -> None:
        self.server._end()


@contextmanager
def running(app: Any, models: Any = None, **options: Any) -> Iterator[Running]:
    """Serve ``app`` in a thread."""
    told = ServeOptions(port=0, **options)
    sockets = bind(told.host, told.port)
    port = sockets[0].getsockname()[1]
    state: Any = SimpleNamespace(models={} if models is None else models, options=told, draining=False)
    ready = threading.Event()
    server = Server(uvicorn_config(app, told), state, lambda _: ready.set(), ())
    thread = threading.Thread(target=server.run, args=(sockets,), daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield Running(server, port)
    finally:
        server._end()
        thread.join(20)
        assert not thread.is_alive()


def read_all(connection: socket.socket) -> bytes:
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def read_answer(connection: socket.socket) -> bytes:
    """Headers and body of one answer with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        assert part, data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def until(condition: Any, seconds: float = 20) -> None:
    """Wait for a condition; fail where it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)

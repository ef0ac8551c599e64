"""One HTTP connection that costs its process little: the bytes of a request out, its answer in.

The connection stays open between requests, and has one request under way at a time. Answers must tell their length.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
from typing import NamedTuple, cast

from benchmarks.serve.starting import HOST

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_END = b"\r\n\r\n"
_RESET_SECONDS = 0.05  # in which the reset arrives that answers bytes sent to a closed connection


class Answer(NamedTuple):
    """Status and body of an answer."""

    status: int
    body: bytes


class NoAnswerError(ConnectionError):
    """The server closed the connection before it had answered.

    Attributes:
        reset: whether it did so without having read all that was sent to it; then it had not taken the request.
    """

    def __init__(self, reset: bool) -> None:
        super().__init__("the server reset the connection" if reset else "the server closed the connection")
        self.reset = reset


class Connection(asyncio.Protocol):
    """A connection to the server at a port of this machine."""

    def __init__(self) -> None:
        self.closed = False
        self._received = bytearray()
        self._answer: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect.

        Raises:
            OSError: nobody listens there.
        """
        _, connection = await asyncio.get_running_loop().create_connection(cls, HOST, port)
        return connection

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request. The future has the answer, or NoAnswerError."""
        assert self._answer is None, "one request at a time"
        self._answer = answer = asyncio.get_running_loop().create_future()
        if self.closed or self._transport is None:
            self._end(NoAnswerError(reset=True))
        else:
            self._transport.write(request)
        return answer

    def send(self, part: bytes) -> None:
        """Send bytes that are no whole request, or whose answer nobody awaits."""
        if self._transport is not None:
            self._transport.write(part)

    def close(self) -> None:
        """Close at once; an answer that is under way is given up."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer."""
        self._received += data
        head_end = self._received.find(_END)
        if head_end < 0:
            return
        head = bytes(self._received[: head_end + 2])
        length = _LENGTH.search(head)
        end = head_end + len(_END) + (int(length[1]) if length else 0)
        if len(self._received) < end:
            return
        answer = Answer(int(head[9:12]), bytes(self._received[head_end + len(_END) : end]))
        self._received.clear()
        self.closed = self.closed or _CLOSES.search(head) is not None
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)
        self._answer = None

    def eof_received(self) -> bool:
        """Wait a moment, where a request is under way: a reset that follows shows that it came after the close."""
        self.closed = True
        under_way = self._answer is not None and not self._answer.done()
        if under_way:
            asyncio.get_running_loop().call_later(_RESET_SECONDS, self._judge_close)
        return under_way

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that is under way. A part of an answer shows that it was taken."""
        self.closed = True
        self._end(NoAnswerError(reset=exc is not None and not self._received))

    def _judge_close(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as same:
            reset = same.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        self._end(NoAnswerError(reset=reset and not self._received))
        transport.abort()

    def _end(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def post(path: str, body: object) -> bytes:
    """The bytes of a POST of JSON."""
    return request("POST", path, json.dumps(body).encode(), {"content-type": "application/json"})


def request(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {HOST}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body

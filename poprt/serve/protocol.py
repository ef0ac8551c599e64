"""HTTP/1.1 as uvicorn speaks it, with an end to senders that never finish.

uvicorn bounds the time between requests, and nothing else: half a header, or a body that comes a byte a minute, keeps a
connection for ever, and headers may have any size.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

#: Most bytes of a request line and its headers, and of trailers, up to the last part that was received.
HEADER_LIMIT = 64 << 10
#: Seconds that an idle connection stays when the server ends: a request that is on its way is answered.
LINGER = 0.5


class ReceivingProtocol(HttpToolsProtocol):
    """Cuts who takes longer than :attr:`receive_timeout` for a request, headers and body together, with 408.

    The time runs from the first byte of a request (or from the connection, before the first one) to its last. It stands
    still while the server itself does not read. A request that comes in one piece, as most do, costs no timer.
    """

    receive_timeout: ClassVar[float] = 10.0
    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _receiving = False  # between the first byte of a request and its last
    _in_headers = False
    _chunk = 0  # of those of the connection
    _in_trailers = 0  # the chunk that may be the last one: nothing of its body is here yet
    _header_bytes = 0
    _unread = b""
    _ending = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request, and wait for the rest of it."""
        in_trailers, self._unread = self._in_trailers, data
        parser = None
        while self.parser is not parser and not self.transport.is_closing():  # again where it was replaced
            parser = self.parser
            super().data_received(self._unread)
        self._unread = b""
        if self.transport.is_closing():
            return
        if self._in_headers or (in_trailers and in_trailers == self._in_trailers):
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_LIMIT:
                self._refuse(431, f"the request line and headers are longer than {HEADER_LIMIT} bytes")
                return
        if self._receiving or self._is_idle():
            self._start_timer()
        else:
            self._stop_timer()

    def on_message_begin(self) -> None:
        """The first byte of a request is here."""
        self._receiving = self._in_headers = True
        self._header_bytes = 0
        self._stop_timer()  # its time begins now
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The headers are here; the application starts."""
        self._in_headers = False
        self._header_bytes = 0
        if self._upgrades():
            return  # it will be read again
        super().on_headers_complete()
        if self._ending and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header is here. What stands behind a body is none, and not kept."""
        if self._in_headers:
            super().on_header(name, value)

    def on_chunk_header(self) -> None:
        """A chunk begins; behind the last one there may be trailers."""
        self._chunk += 1
        self._in_trailers = self._chunk

    def on_body(self, body: bytes) -> None:
        """A part of the body is here."""
        self._in_trailers = 0
        self._header_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The last byte of a request is here."""
        self._receiving = False
        self._in_trailers = 0
        if self._upgrades():
            return
        self._stop_timer()
        super().on_message_complete()

    def _upgrades(self) -> bool:
        """Whether the request asks for another protocol. CONNECT, which is refused, does not count."""
        return bool(self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT")

    def _unsupported_upgrade_warning(self) -> None:
        """Have a request that asks for another protocol read again, as one that does not ask.

        The parser takes what follows its headers for that other protocol, and the body would be lost: Java's client
        asks for HTTP/2 with the first request of a connection.
        """
        error = sys.exc_info()[1]
        assert isinstance(error, httptools.HttpParserUpgrade)
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self._unread = b"".join((*lines, b"\r\n", self._unread[error.args[0] :]))
        self.parser = httptools.HttpRequestParser(self)
        with contextlib.suppress(AttributeError):  # of httptools before 0.6.3; uvicorn sets it, too
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def shutdown(self) -> None:
        """The server ends: close after the answer under way, or after a moment without a request."""
        self._ending = True
        if self.cycle is not None and not self.cycle.response_complete:
            super().shutdown()
        else:
            self.loop.call_later(LINGER, self._close_if_idle)

    def pause_writing(self) -> None:
        """The client does not read its answers: it has the time of an idle connection to begin."""
        super().pause_writing()
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads."""
        self._stop_write_timer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, also one whose client has not read the last answer."""
        self._close()

    def _close(self) -> None:
        if self.transport.get_write_buffer_size():
            self.loop.call_later(LINGER, self.transport.abort)  # closing waits for a reader
        self.transport.close()

    def _close_if_idle(self) -> None:
        if self._is_idle() and not self.transport.is_closing():
            self._close()

    def _is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.receive_timeout, self._time_is_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _time_is_up(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.flow.read_paused or (self._in_headers and not self._is_idle()):
            self._start_timer()  # the server does not read, or owes an answer to a request before this one
        elif self._in_headers or (self._receiving and not self.cycle.response_started):
            self._refuse(408, f"the request took longer than {self.receive_timeout:g} s to arrive")
        else:
            self._close()

    def _refuse(self, status: int, message: str) -> None:
        """Answer in the place of the application, and close. Its ``receive`` then tells that the client has gone."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = b'{"error":"%s","error_type":"%s"}' % (message.encode(), _ERROR_TYPES[status])
        headers: list[tuple[bytes, bytes]] = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        lines = [STATUS_LINE[status], *(b"%s: %s\r\n" % header for header in headers), b"\r\n", body]
        self.transport.write(b"".join(lines))
        self._close()


_ERROR_TYPES = {408: b"request_timeout", 431: b"headers_too_large"}


def protocol(receive_timeout: float) -> type[Any]:
    """The class of connections for uvicorn's ``http``, with its time in seconds."""
    return type("Protocol", (ReceivingProtocol,), {"receive_timeout": receive_timeout})

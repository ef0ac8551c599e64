"""A server of a few lines that does to its connections what a test says."""

from __future__ import annotations

import re
import select
import socketserver
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

#: What is sent back for a request, by its number and its bytes; None closes the connection.
Behaviour = Callable[[int, bytes], bytes | None]


def answer(body: bytes, status: int = 200, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextmanager
def fake_server(behave: Behaviour, *, unread: Collection[int] = (), closing: Collection[int] = ()) -> Iterator[int]:
    """The port of a server whose answer to request number n is ``behave(n, request)``.

    Those in ``unread`` are not read: their connection is closed while their bytes are there. The connection of those
    in ``closing`` is closed behind the answer.
    """
    numbers = iter(range(1 << 30))
    counting = threading.Lock()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            received = b""
            while select.select([self.request], [], []):
                with counting:
                    number = next(numbers)
                if number in unread:
                    return
                received = self._read()
                if not received:
                    return
                sent = behave(number, received)
                if sent is None:
                    return
                self.request.sendall(sent)
                if number in closing:
                    return

        def _read(self) -> bytes:
            received = b""
            while b"\r\n\r\n" not in received or len(received) < _length(received):
                data = self.request.recv(1 << 16)
                if not data:
                    return b""
                received += data
            return received

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """A client may go."""

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def _length(received: bytes) -> int:
    head, _, _ = received.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return len(head) + 4 + (int(length[1]) if length else 0)

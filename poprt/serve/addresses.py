"""The sockets that a server listens on."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from poprt.errors import PoprtError

#: Whether the kernel shares connections among the processes that listen on one port.
SHARES_PORTS = sys.platform == "linux" and hasattr(socket, "SO_REUSEPORT")


def bind(host: str, port: int, *, shared: bool = False, option: str = "port") -> list[socket.socket]:
    """Sockets for every address of ``host``, bound and not yet listening: nobody connects before the server is ready.

    Args:
        host: a name or an address.
        port: 0 takes a free one, the same for all addresses.
        shared: other processes may bind the port, too, as :data:`SHARES_PORTS` allows.
        option: what messages call the port.

    Raises:
        PoprtError: the port is in use or not allowed, or there is no such host.
    """
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        for family, address in _addresses(host, port):
            number = sockets[0].getsockname()[1] if sockets else port
            bound = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            _bind_one(bound, (address[0], number, *address[2:]), shared, option)
            sockets.append(bound)
        stack.pop_all()
        return sockets


def free_port(host: str, port: int, option: str = "port") -> int:
    """The port, or a free one for 0. Raises PoprtError where it is in use, also by a process that would share it."""
    sockets = bind(host, port, option=option)
    number: int = sockets[0].getsockname()[1]
    for bound in sockets:
        bound.close()
    return number


def url(sockets: Sequence[socket.socket], *, secure: bool) -> str:
    """Where clients find the server."""
    host, port = sockets[0].getsockname()[:2]
    return f"{'https' if secure else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str | int, ...]]]:
    try:
        results = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise PoprtError(f"host: {host!r} is no name or address of this machine: {error}") from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in results))  # type: ignore[misc]


def _bind_one(bound: socket.socket, address: tuple[str | int, ...], shared: bool, option: str) -> None:
    if sys.platform != "win32":  # there it would let two servers have one port
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared and SHARES_PORTS:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if bound.family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        bound.bind(address)
    except OSError as error:
        raise _refusal(error, address, option) from error


def _refusal(error: OSError, address: tuple[str | int, ...], option: str) -> PoprtError:
    host, port = address[:2]
    if error.errno == errno.EADDRINUSE:
        return PoprtError(f"{option}: {port} on {host} is in use by another process; give another one")
    if error.errno == errno.EACCES:
        return PoprtError(f"{option}: {port} on {host} is not allowed for this user; ports from 1024 are")
    if error.errno == errno.EADDRNOTAVAIL:
        return PoprtError(f"host: {host} is no address of this machine; 0.0.0.0 listens on all")
    return PoprtError(f"{option}: cannot listen on {host}, port {port}: {error.strerror}")

"""End on a signal by an exception, so that everything under way is closed and removed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # the last is not known everywhere


@contextmanager
def signals_interrupt() -> Iterator[list[int]]:
    """Raise KeyboardInterrupt in the block on SIGINT, SIGTERM and SIGHUP; the list says on which.

    The first one counts: further ones would interrupt the cleaning up. Signals that are ignored (``nohup``) or that a
    surrounding program handles are left to it, as are all outside the main thread.
    """
    received: list[int] = []
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    previous = {number: handler for number in numbers if (handler := signal.getsignal(number)) in defaults}
    if threading.current_thread() is not threading.main_thread():
        previous = {}

    def stop(number: int, frame: Any) -> None:
        for other in previous:
            signal.signal(other, signal.SIG_IGN)
        received.append(number)
        raise KeyboardInterrupt

    try:
        for number in previous:
            signal.signal(number, stop)
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

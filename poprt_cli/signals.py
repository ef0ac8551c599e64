"""End on a signal by an exception, so that everything under way is closed and removed."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # the last is not known everywhere
#: Seconds after which a signal that was lost strikes again.
_AGAIN = 0.02


@contextmanager
def signals_interrupt() -> Iterator[list[int]]:
    """Raise KeyboardInterrupt in the block on SIGINT, SIGTERM and SIGHUP; the list says on which.

    The first one counts: further ones would interrupt the cleaning up. Signals that are ignored (``nohup``) or that a
    surrounding program handles are left to it, as are all outside the main thread. One that strikes in a destructor or
    in the callback of a weak reference, where Python drops what is raised, strikes again behind it.
    """
    received: list[int] = []
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    previous = {number: handler for number in numbers if (handler := signal.getsignal(number)) in defaults}
    if threading.current_thread() is not threading.main_thread():
        previous = {}
    unraisable = sys.unraisablehook
    again: list[threading.Timer] = []

    def stop(number: int, frame: Any) -> None:
        for other in previous:
            signal.signal(other, signal.SIG_IGN)
        received.append(number)
        raise KeyboardInterrupt

    def strike_again(dropped: Any) -> None:
        if received and dropped.exc_type is KeyboardInterrupt:
            number = received.pop()
            for other in previous:
                signal.signal(other, stop)
            again.append(threading.Timer(_AGAIN, os.kill, (os.getpid(), number)))
            again[-1].start()
        else:
            unraisable(dropped)

    try:
        if previous:
            sys.unraisablehook = strike_again
        for number in previous:
            signal.signal(number, stop)
        yield received
    finally:
        for timer in again:
            timer.cancel()  # the block has ended before it: there is nothing left to interrupt
        for number, handler in previous.items():
            signal.signal(number, handler)
        if previous:
            sys.unraisablehook = unraisable

"""Work in a process of its own, which ends with its work, with an interrupt, and with the process that started it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

T = TypeVar("T")
_SPAWN = multiprocessing.get_context("spawn")


def run_alone(function: Callable[..., T], *arguments: Any) -> T:
    """Run ``function`` in a fresh process and return its result.

    Args:
        function: of a module's own level, so that the process can import it.
        arguments: for it; they and the result are pickled.

    Raises:
        Exception: the function's own.
        RuntimeError: the process ended without a result, for example killed for its memory.
    """
    receiver, sender = _SPAWN.Pipe(duplex=False)
    process = start(_answer, sender, function, arguments)
    sender.close()
    try:
        succeeded, value = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"the process of {function.__name__} ended early, with exit code {process.exitcode}"
        ) from None
    finally:
        process.kill()
        process.join()
        receiver.close()
    if not succeeded:
        raise value
    result: T = value
    return result


def start(target: Callable[..., None], *arguments: Any) -> multiprocessing.process.BaseProcess:
    """Start ``target`` in a process that ends with this one, however this one ends."""
    process = _SPAWN.Process(target=_with_parent, args=(target, arguments), daemon=True)
    process.start()
    return process


def _with_parent(target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    target(*arguments)


def _end_with_parent() -> None:
    """Wait on the pipe that closes when the parent has gone, killed or not."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _answer(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        answer = True, function(*arguments)
    except Exception as error:
        answer = False, error
    sender.send(answer)

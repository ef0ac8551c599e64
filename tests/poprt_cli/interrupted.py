"""Write models while something goes wrong at a chosen line. Run as a program, it kills writers with SIGKILL.

A process that forks must not have threads, as pytest's has with an engine in it: hence a program of its own.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from poprt import atomic_file
from poprt_cli import model_writer

_WATCHED = {atomic_file.__file__, model_writer.__file__}


def make_model(value: int) -> onnx.ModelProto:
    """A model whose name and two weights all say ``value``."""
    weights = [numpy_helper.from_array(np.full((8, 64), value, np.float32), name) for name in ("a", "b")]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [8, 64]) for name in ("x", "y"))
    nodes = [helper.make_node("Add", ["x", "a"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    return helper.make_model(helper.make_graph(nodes, f"says {value}", [x], [y], weights))


def said(path: Path) -> int:
    """The value that all parts of the model in ``path`` agree on."""
    model = onnx.load(str(path))
    values = {int(model.graph.name.split()[1])}
    for tensor in model.graph.initializer:
        values |= set(numpy_helper.to_array(tensor).ravel().astype(int).tolist())
    (value,) = values
    return value


def at_line(number: int, strike: Callable[[], None], work: Callable[[], None]) -> bool:
    """Do ``work`` and call ``strike`` before its line ``number`` in the writing modules; False where there is none."""
    seen = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in _WATCHED:
            return None
        if event == "line":
            seen += 1
            if seen == number:
                sys.settrace(None)
                strike()
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return seen >= number


def write(path: Path, value: int, *, weights_beside: bool = True) -> None:
    """Write a model that says ``value``."""
    model_writer.write_model(make_model(value), path, weights_beside=weights_beside)


def in_child(work: Callable[[], None]) -> int:
    """Do ``work`` in a forked child; its wait status."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def kill_at_each_line(path: Path) -> None:
    """After each SIGKILL the model is whole, and the next write leaves nothing else behind."""
    number, values = 0, set()
    while True:
        write(path, 1)
        number += 1
        status = in_child(
            lambda: at_line(number, lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: write(path, 2)) and None  # noqa: B023
        )
        if not status:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        values.add(said(path))
        write(path, 3)
        assert said(path) == 3
        assert len(list(path.parent.iterdir())) == 2, (number, sorted(path.parent.iterdir()))
    assert values == {1, 2}
    print("lines", number)


def write_side_by_side(path: Path) -> None:
    """Writers in several processes: one of them wins, whole."""
    write(path, 0)
    children = []
    for first in (100, 200, 300):
        child = os.fork()
        if not child:
            try:
                for value in range(first, first + 20):
                    write(path, value % 7, weights_beside=value % 5 > 0)  # the same contents from several, too
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert said(path) in range(7)
    write(path, 8)
    assert len(list(path.parent.iterdir())) == 2, sorted(path.parent.iterdir())
    print("written")


if __name__ == "__main__":
    os.fsync = lambda _: None  # slow, and of no consequence to a process that is killed: the system lives on
    {"kill": kill_at_each_line, "race": write_side_by_side}[sys.argv[1]](Path(sys.argv[2]))

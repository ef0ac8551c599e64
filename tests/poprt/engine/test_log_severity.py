"""What onnxruntime prints by itself: nothing, unless poprt logs at DEBUG. Its exceptions tell the cause."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from passes.reference_session import reference_session
from poprt.compiler import Compiler
from poprt.engine.plain import plain_session
from poprt.engine.session import EngineSession
from tests.passes.rewrites import parse

Run = Callable[[onnx.ModelProto, dict[str, Any]], object]


def _model() -> onnx.ModelProto:
    return parse("g (float[n, 2] x, int64[m] i) => (float[m, 2] y) { y = Gather (x, i) }")


_RUNS: dict[str, Run] = {
    "plain": lambda model, feeds: plain_session(model.SerializeToString()).run(None, feeds),
    "passes": lambda model, feeds: reference_session(model).run(None, feeds),
    "executable": lambda model, feeds: EngineSession(Compiler.compile(model)).run(feeds),
}


@pytest.mark.parametrize("level", [logging.WARNING, logging.DEBUG])
@pytest.mark.parametrize("run", _RUNS.values(), ids=list(_RUNS))
def test_red_lines_are_for_debugging(
    run: Run, level: int, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    feeds = {"x": np.ones((2, 2), np.float32), "i": np.array([7])}
    with caplog.at_level(level, logger="poprt"), pytest.raises(Exception, match="indices element out of data bounds"):
        run(_model(), feeds)
    assert ("Non-zero status code" in capfd.readouterr().err) == (level == logging.DEBUG)

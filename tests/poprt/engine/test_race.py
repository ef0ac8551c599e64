"""Engines that are timed against each other: who is taken, and what happens to one that fails."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import parser

from poprt.compiler import Compiler, CompilerOptions
from poprt.engine.lanes import Lanes
from poprt.errors import PoprtError
from poprt.executable import Executable
from poprt.manifest import ONNXRUNTIME, OPENVINO
from poprt.runtime import engine_race, opening
from poprt.runtime.engine_race import Pace, race
from poprt.runtime.opening import Opened, Opening, try_engines


@cache
def executable() -> Executable:
    text = '<ir_version: 8, opset_import: ["" : 17]> twice (float[2, 4] x) => (float[2, 4] y) { y = Add(x, x) }'
    return Compiler.compile(parser.parse_model(text), options=CompilerOptions(engine="auto"))


class Sleeper:
    """A session that takes its time."""

    computes_in = "float32"

    def __init__(self, seconds: float, error: Exception | None = None) -> None:
        self.seconds, self.error = seconds, error

    def run(
        self, feeds: Mapping[str, NDArray[np.float32]], output_names: Sequence[str] | None = None
    ) -> list[NDArray[np.float32]]:
        if self.error is not None:
            raise self.error
        time.sleep(self.seconds)
        return [feeds["x"]]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_race, "_REST", 0.0)
    monkeypatch.setattr(engine_race, "PATIENCE", 0.1)


def taken(monkeypatch: pytest.MonkeyPatch, sessions: Mapping[str, Sleeper]) -> Opened:
    def opens(of: Executable, engine: str, *, how: Opening) -> Opened:
        return Opened(of.for_engine(engine), sessions[engine], Lanes(1, 1))

    monkeypatch.setattr(opening, "_open", opens)
    monkeypatch.setattr(opening, "engines_to_try", lambda *_: list(sessions))
    return try_engines(executable(), Opening("auto"))[0]


def test_each_engine_is_timed() -> None:
    one = executable()
    paces = race({"slow": (one, Sleeper(0.02), 1), "fast": (one, Sleeper(0.002), 1)}, lambda *_: None)
    assert paces["fast"].a_second > 3 * paces["slow"].a_second
    assert paces["slow"].unit == "runs/s"


def test_an_engine_that_fails_is_left_out_and_told_of() -> None:
    one, told = executable(), {}
    broken = Sleeper(0, PoprtError("out of memory"))
    paces = race({"sound": (one, Sleeper(0.001), 1), "broken": (one, broken, 1)}, told.__setitem__)
    assert list(paces) == ["sound"]
    assert told == {"broken": broken.error}


@pytest.mark.parametrize(("pace", "engine"), [(104.0, ONNXRUNTIME), (106.0, OPENVINO), (50.0, ONNXRUNTIME)])
def test_another_engine_is_taken_where_it_is_faster_by_more_than_noise(
    monkeypatch: pytest.MonkeyPatch, pace: float, engine: str
) -> None:
    paces = {ONNXRUNTIME: Pace(100.0, "runs/s"), OPENVINO: Pace(pace, "runs/s")}
    monkeypatch.setattr(opening, "race", lambda *_: paces)
    assert taken(monkeypatch, {ONNXRUNTIME: Sleeper(0), OPENVINO: Sleeper(0)}).engine == engine


def test_the_engine_that_is_left_runs_where_the_other_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Sleeper(0, PoprtError("out of memory"))
    assert taken(monkeypatch, {ONNXRUNTIME: broken, OPENVINO: Sleeper(0.001)}).engine == OPENVINO
    assert "engine onnxruntime is left out: out of memory" in caplog.text

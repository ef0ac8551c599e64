"""Engines that are timed against each other: who is taken, and what happens to one that fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import parser

from benchmarks.workloads import build, compile_packed
from poprt.compiler import Compiler, CompilerOptions
from poprt.engine.choice import AUTO
from poprt.engine.lanes import Lanes
from poprt.errors import PoprtError
from poprt.executable import Executable
from poprt.manifest import ONNXRUNTIME, OPENVINO
from poprt.runtime import PackRunner, PackRunnerConfig, engine_race, opening
from poprt.runtime.engine_race import Pace, race, typical_packs
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


@pytest.mark.parametrize(
    ("lengths", "packs"),
    [
        ([20], [(20,)]),
        ([30, 10, 20], [(10, 20, 30)]),
        ([8] * 1000, [(8,) * 64, (8,) * 64]),
        ([300, 20] * 16, [(20, 20, 20, 300), (300,), (300,)]),
        ([2000] * 5, [(2000,), (2000,)]),
    ],
)
def test_packs_of_lengths_as_they_come(lengths: list[int], packs: list[tuple[int, ...]]) -> None:
    assert typical_packs(lengths) == packs


@cache
def packed() -> Executable:
    return compile_packed(build("tiny"), 256, engine=AUTO)


class Reader(Sleeper):
    """A session that is slow where its packs hold a sample of the lengths that it dislikes."""

    def __init__(self, disliked: range) -> None:
        super().__init__(0.001)
        self.disliked = disliked
        self.read: set[int] = set()

    def run(self, feeds: Mapping[str, NDArray[Any]], output_names: Sequence[str] | None = None) -> list[NDArray[Any]]:
        lengths = feeds["unpack_info"].ravel().tolist()
        longest = max(lengths)
        self.read.update(lengths)
        time.sleep(0.01 if longest in self.disliked else 0.001)
        return [np.zeros((len(lengths), longest), np.float32) for _ in output_names or ()]


@pytest.mark.parametrize(("lengths", "fastest"), [([8, 9] * 50, "short"), ([200, 210] * 50, "long")])
def test_engines_are_timed_on_the_lengths_that_they_are_told(lengths: list[int], fastest: str) -> None:
    engines = {"short": Reader(range(64, 257)), "long": Reader(range(64))}
    paces = race({name: (packed(), one, 1) for name, one in engines.items()}, lambda *_: None, lengths)
    assert max(paces, key=lambda name: paces[name].a_second) == fastest
    assert {length for one in engines.values() for length in one.read} == set(lengths)


def test_a_sample_that_the_executable_does_not_take_is_cut_to_what_it_does() -> None:
    engine = Reader(range(0))
    race({"one": (packed(), engine, 1)}, lambda *_: None, [5000])
    assert engine.read == {256}


def test_lengths_reach_the_race_from_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def recorded(engines: Mapping[str, Any], left_out: Any, lengths: Sequence[int]) -> dict[str, Pace]:
        seen.append(lengths)
        return {}

    monkeypatch.setattr(opening, "race", recorded)
    monkeypatch.setattr(opening, "engines_to_try", lambda *_: [ONNXRUNTIME, OPENVINO])
    real = opening._open

    def opens(of: Executable, engine: str, *, how: Opening) -> Opened:
        return real(of, ONNXRUNTIME, how=how)

    monkeypatch.setattr(opening, "_open", opens)
    with PackRunner(packed(), PackRunnerConfig(typical_lengths=np.array([12, 20]))):
        assert seen == [[12, 20]]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: executable().for_engine(ONNXRUNTIME), "the engine is onnxruntime, and no other is tried"),
        (executable, "every run of this executable is of the same size"),
    ],
)
def test_lengths_without_effect_are_announced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, make: Callable[[], Executable], why: str
) -> None:
    def opens(of: Executable, engine: str, *, how: Opening) -> Opened:
        return Opened(of.for_engine(engine), Sleeper(0), Lanes(1, 1))

    monkeypatch.setattr(opening, "engines_to_try", lambda manifest, *_: manifest.engines)
    monkeypatch.setattr(opening, "_open", opens)
    try_engines(make(), Opening("auto", typical_lengths=[8]))
    assert f"typical_lengths has no effect: {why}" in caplog.messages

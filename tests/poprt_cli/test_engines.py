"""`poprt_exec engines`: which engine takes an executable, and how fast each is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks.workloads import build, compile_packed
from poprt.engine.choice import AUTO
from poprt.manifest import ONNXRUNTIME, OPENVINO
from poprt.runtime import opening
from poprt.runtime.engine_race import Pace
from poprt_cli.executor import cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("popef")
    for engine in (AUTO, ONNXRUNTIME):
        compile_packed(build("tiny"), 64, engine=engine).save(folder / f"{engine}.popef")
    return folder


def engines(*words: object) -> Result:
    return CliRunner().invoke(cli, ["engines", *map(str, words)], prog_name="poprt_exec")


def row(result: Result, engine: str) -> str:
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines() if f" {engine} " in line]
    return line


def test_an_engine_without_a_graph_says_how_it_gets_one(folder: Path) -> None:
    result = engines("--popef", folder / "onnxruntime.popef")
    assert "used by engine=auto" in row(result, ONNXRUNTIME)
    assert "no graph for it: compile with --compiler_options engine=auto" in row(result, OPENVINO)


def test_engines_are_timed_on_lengths_of_the_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Sequence[int]] = []

    def recorded(racers: dict[str, Any], left_out: Any, lengths: Sequence[int]) -> dict[str, Pace]:
        seen.append(lengths)
        return {ONNXRUNTIME: Pace(1000, "tokens/s"), OPENVINO: Pace(1100, "tokens/s")}

    real = opening._open
    monkeypatch.setattr(opening, "_open", lambda of, engine, how: real(of, ONNXRUNTIME, how=how))
    monkeypatch.setattr(opening, "engines_to_try", lambda *_: [ONNXRUNTIME, OPENVINO])
    monkeypatch.setattr(opening, "race", recorded)
    result = engines("--popef", folder / "auto.popef", "--typical_lengths", "12, 20,9")
    assert seen == [(12, 20, 9)]
    assert "1,000 tokens/s" in row(result, ONNXRUNTIME)
    assert "1,100 tokens/s" in row(result, OPENVINO)
    assert "used by engine=auto" in row(result, OPENVINO)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--popef", "none.popef"], "'none.popef' does not exist"),
        (["--popef", "auto.popef", "--typical_lengths", "12,0"], "'12,0': expected whole numbers with commas between"),
    ],
)
def test_bad_input_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(folder)
    result = engines(*words)
    assert result.exit_code != 0
    assert message in result.stderr
    assert "Traceback" not in result.output

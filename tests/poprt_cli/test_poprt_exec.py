"""The command `poprt_exec`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from models.bert import SIZES, BertConfig, build_bert
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.executable import Executable
from poprt_cli.executor import cli
from tests.poprt.runtime.test_host_concat_runner import many_inputs
from tests.poprt.runtime.vector_models import executable, whole_executable

SHAPES = {name: [2, 12] for name in ("input_ids", "attention_mask", "token_type_ids")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a packed executable, a fixed one, one with open dimensions, one with joined inputs, one of two models."""
    folder = tmp_path_factory.mktemp("popef")
    model = build_bert(BertConfig(**SIZES["tiny"], head="qa"))
    packing = {"max_valid_num": 4, "segment_max_size": 12}
    for name, options in {
        "packed": {"input_shape": SHAPES, "pack_args": packing},
        "fixed": {"input_shape": SHAPES},
        "open": {},
    }.items():
        Compiler.compile_and_export(Converter(**options).convert(model), None, folder / f"{name}.popef")
    for layout in ("across_rows", "within_rows_unpacked"):
        whole_executable(layout).save(folder / f"{layout}.popef")
    executable("within_rows").save(folder / "within_rows.popef")
    (folder / "text.popef").write_text("no executable")
    joined = Compiler.compile(Converter(apply_hcsr=True).convert(many_inputs()))
    joined.save(folder / "joined.popef")
    Executable.fused([joined, Executable(folder / "packed.popef")]).save(folder / "fused.popef")
    return folder


def run(*words: object) -> Result:
    result = CliRunner().invoke(cli, ["poprt_run_popef", *map(str, words)], prog_name="poprt_exec")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize(
    ("name", "words", "batch_size"),
    [
        ("fixed", [], 2),
        ("fixed", ["--batchSize", 5], 5),
        ("packed", [], 2),
        ("packed", ["--runner", "packRunner", "--maskName", "attention_mask"], 4),
        ("packed", ["--runner", "packRunner", "--maxValidNum", 3, "--packTimeout", 100, "--numThreads", 2], 3),
        ("across_rows", [], 3),
        ("across_rows", ["--runner", "packRunner"], 10),
        ("within_rows", ["--runner", "packRunner"], 96),
        ("within_rows_unpacked", ["--runner", "packRunner"], 10),
        ("fixed", ["--runner", "lightRunner", "--numThreads", 3], 2),
        ("fixed", ["--runner", "lightRunner", "--batchSize", 5], 5),
        ("fixed", ["--runner", "hostConcatRunner"], 2),
        ("joined", ["--runner", "hostConcatRunner"], 4),
        ("joined", ["--runner", "hostConcatRunner", "--batchSize", 9], 9),
        ("joined", [], 4),
        ("fused", [], 4),
        ("fused", ["--index", 1], 2),
        ("fused", ["--index", 1, "--runner", "packRunner"], 4),
        ("fused", ["--runner", "lightRunner"], 4),
        ("fused", ["--runner", "hostConcatRunner"], 4),
    ],
)
def test_latency_and_throughput_are_printed(folder: Path, name: str, words: list[object], batch_size: int) -> None:
    result = run("--popef", folder / f"{name}.popef", "--iteration", 4, *words)
    assert result.exit_code == 0, result.output
    figures = dict(line.split(": ") for line in result.stdout.splitlines())
    latencies = [float(figures[f"{what} latency"].split()[0]) for what in ("min", "mean", "p99", "max")]
    assert latencies == sorted(latencies)
    assert figures["iterations"] == "4"
    assert figures["batch size"] == str(batch_size)
    assert re.fullmatch(r"[\d.]+ s", figures["total time"])
    assert float(figures["throughput"].split()[0]) > 0


@pytest.mark.parametrize(
    ("name", "words", "text"),
    [
        ("missing", [], "does not exist"),
        ("x" * 300, [], "does not exist"),
        ("text", [], "text.popef"),
        ("fused", ["--runner", "hostConcatRunner", "--index", 2], "--index 2: the executable has models 0 to 1"),
        ("fixed", ["--runner", "fastRunner"], "fastRunner"),
        ("fixed", ["--runner", "packRunner"], "not packed"),
        ("fixed", ["--index", 1], "only model 0"),
        ("packed", ["--runner", "packRunner", "--maskName", "mask"], "'mask'"),
        ("open", [], "--input_shape"),
    ],
)
def test_what_cannot_be_run_is_one_line(folder: Path, name: str, words: list[object], text: str) -> None:
    result = run("--popef", folder / f"{name}.popef", "--iteration", 1, *words)
    assert result.exit_code != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("poprt_exec: error: ")]
    assert len(lines) == 1
    assert text in lines[0]

"""What the command says of the isolation trial, and that it compiles once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from models.bert import SIZES, BertConfig, build_bert
from poprt.compiler import Compiler
from poprt.executable import Executable
from poprt_cli.main import cli

#: A pass that takes the mean over padded places from the first output.
LEAK = """
import onnx
from poprt.passes import Pass, register

@register("leak_for_a_test")
class Leak(Pass):
    def run(self, model):
        name = model.graph.output[0].name
        for node in model.graph.node:
            for index, output in enumerate(node.output):
                if output == name:
                    node.output[index] = "before"
        make = onnx.helper.make_node
        model.graph.node.append(make("ReduceMean", ["before"], ["mean"], axes=[1], keepdims=1))
        model.graph.node.append(make("Sub", ["before", "mean"], [name]))
        return model
"""

Poprt = Callable[..., Result]


@pytest.fixture
def poprt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Poprt:
    """Pack a small model in an empty folder, with the words given."""
    monkeypatch.chdir(tmp_path)
    model = build_bert(BertConfig(**{**SIZES["tiny"], "layers": 1}, head="qa"))
    onnx.save(model, "bert.onnx")
    shapes = [f"{value.name}=2,24" for value in model.graph.input]
    words = ["-i", "bert.onnx", "--input_shape", *shapes, "--pack_args", "max_valid_num=6", "segment_max_size=24"]
    return lambda *more: CliRunner().invoke(cli, [*words, *more], prog_name="poprt", catch_exceptions=False)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry each time that a model is compiled."""
    counted: list[None] = []
    compile_model = Compiler.compile

    def count(*args: object) -> Executable:
        counted.append(None)
        return compile_model(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(Compiler, "compile", staticmethod(count))
    return counted


def test_the_table_says_what_was_tried_and_the_model_is_compiled_once(poprt: Poprt, compilations: list[None]) -> None:
    result = poprt("--export_popef", "--compiler_options", "constant_weights=False")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if line.split()[:1] == ["isolation"]]
    assert len(lines) == 2
    assert "tolerance 2e-05" in lines[0]
    assert "longer and shorter ones, first and last: pass, moved by " in lines[0]
    assert "other tokens: pass, moved by 0, tolerance 0" in lines[1]
    assert len(compilations) == 1
    assert Executable("executable.popef").manifest.options["constant_weights"] is False


def test_it_can_be_left_out(poprt: Poprt, compilations: list[None]) -> None:
    result = poprt("--skip_isolation_check")
    assert "not tried: left out by skip_isolation_check" in result.stdout
    assert not compilations
    assert poprt("--skip_isolation_check", "--export_popef").exit_code == 0
    assert len(compilations) == 1


@pytest.mark.isolation_failure
def test_the_executable_says_what_the_trial_found(poprt: Poprt, compilations: list[None]) -> None:
    Path("leak.py").write_text(LEAK)
    result = poprt("--custom_pass_config", "leak.py", "--passes", "leak_for_a_test", "--export_popef")
    assert result.exit_code == 0, result.output
    assert "FAIL, moved by " in result.stdout
    assert "samples that may share a run now: same_length" in result.stdout
    assert "please report" in result.stderr
    packing = Executable("executable.popef").packing
    assert packing is not None
    assert packing.neighbours == "same_length"
    assert len(compilations) == 2


def test_a_cache_folder_that_cannot_be_made_is_named(poprt: Poprt) -> None:
    Path("a_file").write_text("")
    result = poprt("--export_popef", "--compiler_options", "enable_engine_caching=True", "cache_path=a_file/cache")
    assert result.exit_code == 1
    assert "a_file" in result.stderr.splitlines()[-1]
    assert "executable.popef" not in result.stderr.splitlines()[-1]

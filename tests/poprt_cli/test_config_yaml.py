"""`poprt --config_yaml`: the command line in a file, and several models in one executable."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from poprt.executable import Executable
from poprt.runtime import Runner, RuntimeConfig
from poprt_cli import executor
from tests.passes.rewrites import parse
from tests.poprt_cli.command import SHAPES, Poprt, assert_fails, shapes

FUSION = """
output_dir: './out'
output_model: 'fused.onnx'
export_popef: True
max_tensor_size: -1
ipu_version: 'ipu21'
model_fusion:
  - input_model: 'first.onnx'
    input_shape: ['X=1,2', 'Y=1,2']
    precision: 'fp32'

  - input_model: 'second.onnx'
    input_shape: {X: [1, 1]}
    precision: 'fp16'
"""


@pytest.fixture
def two_models(tmp_path: Path) -> Path:
    """A folder with two models and the file that fuses them."""
    first = "g (float[N, 2] X, float[1, 2] Y) => (float[M] O) <int64[1] C = {2}> { Z = Add(X, Y)  O = Reshape(Z, C) }"
    second = "g (float[1, N] X) => (float[1, M] O) <float[1, 2] C = {1.5, 2}> { O = Concat<axis=1>(X, C) }"
    onnx.save(parse(first, opset=11), tmp_path / "first.onnx")
    onnx.save(parse(second, opset=13), tmp_path / "second.onnx")
    (tmp_path / "config.yaml").write_text(FUSION)
    return tmp_path


def test_two_models_are_fused_from_a_file_and_run_by_name(poprt: Poprt, two_models: Path) -> None:
    result = poprt("--config_yaml", "config.yaml", "--run")
    assert result.exit_code == 0, result.output
    assert "--ipu_version has no effect here" in result.stderr
    assert len(re.findall(r"\] (?:Bs: 1|Latency: [\d.]+ms|Tput: \d+)$", result.stderr, re.MULTILINE)) == 6
    assert "model 1: second.onnx" in result.stdout
    runner = Runner("out/executable.popef", RuntimeConfig(validate_io_params=False))
    total, joined = np.zeros(2, np.float32), np.zeros((1, 3), np.float16)
    ones = np.ones((1, 2), np.float32)
    runner.execute({"graph0/X": ones, "graph0/Y": 2 * ones}, {"graph0/O": total})
    runner.execute({"graph1/X": np.zeros((1, 1), np.float16)}, {"graph1/O": joined})
    runner.close()
    np.testing.assert_array_equal(total, [3, 3])
    np.testing.assert_array_equal(joined, [[0, 1.5, 2]])
    assert shapes("out/fused.onnx") == {"graph0/X": [1, 2], "graph0/Y": [1, 2], "graph1/X": [1, 1]}
    for index in (0, 1):
        words = ["poprt_run_popef", "--popef", "out/executable.popef", "--iteration", "2", "--index", str(index)]
        timed = CliRunner().invoke(executor.cli, words)
        assert "iterations: 2" in timed.stdout, timed.output


def test_the_command_line_comes_before_a_model_and_a_model_before_the_rest(poprt: Poprt, two_models: Path) -> None:
    (two_models / "config.yaml").write_text(FUSION.replace("    precision: 'fp32'\n", "") + "precision: fp16\n")
    assert poprt("--config-yaml", "config.yaml", "--output_model", "other.onnx").exit_code == 0
    assert [spec.dtype for spec in Executable("out/executable.popef").inputs] == ["float16"] * 3
    assert (two_models / "out" / "other.onnx").exists()
    assert poprt("--config-yaml", "config.yaml", "--precision", "fp32").exit_code == 0
    assert [spec.dtype for spec in Executable("out/executable.popef").inputs] == ["float32"] * 3


def test_show_and_check_are_for_every_model(poprt: Poprt, two_models: Path) -> None:
    shown = poprt("--config_yaml", "config.yaml", "--show")
    assert "Input graph1/X: dtype - float32, shape - [1, 0]" in shown.stdout
    assert not Path("out").exists()
    checked = poprt("--config_yaml", "config.yaml", "--check")
    assert len(re.findall(r"check +O: pass", checked.stdout)) == 2


def test_a_file_has_every_key_of_the_command_line(poprt: Poprt, model_path: Path, tmp_path: Path) -> None:
    config = {
        "input_model": str(model_path),
        "output-dir": "deep",
        "input_shape": "[" + ", ".join(f"'{shape}'" for shape in SHAPES) + "]",
        "pack_args": "{max_valid_num: 6, segment_max_size: 12}",
        "precision": "fp16",
        "skip_passes": "[eliminate_nop_cast, trace_folding]",
        "passes": "eliminate_identity",
        "export_popef": "true",
        "run": "false",
        "compiler_options": "{opaque_blobs: \"{'a': 'b'}\"}",
        "fp16_skip_op_types": "",
    }
    Path("c.yaml").write_text("".join(f"{key}: {value}\n" for key, value in config.items()))
    result = poprt("--config_yaml", "c.yaml")
    assert result.exit_code == 0, result.output
    executable = Executable("deep/executable.popef")
    assert executable.packing is not None
    assert executable.packing.max_valid_num == 6
    assert executable.opaque_blobs == {"a": "b"}
    assert not {"eliminate_nop_cast", "trace_folding"} & set(executable.manifest.passes)
    assert executable.manifest.passes.count("eliminate_identity") == 2


def test_a_packed_model_is_one_of_several_and_packed_by_its_index(poprt: Poprt, model_path: Path) -> None:
    onnx.save(parse("g (float[2] x) => (float[2] y) { y = Neg(x) }"), "small.onnx")
    listed = ", ".join(f"'{shape}'" for shape in SHAPES)
    Path("c.yaml").write_text(
        f"export_popef: true\nmodel_fusion:\n- input_model: small.onnx\n- input_model: {model_path}\n"
        f"  input_shape: [{listed}]\n  pack_args: ['max_valid_num=4', 'segment_max_size=12']\n"
    )
    assert poprt("--config_yaml", "c.yaml").exit_code == 0
    words = ["poprt_run_popef", "--popef", "executable.popef", "--runner", "packRunner", "--iteration", "2"]
    timed = CliRunner().invoke(executor.cli, [*words, "--index", "1"])
    assert "batch size: 4" in timed.stdout, timed.output
    for index, text in (("0", "is not packed"), ("2", "--index 2: the executable has models 0 to 1")):
        failed = CliRunner().invoke(executor.cli, [*words, "--index", index])
        assert failed.exit_code == 1
        assert text in failed.stderr


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("inputs_model: m.onnx", "did you mean 'input_model'?"),
        ("config_yaml: other.yaml", "'config_yaml'"),
        ("precision: fp64", "int8, not 'fp64'"),
        ("batch_size: true", "'True' is not a valid integer"),
        ("batch_size: [1, 2]", "batch_size is one value"),
        ("export_popef: 'yes'", "export_popef is true or false"),
        ("input_shape: ['X']", "'X' is not KEY=VALUE"),
        ("precision: fp32\nprecision_: fp16", "did you mean 'precision'?"),
        ("export_popef: true\nexport-popef: false", "twice"),
        ("- precision", "expected keys"),
        ("a: {", "no YAML"),
        ("model_fusion: []", "model_fusion has no models"),
        ("model_fusion: m.onnx", "model_fusion is a list of models"),
        ("model_fusion: [m.onnx]", "model_fusion is a list of models"),
        ("model_fusion: [{precisions: fp16}]", "model 0 has the key 'precisions', which is no option; did you mean"),
        ("model_fusion: [{precision: fp16}]", "model_fusion, model 0: has no input_model"),
        ("model_fusion: [{input_model: m.onnx, precision: fp64}]", "model_fusion, model 0: Invalid value"),
        ("model_fusion: [{input_model: m.onnx, output_dir: a}]", "'output_dir' is for all models"),
        ("model_fusion: [{input_model: nowhere.onnx}]", "'nowhere.onnx' does not exist"),
    ],
)
def test_a_file_that_says_something_else_is_refused_in_one_line(poprt: Poprt, content: str, text: str) -> None:
    Path("c.yaml").write_text(content)
    assert_fails(poprt("--config_yaml", "c.yaml"), text)


def test_a_model_on_the_command_line_does_not_go_with_those_of_the_file(poprt: Poprt, two_models: Path) -> None:
    assert_fails(poprt("--config_yaml", "config.yaml", "-i", "first.onnx"), "model_fusion has the models")


def test_a_file_that_is_not_there_is_named(poprt: Poprt) -> None:
    assert_fails(poprt("--config_yaml", "nowhere.yaml"), "nowhere.yaml")

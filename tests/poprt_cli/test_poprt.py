"""The command `poprt`: results on stdout, what stands beside the model, and bugs that keep their traceback."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from passes import get_registered_passes
from poprt.engine.cpu import lacks_int8_dot_products
from poprt.executable import Executable
from tests.dynamic_int8 import quantised_as_it_runs
from tests.poprt_cli.command import SHAPES, Poprt, assert_fails, shapes


def test_a_model_is_converted_under_its_default_name(poprt: Poprt, model_path: Path, tmp_path: Path) -> None:
    result = poprt("-i", model_path, "--input_shape", *SHAPES)
    assert result.exit_code == 0, result.output
    assert list(shapes("bert.optimized.onnx").values()) == [[2, 12]] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["bert.optimized.onnx"]


def test_the_table_tells_what_each_pass_did(poprt: Poprt, model_path: Path) -> None:
    result = poprt("-i", model_path)
    assert re.search(r"before +opset 14", result.stdout)
    assert re.search(r"eliminate_duplicate_nodes +nodes merged: \d+ +\d+ -> \d+ +\d\.\d{3}", result.stdout)
    assert re.search(r"after +opset 14", result.stdout)
    assert result.stderr == ""


@pytest.mark.parametrize("flag", ["--input_shape", "--input-shape"])
def test_flags_take_underscores_and_dashes_and_pairs_in_one_flag_or_several(
    poprt: Poprt, model_path: Path, flag: str
) -> None:
    assert poprt("-i", model_path, flag, *SHAPES[:2], flag, SHAPES[2], "--output-model", "a.onnx").exit_code == 0
    assert list(shapes("a.onnx").values()) == [[2, 12]] * 3


def test_names_in_pairs_may_contain_colons_slashes_and_equal_signs(poprt: Poprt, tmp_path: Path) -> None:
    name = "scope/ids=x:0"
    value = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 3])
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph([helper.make_node("Relu", [name], ["y"])], "g", [value], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "m.onnx")
    assert poprt("-i", "m.onnx", "--input_shape", f"{name}=4,3").exit_code == 0
    assert shapes("m.optimized.onnx") == {name: [4, 3]}


def test_a_packed_fp16_model_is_checked_run_and_exported(poprt: Poprt, model_path: Path) -> None:
    result = poprt(
        *("-i", model_path, "--output_dir", "out/deep", "--input_shape", *SHAPES, "--precision", "fp16"),
        *("--pack_args", "max_valid_num=6", "segment_max_size=12", "--check", "--run", "--export_popef"),
    )
    assert result.exit_code == 0, result.output
    assert re.search(r"packing +packed share of FLOPs: \d+\.\d%", result.stdout)
    assert re.search(r"packed_transformer +Unpacks: \d+", result.stdout)
    assert re.search(r"check +start_logits: pass", result.stdout)
    lines = "\n".join(
        rf".*INFO poprt trial\.py:\d+\] {line}" for line in (r"Bs: \d+", r"Latency: [\d.]+ms", r"Tput: \d+")
    )
    assert re.search(lines, result.stderr)
    assert shapes("out/deep/bert.optimized.onnx")["unpack_info"] == [6, 1]
    packing = Executable(Path("out/deep/executable.popef")).manifest.packing
    assert packing is not None
    assert packing.max_valid_num == 6


def test_an_int8_model_says_what_stayed_float_and_what_it_cost(poprt: Poprt, model_path: Path) -> None:
    result = poprt("-i", model_path, "--precision", "int8", "--check", "--export_popef")
    assert result.exit_code == 0, result.output
    assert re.search(r"float_to_int8 +products in int8: \d+", result.stdout)
    assert re.search(r"int8 +bytes of weights: \d+ -> \d+", result.stdout)
    assert re.search(r"int8 +cosine of start_logits: (0\.999|1\.000)", result.stdout)
    assert re.search(r"float32 +MatMul .*: 2 columns", result.stdout)
    assert re.search(r"check +start_logits: pass", result.stdout)
    stored = {spec.dtype for spec in Executable(Path("executable.popef")).manifest.weights}
    assert ("int8" in stored, "uint8" in stored) == (not lacks_int8_dot_products(), lacks_int8_dot_products())
    assert ("reduce_range=True" in result.stderr) == lacks_int8_dot_products()


def test_bf16_that_stored_nothing_is_said_on_the_last_line(poprt: Poprt, tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> m (float[2] x) => (float[2] y) { y = Relu (x) }'
    onnx.save(onnx.parser.parse_model(text), str(tmp_path / "small.onnx"))
    result = poprt("-i", tmp_path / "small.onnx", "--precision", "bf16")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith("bf16: no weight was stored in bfloat16")


def test_an_option_that_did_nothing_in_poprt_either_says_so(poprt: Poprt, model_path: Path) -> None:
    result = poprt("-i", model_path, "--perf_tuner")
    assert "--perf_tuner has no effect here: it did nothing in PopRT either" in result.stderr


def test_int8_that_quantised_nothing_is_said_on_the_last_line(poprt: Poprt, model_path: Path) -> None:
    last = "int8: no product was quantised; products by constant matrices: "
    done = poprt("-i", model_path, "--precision", "int8", "--output_model", "int8.onnx")
    assert last not in done.stdout
    result = poprt("-i", "int8.onnx", "--precision", "int8")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith(last)
    assert "already quantised" in result.stdout.splitlines()[-1]


def test_a_float16_model_is_quantised_too(poprt: Poprt, model_path: Path) -> None:
    assert poprt("-i", model_path, "--precision", "fp16", "--output_model", "half.onnx").exit_code == 0
    result = poprt("-i", "half.onnx", "--precision", "int8", "--check")
    assert result.exit_code == 0, result.output
    assert re.search(r"float_to_int8 +products in int8: 12", result.stdout)
    assert re.search(r"int8 +cosine of start_logits: (0\.99|1\.000)", result.stdout)
    assert re.search(r"check +start_logits: pass", result.stdout)


def test_shared_scales_are_in_the_table_and_requantize_gives_a_scale_a_token(poprt: Poprt, model_path: Path) -> None:
    onnx.save(quantised_as_it_runs(onnx.load(model_path)), "dynamic.onnx")
    result = poprt("-i", "dynamic.onnx")
    assert re.search(r"company +DynamicQuantizeLinear '.*': one scale for all samples of a run", result.stdout)
    assert "--requantize" in result.stderr
    words = ("--pack_args", "max_valid_num=4", "segment_max_size=12", "--input_shape", *SHAPES)
    assert_fails(poprt("-i", "dynamic.onnx", *words), "--requantize", "--pack_shared_scales")
    result = poprt("-i", "dynamic.onnx", *words, "--requantize", "--check")
    assert result.exit_code == 0, result.output
    assert re.search(r"lower_dynamic_int8 +products with a scale a token: 13", result.stdout)
    assert "company" not in result.stdout + result.stderr
    result = poprt("-i", model_path, "--requantize")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith("requantize: no product is quantised with a scale a tensor")


def test_show_prints_inputs_then_outputs_and_stops(poprt: Poprt, model_path: Path, tmp_path: Path) -> None:
    result = poprt("-i", model_path, "--show")
    assert result.stdout.splitlines() == [
        "Input input_ids: dtype - int64, shape - [0, 0]",
        "Input attention_mask: dtype - int64, shape - [0, 0]",
        "Input token_type_ids: dtype - int64, shape - [0, 0]",
        "Output start_logits: dtype - float32, shape - [0, 0]",
        "Output end_logits: dtype - float32, shape - [0, 0]",
    ]
    assert not list(tmp_path.iterdir())


def test_all_passes_are_listed_one_a_line_on_stdout(poprt: Poprt) -> None:
    result = poprt("--list_all_passes")
    assert result.stdout.split() == get_registered_passes()
    assert "overlap_io" in result.stderr
    assert "overlap_io" not in result.stdout


def test_passes_by_name_are_run_skipped_or_announced(poprt: Poprt, model_path: Path) -> None:
    result = poprt(
        *("-i", model_path, "--passes", "layer_norm_pattern,pre_scale,attention_padding"),
        *("--skip_passes", "topk_workaround,eliminate_identity", "--merge_matmul_add", "all"),
    )
    assert result.exit_code == 0
    for name in ("layer_norm_pattern", "pre_scale", "merge_matmul_add"):
        assert name in result.stdout
    assert "eliminate_identity" not in result.stdout
    for name in ("attention_padding", "topk_workaround"):
        assert result.stderr.count(f"pass {name} has no effect here: ") == 1
        assert name not in result.stdout


def test_a_custom_pass_is_imported_listed_and_run(poprt: Poprt, model_path: Path, tmp_path: Path) -> None:
    name = "rename_producer_of_this_test"
    Path("mine.py").write_text(
        "from passes import Pass, register\n\n"
        f"@register({name!r})\n"
        "class Mine(Pass):\n"
        "    def run(self, model):\n"
        "        model.producer_name = 'mine'\n"
        "        return model\n"
    )
    assert name in poprt("--list_all_passes", "--custom_pass_config", "mine.py").stdout.split()
    assert poprt("-i", model_path, "--custom_pass_config", "mine.py", "--passes", name).exit_code == 0
    assert onnx.load("bert.optimized.onnx").producer_name == "mine"


def test_what_steers_only_the_ipu_is_announced_once_on_stderr(poprt: Poprt, model_path: Path) -> None:
    result = poprt("-i", model_path, "--num_io_tiles", 128, "--popart_options", "a=1", "b=2", "--ipu_version", "ipu21")
    assert result.exit_code == 0
    for name in ("num_io_tiles", "popart_options", "ipu_version"):
        assert result.stderr.count(f"--{name} has no effect") == 1
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING poprt main\.py:\d+\] ", result.stderr)


def test_the_logging_level_is_obeyed(poprt: Poprt, model_path: Path) -> None:
    result = poprt("-i", model_path, "--num_io_tiles", 128, "--logging_level", "ERROR")
    assert result.stderr == ""
    assert logging.getLogger("poprt").level == logging.ERROR


def test_an_unknown_input_is_a_warning_that_lists_the_inputs(poprt: Poprt, model_path: Path) -> None:
    result = poprt("-i", model_path, "--input_shape", "nope=2,2")
    assert result.exit_code == 0
    assert "'nope'" in result.stderr
    assert "attention_mask" in result.stderr


def test_the_version_is_printed(poprt: Poprt) -> None:
    assert re.fullmatch(r"poprt \d+\.\d+\.\d+\n", poprt("-v").stdout)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_completion_script_is_printed(poprt: Poprt, shell: str) -> None:
    assert "_POPRT_COMPLETE" in poprt("--print_completion", shell).stdout


def test_python_dash_m_poprt_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "poprt", "-i", "missing.onnx"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("poprt: error: input_model 'missing.onnx' does not exist")


def test_a_bug_keeps_its_traceback(poprt: Poprt, model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("passes.cleanup.sort_graph.SortGraph.apply", fail)
    with pytest.raises(ZeroDivisionError):
        poprt("-i", model_path)


def test_a_model_near_two_gigabytes_gets_a_file_beside_it(
    poprt: Poprt, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poprt_cli.model_files.LARGEST_MESSAGE", 1000)
    assert poprt("-i", model_path, "--output_model", "big.onnx").exit_code == 0
    first, second = sorted(path.name for path in Path().iterdir())
    assert first == "big.onnx"
    assert re.fullmatch(r"big\.onnx\.[0-9a-f]{32}\.data", second)
    for expected, got in zip(
        onnx.load(str(model_path)).graph.initializer[:1], onnx.load("big.onnx").graph.initializer[:1], strict=True
    ):
        assert np.array_equal(onnx.numpy_helper.to_array(expected), onnx.numpy_helper.to_array(got))


def test_each_pass_that_changed_something_is_dumped_and_the_model_stays_the_same(
    poprt: Poprt, model_path: Path
) -> None:
    words = ["-i", model_path, "--input_shape", *SHAPES]
    assert poprt(*words, "--output_model", "plain.onnx").exit_code == 0
    result = poprt(*words, "--output_model", "watched.onnx", "--dump_passes", "dump")
    assert result.exit_code == 0, result.output
    assert Path("watched.onnx").read_bytes() == Path("plain.onnx").read_bytes()
    names = sorted(path.name for path in Path("dump").iterdir())
    (path,) = Path("dump").glob("*_const_input_shape.onnx")
    assert 2 < len(names) < 15
    assert all(re.match(r"\d\d_[a-z0-9_]+\.onnx", name) for name in names)
    dumped = onnx.load(str(path), load_external_data=False)
    assert [dim.dim_value for dim in dumped.graph.input[0].type.tensor_type.shape.dim] == [2, 12]


def test_a_folder_for_dumps_that_cannot_be_used_is_refused_on_one_line(poprt: Poprt, model_path: Path) -> None:
    Path("file").write_text("x")
    result = poprt("-i", model_path, "--dump_passes", "file")
    assert result.exit_code == 1
    assert result.stderr.startswith("poprt: error: dump_passes: 'file' cannot be written to (")
    assert result.stderr.count("\n") == 1
    assert not Path("bert.optimized.onnx").exists()


def test_an_operator_that_the_engine_has_beside_those_of_onnx_is_no_fault(poprt: Poprt, tmp_path: Path) -> None:
    """onnxruntime's optimiser writes LayerNormalization in whatever opset the model has."""
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 8]) for name in "xy"]
    scale = onnx.numpy_helper.from_array(np.ones(8, np.float32), "s")
    node = helper.make_node("LayerNormalization", ["x", "s"], ["y"])
    graph = helper.make_graph([node], "g", values[:1], values[1:], [scale])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), tmp_path / "m.onnx")
    result = poprt("-i", "m.onnx", "--check")
    assert result.exit_code == 0, result.output


def test_pictures_of_open_width_are_refused_in_a_sentence(poprt: Poprt, tmp_path: Path) -> None:
    values = [
        helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["b", 3, 48, None]),
        helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None),
    ]
    kernel = onnx.numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "k")
    node = helper.make_node("Conv", ["x", "k"], ["y"])
    graph = helper.make_graph([node], "g", values[:1], values[1:], [kernel])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    assert_fails(poprt("-i", "m.onnx", "--pack_args", "max_valid_num=8", "segment_max_size=64"), "pass 'packed_tran")

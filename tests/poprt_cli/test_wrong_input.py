"""Each wrong input of `poprt` is one line on stderr and leaves the old output as it was."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.poprt_cli.command import SHAPES, Poprt, assert_fails


def bad_model(kind: str, good: Path) -> Path:
    path = Path(f"{kind}.onnx")
    if kind == "text":
        path.write_text("this is no model\n" * 10)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(good.read_bytes()[:-5000])
    elif kind == "unknown_op":
        model = onnx.load(str(good))
        model.graph.node[5].op_type = "Frobnicate"
        path.write_bytes(model.SerializeToString())
    elif kind == "short_data":
        onnx.save(onnx.load(str(good)), str(path), save_as_external_data=True, location="w.data", size_threshold=0)
        Path("w.data").write_bytes(Path("w.data").read_bytes()[:-100])
    elif kind == "no_data":
        onnx.save(onnx.load(str(good)), str(path), save_as_external_data=True, location="w.data", size_threshold=0)
        Path("w.data").unlink()
    return path


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("missing", "does not exist"),
        ("text", "cannot be read as an ONNX model"),
        ("empty", "no ONNX model"),
        ("truncated", "truncated"),
        ("unknown_op", "'Frobnicate'"),
        ("short_data", "w"),
        ("no_data", "external data"),
    ],
)
def test_a_model_that_cannot_be_read_is_one_line(poprt: Poprt, model_path: Path, kind: str, text: str) -> None:
    Path("out.onnx").write_bytes(b"old")
    assert_fails(
        poprt("-i", bad_model(kind, model_path), "--output_model", "out.onnx"),
        f"{kind}.onnx" if kind != "unknown_op" else "node",
        text,
    )
    assert Path("out.onnx").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["--passes", "constant_foldin"], ["'constant_foldin'", "did you mean 'constant_folding'"]),
        (["--skip_passes", "sort_grph"], ["did you mean 'sort_graph'"]),
        (["--input_shape", "input_ids"], ["--input_shape", "'input_ids' is not KEY=VALUE"]),
        (["--input_shape", "input_ids=2,x"], ["positive whole numbers"]),
        (["--input_shape", "input_ids=2,12", "input_ids=3,12"], ["given twice"]),
        (["--input_shape", "input_ids=2,12,4"], ["input_ids"]),
        (["--input_shape"], ["--input_shape", "requires an argument"]),
        (["--pack_args", "max_valid_num"], ["--pack_args", "is not KEY=VALUE"]),
        (["--pack_args", "max_valid_num=six", "segment_max_size=12"], ["max_valid_num", "six"]),
        (["--pack_args", "max_valid_nm=6", "segment_max_size=12"], ["did you mean 'max_valid_num'"]),
        (["--precision", "fp8"], ["--precision", "'fp8': FP8 needs hardware", "int8", "bf16"]),
        (["--precision", "FP8_weight"], ["--precision", "FP8 needs hardware", "int8", "bf16"]),
        (["--precision", "half"], ["--precision", "fp32, fp16, bf16 or int8"]),
        (["--calibration_loss_type", "l7"], ["--calibration_loss_type", "l7"]),
        (["--batch_size", "0"], ["--batch_size"]),
        (["--inputshape", "a=1"], ["No such option", "--input_shape"]),
        (["--remove_outputs", "logits"], ["'logits'", "start_logits"]),
        (["--checkpoints", "nowhere"], ["'nowhere'"]),
        (["--fp16_skip_op_types"], ["requires an argument"]),
        (["--custom_pass_config", "none.py"], ["custom_pass_config", "none.py"]),
        (["--ipu_version", "ipu9"], ["--ipu_version", "ipu9"]),
        (["--num_io_tiles", "many"], ["--num_io_tiles", "many"]),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(
    poprt: Poprt, model_path: Path, words: list[str], texts: list[str]
) -> None:
    Path("bert.optimized.onnx").write_bytes(b"old")
    assert_fails(poprt("-i", model_path, *words), *texts)
    assert Path("bert.optimized.onnx").read_bytes() == b"old"


def test_a_shape_that_contradicts_the_model_is_one_line(poprt: Poprt, model_path: Path) -> None:
    assert poprt("-i", model_path, "--input_shape", *SHAPES, "--output_model", "fixed.onnx").exit_code == 0
    assert_fails(poprt("-i", "fixed.onnx", "--input_shape", "input_ids=4,12"), "const_input_shape", "'input_ids'", "2")


def test_a_missing_input_model_is_one_line(poprt: Poprt) -> None:
    assert_fails(poprt("--precision", "fp16"), "--input_model")


def test_an_output_folder_that_cannot_be_made_is_found_before_any_work(poprt: Poprt, model_path: Path) -> None:
    Path("file").write_text("in the way")
    assert_fails(poprt("-i", model_path, "--output_dir", "file/below"), "output_dir", "file/below")
    assert_fails(poprt("-i", model_path, "--output_model", "no/such/folder.onnx"), "no/such/folder.onnx")


def test_a_failed_check_names_a_way_that_passes(poprt: Poprt) -> None:
    weight = (np.random.default_rng(0).normal(size=(64, 64)) * 400).astype(np.float32)
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[2, 64] x) => (float[2, 64] y)
        {
            phase = MatMul(x, weight)
            y = Sin(phase)
        }
    """)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "weight"))
    onnx.save(model, "phase.onnx")
    result = poprt("-i", "phase.onnx", "--precision", "fp16", "--check")
    assert_fails(result, "outputs ['y']", "nothing was written; with ", " it passes")
    way = re.search(r"with (--.*) it passes", result.stderr.replace("\n", " "))
    assert way is not None
    words = way[1].split()
    others = () if "--precision" in words else ("--precision", "fp16")
    assert poprt("-i", "phase.onnx", "--check", *words, *others).exit_code == 0


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_failed_check_writes_nothing_and_advises_nothing_where_nothing_helps(
    poprt: Poprt, model_path: Path, precision: str
) -> None:
    Path("spoil.py").write_text(
        "from onnx import numpy_helper\n"
        "from passes import Pass, register\n\n"
        "@register('spoil_of_this_test')\n"
        "class Spoil(Pass):\n"
        "    def run(self, model):\n"
        "        largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))\n"
        "        values = numpy_helper.to_array(largest)\n"
        "        largest.CopyFrom(numpy_helper.from_array(values[::-1].copy(), largest.name))\n"
        "        return model\n"
    )
    Path("bert.optimized.onnx").write_bytes(b"old")
    words = ("-i", model_path, "--custom_pass_config", "spoil.py", "--passes", "spoil_of_this_test", "--check")
    result = poprt(*words, "--precision", precision)
    assert_fails(result, "start_logits", "nothing was written")
    assert "it passes" not in result.stderr
    assert re.search(r"check +start_logits: FAIL", result.stdout)
    assert Path("bert.optimized.onnx").read_bytes() == b"old"

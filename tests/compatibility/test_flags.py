"""The flags of the command that programs for PopRT give."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models.bert import SIZES, BertConfig, build_bert
from poprt.runtime import PackRunner, PackRunnerConfig
from tests.numerics import one_by_one, random_samples
from tests.poprt_cli.command import SHAPES, Poprt, assert_fails


@pytest.fixture
def pooled(tmp_path: Path) -> onnx.ModelProto:
    model = build_bert(BertConfig(**SIZES["tiny"], head="sequence"))
    onnx.save(model, tmp_path / "pooled.onnx")
    return model


def test_the_advice_for_a_pooled_head_within_rows_works(poprt: Poprt, pooled: onnx.ModelProto) -> None:
    words = ["-i", "pooled.onnx", "--input_shape", *SHAPES, "--passes", "insert_attention_mask", "--export_popef"]
    refused = poprt(*words)
    assert_fails(refused, "it takes chosen places of a row", "--pack_args as well")
    result = poprt(*words, "--pack_args", "max_valid_num=4", "segment_max_size=12")
    assert result.exit_code == 0, result.output
    samples = random_samples([5, 3, 12, 1, 7])
    expected = one_by_one(pooled, samples)
    outputs = [{name: np.zeros_like(array) for name, array in answer.items()} for answer in expected]
    config = PackRunnerConfig(2000)
    config.enable_input_single_row_mode("attention_mask", "unpack_info")
    with PackRunner("executable.popef", config) as runner:
        for future in runner.submit(list(zip(samples, outputs, strict=True))):
            future.wait(20)
    for got, own in zip(outputs, expected, strict=True):
        for name, array in own.items():
            np.testing.assert_allclose(got[name], array, rtol=0, atol=1e-5)


#: Flags that do nothing here, each with words as a program gives them.
WITHOUT_EFFECT: list[list[Any]] = [
    ["--num_io_tiles", 32],
    ["--batches_per_step", 128],
    ["--available_memory_proportion", 0.4],
    ["--ipu_version", "ipu21"],
    ["--popart_options", "enableOutlining=True", "a.b=1"],
    ["--serialize_matmul", "MatMul_1=4/input_channels/True", "MatMul_3=4"],
    ["--serialize_matmul_add", "MatMul_1/Add_2=4"],
    ["--enable_insert_remap"],
    ["--remap_mode", "after_matmul,before_add"],
    ["--optimize_internal_exchange_code"],
    ["--custom_library_so_paths", "a.so", "b.so"],
    ["--custom_library_so_paths", "a.so,b.so"],
    ["--manual_sharding_config", "shard.yaml"],
    ["--only_manual_sharding"],
    ["--disable_fast_norm"],
    ["--perf_tuner"],
    ["--eightbitsio"],
    ["--fp8_params", "F143,F143,0,0"],
    ["--fp8_skip_op_names", "Conv_1,Conv_2"],
    ["--quantize"],
    ["--quantize_loss_type", "kld"],
    ["--calibration_with_data"],
    ["--calibration_loss_type", "gptq"],
    ["--data_preprocess", "data.pickle"],
    ["--precision_compare"],
    ["--num_of_layers_keep_fp16", 3],
]


@pytest.mark.parametrize("words", WITHOUT_EFFECT, ids=lambda words: "_".join(map(str, words)))
def test_a_flag_without_effect_is_accepted_and_announced(poprt: Poprt, words: list[Any]) -> None:
    result = poprt(*words, "--show", "-i", small())
    assert result.exit_code == 0, result.output
    assert len(re.findall(rf"WARNING poprt .*\] {words[0]} has no effect here: ", result.stderr)) == 1


def small() -> str:
    onnx.save(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Neg (x) }'
        ),
        "m.onnx",
    )
    return "m.onnx"


@pytest.mark.parametrize("words", [["--precision", "FP16"], ["--precision", "fp16", "--fp8_params", "F143,F143,0,0"]])
def test_half_precision_is_converted_however_it_is_spelled(poprt: Poprt, words: list[str]) -> None:
    assert poprt("-i", small(), *words).exit_code == 0
    assert onnx.load("m.optimized.onnx").graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16


@pytest.mark.parametrize("precision", ["fp8", "fp8_weight"])
def test_eight_bit_floats_are_refused_in_one_sentence(poprt: Poprt, precision: str) -> None:
    result = poprt("-i", small(), "--precision", precision, "--fp8_params", "F143,F143,0,0", "--calibration_with_data")
    assert_fails(result, "FP8 needs hardware that this engine does not have", "int8", "bf16")
    assert not Path("m.optimized.onnx").exists()


def test_compiler_options_are_words_and_python_values(poprt: Poprt, tmp_path: Path) -> None:
    options = [
        *("custom_patterns=ReplaceReluWithNeg", "serialize_ir=True", "serialized_ir_dest=ir"),
        "custom_transform_applier_settings={'Fwd0': ['IrSerialise']}",
    ]
    model = ["--input_model", small(), "--output_model", tmp_path / "models.onnx", "--output_dir", "out"]
    result = poprt(*model, "--export_popef", "--compiler_options", *options)
    assert result.exit_code == 0, result.output
    assert all(option.partition("=")[0] in result.stderr for option in options)
    assert (tmp_path / "models.onnx").exists()
    assert (tmp_path / "out" / "executable.popef").exists()


@pytest.mark.parametrize(
    ("words", "rewrite"),
    [
        (["--merge_moe"], "merge_moe"),
        (["--merge_moe", "MatMul_1,MatMul_2"], "merge_moe"),
        (["--merge_if_with_same_cond"], "merge_if_with_same_cond"),
        (["--enable_compress_pattern"], "compress_pattern"),
        (["--fold_periodic_initializer"], "fold_periodic_initializer"),
        (["--passes", "auto_insert_remap"], "auto_insert_remap"),
    ],
    ids=lambda words: "_".join(words) if isinstance(words, list) else None,
)
def test_a_flag_that_asks_for_a_pass_without_effect_is_announced(poprt: Poprt, words: list[str], rewrite: str) -> None:
    result = poprt(*words, "-i", small())
    assert result.exit_code == 0, result.output
    assert result.stderr.count(f"pass {rewrite} has no effect here: ") == 1


@pytest.mark.parametrize("words", [["--merge_matmul"], ["--merge_matmul", "all"]], ids=len)
def test_products_are_merged_with_and_without_a_word(poprt: Poprt, words: list[str]) -> None:
    result = poprt(*words, "-i", small())
    assert result.exit_code == 0, result.output
    assert "merge_matmul" in result.stdout


def test_the_bytes_of_inputs_and_outputs_are_shown_and_the_model_is_written(poprt: Poprt) -> None:
    result = poprt("--show_io_stat", "--precision", "FP16", "-i", small(), "--output_model", "half.onnx")
    assert result.exit_code == 0, result.output
    (value,) = onnx.load("half.onnx").graph.input
    extents = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    assert f"input {value.name} float16 {extents} {2 * int(np.prod(extents))} bytes" in result.stdout

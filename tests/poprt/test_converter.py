"""The Converter: what it makes of its keywords, and what it says where it cannot."""

from __future__ import annotations

import inspect
import json
import logging

import numpy as np
import onnx
import pytest

from models.bert import SIZES, BertConfig, build_bert
from passes import Pass, get_registered_passes
from passes.announced import ANNOUNCED
from passes.errors import RewriteError, UnknownPassError
from poprt.convert_options import OPTIONS
from poprt.converter import Converter
from tests.numerics import padded, random_samples, run

SHAPES = {name: [2, 12] for name in ("input_ids", "attention_mask", "token_type_ids")}
PACKED = {"pack_args": {"max_valid_num": "6", "segment_max_size": "12"}, "input_shape": SHAPES}


@pytest.fixture(scope="module")
def bert() -> onnx.ModelProto:
    return build_bert(BertConfig(**SIZES["tiny"], head="qa"))


def shapes(values: list[onnx.ValueInfoProto]) -> dict[str, list[int]]:
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}


def test_every_documented_keyword_is_by_name_and_has_a_default() -> None:
    defaults = {
        "input_shape": None,
        "convert_version": None,
        "precision": "fp32",
        "checkpoints": None,
        "fp16_skip_op_types": None,
        "skip_passes": None,
        "used_passes": None,
        "check": False,
        "disable_fast_norm": False,
        "pack_args": None,
        "fp8_skip_op_names": None,
        "fp8_params": None,
        "quantize": False,
        "eightbitsio": False,
        "enable_insert_remap": False,
        "enable_erf_gelu": False,
        "serialize_matmul": None,
        "serialize_matmul_add": None,
        "merge_matmul": None,
        "merge_matmul_add": None,
        "merge_moe": None,
        "remap_mode": None,
        "max_tensor_size": -1,
        "infer_shape_ahead": False,
        "enable_avoid_overflow_patterns": False,
        "disable_progress_bar": False,
        "batch_size": None,
        "batch_axis": None,
        "remove_outputs": None,
        "fold_periodic_initializer": False,
        "enable_compress_pattern": False,
        "merge_if_with_same_cond": False,
        "apply_hcsr": None,
        "requantize": False,
        "pack_shared_scales": False,
        "skip_isolation_check": False,
        "skip_check_load": False,
        "custom_ops": None,
        "dump_passes": None,
        "logger": None,
    }
    parameters = inspect.signature(Converter).parameters
    assert list(parameters) == list(defaults)
    assert {name: item.default for name, item in parameters.items()} == defaults
    assert all(item.kind is item.KEYWORD_ONLY for item in parameters.values())


def test_none_and_empty_strings_mean_the_default(bert: onnx.ModelProto) -> None:
    parameters = inspect.signature(Converter).parameters
    assert Converter(**dict.fromkeys(parameters, None)).options == Converter().options
    assert Converter(checkpoints="", skip_passes="", fp8_params="", remap_mode="").options == Converter().options


def test_a_default_conversion_keeps_the_numbers_and_makes_int64_inputs_int32(bert: onnx.ModelProto) -> None:
    converter = Converter(check=True)
    converted = converter.convert(bert)
    onnx.checker.check_model(converted, full_check=True)
    assert {value.type.tensor_type.elem_type for value in converted.graph.input} == {onnx.TensorProto.INT32}
    assert converter.verification is not None
    assert converter.verification.passed
    assert [output.name for output in converter.verification.outputs] == ["start_logits", "end_logits"]
    feeds = padded(random_samples([5, 9]))
    narrow = {name: array.astype(np.int32) for name, array in feeds.items()}
    for name, expected in run(bert, feeds).items():
        np.testing.assert_allclose(run(converted, narrow)[name], expected, rtol=0, atol=1e-5)


def test_the_given_model_stays_as_it_is_and_the_same_input_gives_the_same_bytes(bert: onnx.ModelProto) -> None:
    before = bert.SerializeToString(deterministic=True)
    first, second = Converter(**PACKED).convert(bert), Converter(**PACKED).convert(bert)
    assert bert.SerializeToString(deterministic=True) == before
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_shapes_are_fixed_and_an_unknown_input_is_a_warning_that_lists_the_inputs(
    bert: onnx.ModelProto, caplog: pytest.LogCaptureFixture
) -> None:
    converted = Converter(input_shape={**SHAPES, "input_idz": [2, 12]}).convert(bert)
    assert shapes(list(converted.graph.input)) == SHAPES
    warning = next(record.message for record in caplog.records if "input_idz" in record.message)
    assert "attention_mask" in warning


def test_the_batch_size_is_set_on_its_axis(bert: onnx.ModelProto) -> None:
    converted = Converter(batch_size=3, batch_axis=0).convert(bert)
    assert {shape[0] for shape in shapes(list(converted.graph.input)).values()} == {3}


def test_fp16_makes_outputs_float16_and_passes_its_own_tolerance(bert: onnx.ModelProto) -> None:
    converter = Converter(precision="fp16", check=True)
    converted = converter.convert(bert)
    assert {value.type.tensor_type.elem_type for value in converted.graph.output} == {onnx.TensorProto.FLOAT16}
    assert converter.verification is not None
    assert converter.verification.passed
    assert all(output.max_abs_diff > 0 for output in converter.verification.outputs)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_packed_model_gives_each_sample_its_unpadded_result(bert: onnx.ModelProto, precision: str) -> None:
    converter = Converter(**PACKED, precision=precision, check=True)
    converted = converter.convert(bert)
    assert shapes(list(converted.graph.input))["unpack_info"] == [6, 1]
    assert converter.verification is not None
    assert converter.verification.passed
    assert converter.verification.runs > 1


def test_the_model_says_what_made_it(bert: onnx.ModelProto) -> None:
    converter = Converter(input_shape=SHAPES, skip_passes="eliminate_identity", logger=logging.getLogger("elsewhere"))
    properties = {prop.key: prop.value for prop in converter.convert(bert).metadata_props}
    names = json.loads(properties["poprt.passes"])
    assert names == [record.name for record in converter.records]
    assert "eliminate_identity" not in names
    assert json.loads(properties["poprt.options"]) == {"input_shape": SHAPES, "skip_passes": "eliminate_identity"}
    assert properties["poprt.version"]


def test_the_users_passes_run_in_order_between_the_default_and_the_closing_ones(bert: onnx.ModelProto) -> None:
    seen = []

    class Mine(Pass):
        def __call__(self, model: onnx.ModelProto) -> onnx.ModelProto:
            seen.append(len(model.graph.node))
            return model

    converter = Converter(used_passes=["sort_graph", Mine()])
    converter.convert(bert)
    names = [record.name for record in converter.records]
    assert names[-7:-4] == ["sort_graph", "Mine", "attach_bodies"]
    assert names[-4:] == ["eliminate_deadend", "eliminate_unused_initializer", "sort_graph", "unique_name_for_nodes"]
    assert len(seen) == 1


def test_packing_comes_before_the_shapes_are_fixed_and_nothing_bakes_them_in(bert: onnx.ModelProto) -> None:
    converter = Converter(**PACKED)
    converter.convert(bert)
    names = [record.name for record in converter.records]
    assert names.index("packed_transformer") < names.index("const_input_shape")
    assert "trace_folding" not in names


def test_outputs_come_and_go(bert: onnx.ModelProto) -> None:
    tensor = next(node.output[0] for node in bert.graph.node if node.op_type == "Softmax")
    converted = Converter(checkpoints=tensor, remove_outputs=["end_logits"], check=True).convert(bert)
    assert [value.name for value in converted.graph.output] == ["start_logits", tensor]


def test_shapes_may_be_inferred_first(bert: onnx.ModelProto) -> None:
    converter = Converter(infer_shape_ahead=True, input_shape=SHAPES, check=True)
    converter.convert(bert)
    names = [record.name for record in converter.records]
    assert names.index("const_input_shape") < names.index("constant_folding")
    assert converter.verification is not None
    assert converter.verification.passed


def test_an_older_model_is_raised_and_a_newer_one_is_not_lowered(bert: onnx.ModelProto) -> None:
    opset = {entry.domain: entry.version for entry in bert.opset_import}[""]
    raised = Converter(convert_version=opset + 1).convert(bert)
    assert {entry.domain: entry.version for entry in raised.opset_import}[""] == opset + 1
    kept = Converter(convert_version=11).convert(bert)
    assert {entry.domain: entry.version for entry in kept.opset_import}[""] == opset


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"precision": "fp8"}, "FP8 needs hardware that this engine does not have; int8 or bf16 is the thing to use"),
        ({"precision": "FP8_weight", "fp8_params": "F143,F143,0,0"}, "FP8 needs hardware"),
        ({"precision": "half"}, "fp32, fp16, bf16 or int8"),
        ({"fp8_params": 3}, "fp8_params must be names"),
        ({"remap_mode": {"after": "matmul"}}, "remap_mode must be names"),
        ({"batch_size": "4"}, "batch_size must be a whole number"),
        ({"check": "yes"}, "check must be True or False"),
        ({"input_shape": {"input_ids": [0, 4]}}, "positive whole numbers"),
        ({"input_shape": {"input_ids": 4}}, "positive whole numbers"),
        ({"pack_args": "max_valid_num=3"}, "a dict"),
        ({"max_tensor_size": -2}, "at least -1"),
        ({"used_passes": [3]}, "pass names or passes"),
        ({"infer_shape_ahead": True, "pack_args": {"max_valid_num": 2}}, "leave out one of the two"),
        ({"serialize_matmul": 3}, "a dict with string keys"),
    ],
)
def test_wrong_values_are_errors_that_name_the_keyword(keywords: dict[str, object], message: str) -> None:
    with pytest.raises(RewriteError, match=message):
        Converter(**keywords)


def test_every_rewrite_that_a_keyword_asks_for_is_a_pass_or_announced() -> None:
    rewrites = {option.rewrite for option in OPTIONS.values() if option.rewrite}
    assert rewrites <= {*get_registered_passes(), *ANNOUNCED}


def test_what_steers_only_the_ipu_is_announced_once(bert: onnx.ModelProto, caplog: pytest.LogCaptureFixture) -> None:
    Converter(enable_insert_remap=True, remap_mode="after_matmul", used_passes=["overlap_io"]).convert(bert)
    messages = [record.message for record in caplog.records if "no effect" in record.message]
    assert [message.split()[0] for message in messages] == ["enable_insert_remap", "remap_mode", "pass"]


@pytest.mark.parametrize("keyword", ["skip_passes", "used_passes"])
def test_an_unknown_pass_is_an_error_that_offers_the_nearest(bert: onnx.ModelProto, keyword: str) -> None:
    with pytest.raises(UnknownPassError, match=r"did you mean 'constant_folding'"):
        Converter(**{keyword: ["constant_foldin"]}).convert(bert)


def test_a_shape_that_contradicts_the_model_names_the_pass_and_the_input(bert: onnx.ModelProto) -> None:
    fixed = Converter(input_shape=SHAPES).convert(bert)
    with pytest.raises(RewriteError, match=r"const_input_shape.*input_ids"):
        Converter(input_shape={"input_ids": [4, 12]}).convert(fixed)

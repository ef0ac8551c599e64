"""Models that are quantised as they run, from the converter to the runner: what their company does to an answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models.bert import SIZES, BertConfig, build_bert
from passes.errors import RewriteError
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.executable import Executable
from poprt.runtime import PackRunnerConfig, Runner, RuntimeConfig
from tests.dynamic_int8 import fused_encoder, optimised, quantised_as_it_runs
from tests.isolation.experiment import COLUMNS, MOST, PACKS, ROWS, Packs
from tests.numerics import padded, random_samples, run, run_exactly
from tests.passes.rewrites import parse

CONFIG, TOKENS = (BertConfig(**SIZES["tiny"], head=head) for head in ("mean", "token"))
SHAPES = {name: [ROWS, COLUMNS] for name in ("input_ids", "attention_mask", "token_type_ids")}
PACKING: dict[str, dict[str, Any]] = {
    "across_rows": {"pack_args": {"max_valid_num": MOST, "segment_max_size": COLUMNS}},
    "within_rows": {"used_passes": ["insert_attention_mask"]},
}
PACKING["within_rows+unpack"] = PACKING["across_rows"] | PACKING["within_rows"]


def uneven(config: BertConfig) -> onnx.ModelProto:
    """An encoder whose activations differ in size from token to token."""
    model = build_bert(config)
    for tensor in model.graph.initializer:
        if tensor.name == "embeddings.LayerNorm.weight":
            scale = onnx.numpy_helper.to_array(tensor) * np.linspace(0.1, 4, tensor.dims[0], dtype=np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(scale, tensor.name))
    return model


@pytest.fixture(scope="module")
def encoder() -> onnx.ModelProto:
    """A sentence encoder in float32."""
    return uneven(CONFIG)


@pytest.fixture(scope="module")
def dynamic(encoder: onnx.ModelProto) -> onnx.ModelProto:
    return quantised_as_it_runs(encoder)


def fused(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    return quantised_as_it_runs(fused_encoder(model, CONFIG.heads, CONFIG.hidden), **options)


#: A model, how it is quantised, a layout, and how many products there are then.
CASES: dict[str, tuple[BertConfig, Callable[[onnx.ModelProto], onnx.ModelProto], str, int]] = {
    "a scale a column": (CONFIG, lambda model: quantised_as_it_runs(model, per_channel=True), "across_rows", 12),
    "within rows": (TOKENS, quantised_as_it_runs, "within_rows", 13),
    "fused attention": (CONFIG, fused, "across_rows", 8),
    "fused products": (CONFIG, lambda model: optimised(fused(model, per_channel=True)), "within_rows+unpack", 8),
}


def convert(model: onnx.ModelProto, layout: str = "", **options: Any) -> tuple[onnx.ModelProto, Converter]:
    packing = PACKING[layout] | {"input_shape": SHAPES} if layout else {}
    converter = Converter(check=True, disable_progress_bar=True, **packing, **options)
    converted = converter.convert(model)
    assert converter.verification is not None
    assert converter.verification.passed
    return converted, converter


def furthest(converted: onnx.ModelProto, layout: str) -> float:
    """How far the packs of the isolation tests move an answer of the model, relative to its size."""
    packs = Packs(converted, layout)
    answers = {pack: packs.run(pack) for pack in PACKS if layout == "across_rows" or "holes" not in pack}
    moved = [0.0]
    for by_sample in answers.values():
        for name, answer in by_sample.items():
            for key, got in answer.items():
                alone = answers[name,][name][key]
                moved.append(float(np.abs(got - alone).max() / np.abs(alone).max()))
    return max(moved)


@pytest.mark.parametrize("case", list(CASES))
def test_an_answer_depends_on_no_company_once_requantised(case: str) -> None:
    config, quantise, layout, products = CASES[case]
    converted, converter = convert(quantise(uneven(config)), layout, requantize=True)
    assert converter.isolation is not None
    assert (converter.isolation.neighbours, converter.isolation.fell_back) == ("any", False)
    assert converter.shared_scales == ()
    counts = {name: number for record in converter.records for name, number in record.result.counts.items()}
    assert counts["products with a scale a token"] == products
    engine_ops = [node.op_type for node in onnx.load_from_string(Compiler.compile(converted).graph).graph.node]
    assert engine_ops.count("MatMulIntegerToFloat") + engine_ops.count("MatMulInteger") == products
    assert furthest(converted, layout) < 1e-5


@pytest.mark.parametrize("layout", ["across_rows", "within_rows", "within_rows+unpack"])
def test_a_dynamically_quantised_model_is_packed_as_it_is_only_where_that_is_asked_for(layout: str) -> None:
    model = quantised_as_it_runs(uneven(TOKENS))
    with pytest.raises(RewriteError, match=r"--requantize .*--pack_shared_scales"):
        convert(model, layout)
    converted, converter = convert(model, layout, pack_shared_scales=True)
    assert converter.isolation is not None
    assert "share scales" in converter.isolation.not_tried
    assert len(converter.shared_scales) == 9
    assert Compiler.compile(converted).manifest.shared_scales == converter.shared_scales


def test_shared_scales_move_an_answer_with_its_company(dynamic: onnx.ModelProto) -> None:
    converted, _ = convert(dynamic, "across_rows", pack_shared_scales=True)
    assert furthest(converted, "across_rows") > 1e-4


def test_in_a_batch_too_an_answer_depends_on_no_company_once_requantised(dynamic: onnx.ModelProto) -> None:
    converted, _ = convert(dynamic, requantize=True)
    samples = random_samples([9, 9, 9, 9])

    def moved(model: onnx.ModelProto, kind: type[np.generic]) -> float:
        feeds = {name: array.astype(kind) for name, array in padded(samples).items()}
        together = run_exactly(model, feeds)["embedding"][0]
        alone = run_exactly(model, {name: array[:1] for name, array in feeds.items()})["embedding"][0]
        return float(np.abs(together - alone).max() / np.abs(alone).max())

    assert moved(dynamic, np.int64) > 1e-4
    assert moved(converted, np.int32) < 1e-6


def test_the_integer_weights_are_kept_and_the_numbers_are_nearer_to_the_float_model(
    encoder: onnx.ModelProto,
) -> None:
    dynamic = quantised_as_it_runs(encoder, per_channel=True)
    converted, _ = convert(dynamic, requantize=True)
    kept = {tensor.raw_data for tensor in converted.graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    weights = {
        tensor.raw_data for tensor in dynamic.graph.initializer if len(tensor.dims) == 2 and tensor.data_type == 3
    }
    assert len(weights) == 12
    assert weights <= kept
    feeds = padded(random_samples([12, 7, 3]))
    expected, before = run(encoder, feeds)["embedding"], run(dynamic, feeds)["embedding"]
    after = run_exactly(converted, {name: array.astype(np.int32) for name, array in feeds.items()})["embedding"]
    assert np.linalg.norm(after - expected) < np.linalg.norm(before - expected)


def test_fused_embeddings_look_up_integer_rows(encoder: onnx.ModelProto) -> None:
    every = ["MatMul", "Attention", "EmbedLayerNormalization"]
    quantised = fused(encoder, op_types_to_quantize=every)
    assert "QEmbedLayerNormalization" in {node.op_type for node in quantised.graph.node}
    converted, _ = convert(quantised, requantize=True)
    nodes = converted.graph.node
    assert "QEmbedLayerNormalization" not in {node.op_type for node in nodes}
    assert len({node.name for node in nodes}) == len(nodes)
    tables = {tensor.name for tensor in converted.graph.initializer if len(tensor.dims) == 2}
    assert not [node.name for node in nodes if node.op_type == "DequantizeLinear" and node.input[0] in tables]
    feeds = padded(random_samples([12, 7, 3]))
    narrow = {name: array.astype(np.int32) for name, array in feeds.items()}
    expected = run(quantised, feeds)["embedding"]
    assert np.abs(run_exactly(converted, narrow)["embedding"] - expected).max() < 0.02 * np.abs(expected).max()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_conversion_warns_of_shared_scales_once_and_the_executable_and_its_runners_say_so(
    dynamic: onnx.ModelProto, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    converter = Converter(input_shape=SHAPES)
    converted = converter.convert(dynamic)
    (warning,) = [text for text in warnings(caplog) if "moves with its company" in text]
    assert warning.startswith("8 nodes")
    assert "DynamicQuantizeLinear 'Add_17_out0_QuantizeLinear'" in warning
    assert "--requantize" in warning
    path = tmp_path / "executable.popef"
    Compiler.compile(converted).save(path)
    assert Executable(path).manifest.shared_scales == converter.shared_scales
    caplog.clear()
    with Runner(path, RuntimeConfig()):
        assert not warnings(caplog)
    with Runner(path, RuntimeConfig(batching_dim=0)):
        assert "8 nodes (DynamicQuantizeLinear" in warnings(caplog)[0]


def test_a_pack_runner_says_so_too_and_a_requantised_model_warns_of_nothing(
    dynamic: onnx.ModelProto, caplog: pytest.LogCaptureFixture
) -> None:
    for option, expected in (("pack_shared_scales", 2), ("requantize", 0)):
        caplog.clear()
        converter = Converter(**PACKING["across_rows"], input_shape=SHAPES, **{option: True})
        with Runner(Compiler.compile(converter.convert(dynamic)), PackRunnerConfig()):
            said = [text for text in warnings(caplog) if "8 nodes" in text]
        assert len(said) == expected


def test_a_model_of_one_sample_is_not_warned_of(dynamic: onnx.ModelProto, caplog: pytest.LogCaptureFixture) -> None:
    converter = Converter(input_shape={name: [1, COLUMNS] for name in SHAPES})
    assert Compiler.compile(converter.convert(dynamic)).manifest.shared_scales == ()
    assert not [text for text in warnings(caplog) if "company" in text]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_requantize_goes_with_every_precision(encoder: onnx.ModelProto, precision: str) -> None:
    half_done = quantised_as_it_runs(encoder, nodes_to_exclude=["MatMul_23"])
    converted, converter = convert(half_done, requantize=True, precision=precision)
    counts = {name: number for record in converter.records for name, number in record.result.counts.items()}
    assert counts["products with a scale a token"] == 11
    integers = sum(node.op_type == "MatMulInteger" for node in converted.graph.node)
    assert integers == 11 + (precision == "int8")


@pytest.mark.parametrize("opset", [11, 17])
def test_the_check_is_against_what_the_integers_stand_for(opset: int) -> None:
    """One loud token takes all the steps of a scale a tensor: the original's own answer is no measure then."""
    text = """g (float[a,b,96] x) => (float[a,b,80] y) { q, s, p = DynamicQuantizeLinear (x)
        i = MatMulInteger (q, w, p)  c = Cast <to = 1> (i)  f = Mul (s, ws)  y = Mul (c, f) }"""
    rng = np.random.default_rng(0)
    model = parse(text.replace("(x)", "(l)").replace("{", "{ l = Mul (x, loud) ", 1), opset=opset)
    arrays = {"w": rng.integers(-63, 64, (96, 80)).astype(np.int8), "ws": np.float32(0.01)}
    loud = np.where(np.arange(8) == 0, 1e4, 1).astype(np.float32).reshape(1, 8, 1)
    for name, array in (arrays | {"loud": loud}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    model.graph.node.append(onnx.helper.make_node("Slice", ["y", "one", "eight", "one"], ["quiet"]))
    for name, number in (("one", 1), ("eight", 8)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([number]), name))
    model.graph.output[0].name = "quiet"
    _, converter = convert(model, requantize=True, input_shape={"x": [2, 8, 96]})
    assert converter.verification is not None
    (output,) = converter.verification.outputs
    assert 0 < output.max_abs_diff < 0.1 * output.tolerance
    x = rng.standard_normal((2, 8, 96)).astype(np.float32)
    true = (x * loud)[:, 1:] @ (arrays["w"] * arrays["ws"])
    assert np.abs(run(model, {"x": x})["quiet"] - true).max() > 0.5 * np.abs(true).max()


def test_one_cannot_ask_for_both() -> None:
    with pytest.raises(RewriteError, match="leave out pack_shared_scales"):
        Converter(requantize=True, pack_shared_scales=True)


def test_sharing_scales_without_packing_is_said_to_have_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "poprt"):
        Converter(pack_shared_scales=True)
    assert "pack_shared_scales has no effect here: nothing is packed" in caplog.text

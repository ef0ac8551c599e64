"""QDQ encoders: they pack in both layouts as others do, and what is served is what the graph says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from poprt import runtime
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.engine.session import EngineSession
from poprt.verify import verify
from tests.numerics import Arrays, one_by_one, random_samples, run
from tests.quantised import qdq, tiny_bert, weight_only

NAMES = ("input_ids", "attention_mask", "token_type_ids")
ROWS = {"input_shape": {name: [4, 32] for name in NAMES}, "pack_args": {"max_valid_num": 16, "segment_max_size": 32}}
LENGTHS = (5, 31, 12, 3, 20, 8)
PRODUCTS = ["MatMul"]
#: What was quantised -> how.
KINDS: dict[str, dict[str, Any]] = {
    "products": {"ops": PRODUCTS},
    "products, a scale for each column": {"ops": PRODUCTS, "activations": "QUInt8", "per_channel": True},
    "everything": {},
}
LAYOUTS: dict[str, dict[str, Any]] = {"across rows": {}, "within rows": {"used_passes": ["insert_attention_mask"]}}
_MODELS: dict[str, onnx.ModelProto] = {}


def quantised(kind: str) -> onnx.ModelProto:
    if kind not in _MODELS:
        _MODELS[kind] = qdq(tiny_bert(), **KINDS[kind])
    return _MODELS[kind]


def served(converted: onnx.ModelProto, samples: list[Arrays]) -> list[np.ndarray]:
    with runtime.Runner(Compiler.compile(converted), runtime.PackRunnerConfig(timeout_microseconds=5000)) as runner:
        outputs = [{"embedding": np.zeros(64, np.float32)} for _ in samples]
        for future in [runner.execute_async(inputs, out) for inputs, out in zip(samples, outputs, strict=True)]:
            future.wait()
    return [output["embedding"] for output in outputs]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_encoder_packs_with_any_neighbours_and_serves_its_own_numbers(kind: str, layout: str) -> None:
    model, samples = quantised(kind), random_samples(LENGTHS)
    converter = Converter(**ROWS, **LAYOUTS[layout])
    converted = converter.convert(model)
    assert converter.isolation is not None
    assert converter.isolation.neighbours == "any"
    assert all(finding.passed for finding in converter.isolation.findings)
    expected = [outputs["embedding"] for outputs in one_by_one(model, samples)]
    for got, want in zip(served(converted, samples), expected, strict=True):
        assert got @ want > 0.9999  # of unit length
        np.testing.assert_allclose(got, want, atol=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_levels_cross_between_the_sides_and_not_the_floats_beside_a_product(kind: str) -> None:
    converted = Converter(**ROWS, skip_isolation_check=True).convert(quantised(kind))
    graph = converted.graph
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert len(products) == 8
    for node in products:
        assert [makers[name].op_type for name in node.input] == ["DequantizeLinear"] * 2, node.name
        assert readers[node.output[0]] == ["QuantizeLinear"], node.name


def test_int8_weights_stay_int8_in_the_converted_model() -> None:
    model = weight_only(tiny_bert())
    for options in ({}, {"pack_args": ROWS["pack_args"]}, {"infer_shape_ahead": True}):
        converted = Converter(input_shape=ROWS["input_shape"], **options).convert(model)
        assert converted.ByteSize() < 1.5 * model.ByteSize()
        kept = [tensor for tensor in converted.graph.initializer if tensor.data_type == TensorProto.INT8]
        assert sum(len(numpy_helper.to_array(tensor).ravel()) for tensor in kept) > 100_000


def test_int8_weights_alone_are_served_in_float() -> None:
    model, samples = weight_only(tiny_bert()), random_samples(LENGTHS)
    expected = [outputs["embedding"] for outputs in one_by_one(model, samples)]
    for got, want in zip(served(Converter(**ROWS).convert(model), samples), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def product_of_four_bits() -> onnx.ModelProto:
    """[n, 64] by a matrix [64, 32] in blocks of 32 weights of 4 bits: the engine makes one MatMulNBits of it."""
    rng = np.random.default_rng(0)
    levels = rng.integers(-8, 8, (64, 32)).astype(np.int8)
    weight = helper.make_tensor("w", TensorProto.INT4, [64, 32], levels.ravel().tolist())
    scale = numpy_helper.from_array(rng.uniform(0.01, 0.02, (2, 32)).astype(np.float32), "s")
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 64), ("y", 32))
    )
    graph = helper.make_graph(nodes, "g", [x], [y], [weight, scale])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_the_engine_rounds_no_activations_beside_weights_of_four_bits() -> None:
    model = product_of_four_bits()
    x = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    want = run(model, {"x": x})["y"]
    (got,) = EngineSession(Compiler.compile(model)).run({"x": x})
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_a_cpu_without_dot_products_gets_the_weights_of_qdq_models_unsigned(
    monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    monkeypatch.setattr("poprt.compiler.lowering.lacks_int8_dot_products", lambda: True)
    model = quantised("products, a scale for each column")
    executable = Compiler.compile(Converter().convert(model) if shared else model)  # the passes merge equal zero points
    types = {spec.dtype for spec in executable.manifest.weights}
    assert "uint8" in types
    assert "int8" not in types
    sample = {name: array[None] for name, array in random_samples([9])[0].items()}
    (got,) = EngineSession(executable).run(sample)
    np.testing.assert_allclose(got, run(model, sample)["embedding"], atol=1e-4)


def test_the_check_is_of_what_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_bert()
    converted = Converter(**ROWS).convert(model)
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(converted)
    bias = next(tensor for tensor in spoilt.graph.initializer if list(tensor.dims) == [64])
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.1), bias.name))
    assert verify(model, converted).passed
    check = verify(model, converted, executable=Compiler.compile(spoilt)).outputs[0]
    assert not check.passed
    assert check.served_abs_diff == check.max_abs_diff > check.tolerance


def test_what_the_engines_optimiser_does_to_the_original_is_told_and_allowed_for() -> None:
    model = weight_only(tiny_bert())  # its products become such as round the other operand
    check = verify(model, Converter(**ROWS).convert(model)).outputs[0]
    assert check.passed
    assert check.served_abs_diff is not None
    assert check.served_abs_diff < 1e-6
    assert check.tolerance == pytest.approx(1e-5 + check.optimiser_abs_diff)

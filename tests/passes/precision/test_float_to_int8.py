"""Products and tables in int8: what is written, and what stays float and why."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from passes.precision.float_to_int8 import FloatToInt8
from passes.precision.int8_values import best_zero_point
from tests.numerics import run, run_exactly
from tests.passes.precision.int8_models import RNG, apply, one_product, reasons, relative, types, weight, with_weights
from tests.passes.rewrites import copy_of, ops, parse, rewritten
from tests.versions import no_rows


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_a_product_becomes_an_integer_product_with_int8_weights_alone(opset: int) -> None:
    model = one_product(opset=opset)
    converted = rewritten(FloatToInt8(), model)
    assert ops(converted).count("MatMulInteger") == 1
    assert "MatMul" not in ops(converted)
    assert types(converted)["w_int8"] == TensorProto.INT8
    assert "w" not in types(converted)
    x = RNG.standard_normal((2, 5, 96)).astype(np.float32)
    assert 0 < relative(run(model, {"x": x})["y"], run_exactly(converted, {"x": x})["y"]) < 0.015


def test_a_token_does_not_depend_on_its_neighbours() -> None:
    converted, _ = apply(one_product())
    x = RNG.standard_normal((1, 6, 96)).astype(np.float32)
    loud = x.copy()
    loud[0, 1:] *= 1000
    np.testing.assert_array_equal(
        run_exactly(converted, {"x": x})["y"][0, 0], run_exactly(converted, {"x": loud})["y"][0, 0]
    )
    np.testing.assert_array_equal(
        run_exactly(converted, {"x": x})["y"][0, 0], run_exactly(converted, {"x": x[:, :1]})["y"][0, 0]
    )


def test_rows_of_zeros_give_zeros() -> None:
    converted, _ = apply(one_product())
    np.testing.assert_array_equal(run_exactly(converted, {"x": np.zeros((1, 3, 96), np.float32)})["y"], 0)


def test_columns_and_rows_of_very_different_size_keep_their_own_precision() -> None:
    model = one_product()
    wide = weight(96, 80) * np.logspace(-4, 4, 80, dtype=np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(wide, "w"))
    converted, _ = apply(model)
    x = RNG.standard_normal((1, 8, 96)).astype(np.float32) * np.logspace(-5, 5, 8, dtype=np.float32)[:, None]
    expected, got = run(model, {"x": x})["y"], run_exactly(converted, {"x": x})["y"]
    scale = np.linalg.norm(x, axis=-1)[..., None] * np.linalg.norm(wide, axis=0)
    assert np.max(np.abs(expected - got) / scale) < 0.01


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [", b", ""])
def test_a_gemm_becomes_an_integer_product_and_an_addition(transposed: int, bias: str) -> None:
    text = f"g (float[n,96] x) => (float[n,80] y) {{ y = Gemm <transB = {transposed}> (x, w{bias}) }}"
    w = weight(96, 80)
    weights = {"w": np.ascontiguousarray(w.T) if transposed else w, "b": weight(1, 80)[0] * 100}
    model = with_weights(text, weights if bias else {"w": weights["w"]})
    converted = rewritten(FloatToInt8(), model)
    assert ops(converted).count("Add") == bool(bias)
    x = RNG.standard_normal((7, 96)).astype(np.float32)
    assert relative(run(model, {"x": x})["y"], run_exactly(converted, {"x": x})["y"]) < 0.015


def test_products_of_one_activation_share_its_quantisation_and_a_shared_weight_is_stored_once() -> None:
    text = "g (float[n,96] x) => (float[n,80] p, float[n,80] q) { p = MatMul (x, w)  q0 = MatMul (x, w)  q = Neg (q0) }"
    converted, result = apply(with_weights(text, {"w": weight(96, 80)}))
    assert ops(converted).count("QuantizeLinear") == 1
    assert ops(converted).count("MatMulInteger") == 2
    assert list(types(converted).values()).count(TensorProto.INT8) == 1
    assert result.counts["products in int8"] == 2


def test_a_large_table_is_looked_up_in_int8_rows() -> None:
    text = "g (int64[n] ids) => (float[n,128] y) { y = Gather (t, ids) }"
    table = weight(1000, 128) * np.logspace(-3, 3, 1000, dtype=np.float32)[:, None]
    model = with_weights(text, {"t": table})
    converted = rewritten(FloatToInt8(), model)
    assert types(converted) == {"t_int8": TensorProto.INT8, "t_scale": TensorProto.FLOAT}
    got = run_exactly(converted, {"ids": np.array([0, 500, 999])})["y"]
    for row, expected in zip(got, table[[0, 500, 999]], strict=True):
        assert relative(expected, row) < 0.015


def test_a_table_that_other_nodes_read_or_that_is_small_stays_float() -> None:
    text = "g (int64[n] ids) => (float[n,128] y, float[1000,128] z) { y = Gather (t, ids)  z = Neg (t) }"
    assert not apply(with_weights(text, {"t": weight(1000, 128)}))[1].modified
    small = "g (int64[n] ids) => (float[n,128] y) { y = Gather (t, ids) }"
    assert not apply(with_weights(small, {"t": weight(16, 128)}))[1].modified


@pytest.mark.parametrize(
    ("text", "shape", "reason"),
    [
        ("g (float[n,96] x) => (float[n,2] y) { y = MatMul (x, w) }", (96, 2), "2 columns"),
        ("g (float[4,96,8] x) => (float[4,80,8] y) { y = MatMul (w, x) }", (80, 96), "on the left"),
        ("g (float[4,n,96] x) => (float[4,n,80] y) { y = MatMul (x, w) }", (4, 96, 80), "3 axes"),
        ("g (float[n,96] x) => (float[n,80] y) { y = Gemm <alpha = 0.5> (x, w) }", (96, 80), "alpha"),
        (
            "g (float[n,m,96] x) => (float[n,m,96] y) { y = com.microsoft.Attention <num_heads = 4> (x, w, ) }",
            (96, 288),
            "inside the fused operator",
        ),
    ],
)
def test_a_product_that_stays_float_has_a_reason(text: str, shape: tuple[int, ...], reason: str) -> None:
    model = with_weights(text, {"w": RNG.standard_normal(shape).astype(np.float32)})
    converted, result = apply(model)
    assert reason in reasons(result)
    assert ops(converted) == ops(model)


def as_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float16 in place of float32 everywhere."""
    half = copy_of(model)
    for value in [*half.graph.input, *half.graph.output]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for tensor in half.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    return half


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize(
    "product", ["y = MatMul (x, w)", "y = Gemm (x, w)", "y = Gemm (x, w, b)", "p = MatMul (x, w)  y = Add (p, b)"]
)
def test_float16_weights_are_quantised_as_float32_ones_are(product: str, opset: int) -> None:
    text = f"g (float[n,96] x) => (float[n,80] y) {{ {product} }}"
    model = with_weights(text, {"w": weight(96, 80), "b": weight(1, 80)[0]}, opset=opset)
    half = as_half(model)
    x = RNG.standard_normal((7, 96)).astype(np.float32)
    converted = rewritten(FloatToInt8(data=lambda _: {"x": x.astype(np.float16)}), half)
    assert ops(converted).count("MatMulInteger") == 1
    assert types(converted)["w_int8"] == TensorProto.INT8
    assert "w" not in types(converted)
    got = run_exactly(converted, {"x": x.astype(np.float16)})["y"]
    assert got.dtype == np.float16
    assert 1e-4 < relative(run(model, {"x": x})["y"], got) < 0.015


def test_a_float16_table_is_looked_up_in_int8_rows() -> None:
    text = "g (int64[n] i) => (float[n,256] y) { y = Gather (w, i) }"
    model = with_weights(text, {"w": weight(300, 256)})
    converted, result = apply(as_half(model), data=lambda _: {"i": np.arange(3)})
    assert result.counts == {"table lookups in int8": 1}
    got = run(converted, {"i": np.arange(300)})["y"]
    assert got.dtype == np.float16
    assert relative(run(model, {"i": np.arange(300)})["y"], got) < 0.01


def test_float16_results_beyond_its_range_are_infinite_as_before() -> None:
    model = as_half(with_weights("g (float[n,96] x) => (float[n,80] y) { y = MatMul (x, w) }", {"w": weight(96, 80)}))
    x = np.full((1, 96), 6e4, np.float16)
    converted = apply(model, data=lambda _: {"x": np.ones((1, 96), np.float16)})[0]
    assert np.isinf(run_exactly(converted, {"x": x})["y"]).mean() > 0.5


def test_a_product_in_a_subgraph_stays_as_it_is() -> None:
    nested = """g (bool c, float[n,96] x) => (float[n,80] y) {
        y = If (c) <then_branch = t () => (float[n,80] p) { p = MatMul (x, w) },
                    else_branch = e () => (float[n,80] q) { r = MatMul (x, w)  q = Neg (r) }> }"""
    result = apply(with_weights(nested, {"w": weight(96, 80)}))[1]
    assert reasons(result).count("subgraph") == 2
    assert not result.modified


def test_a_product_of_two_activations_is_none_of_its_business() -> None:
    _, result = apply(parse("g (float[n,64] x, float[64,64] z) => (float[n,64] y) { y = MatMul (x, z) }"))
    assert not result.modified
    assert not result.refusals


@pytest.mark.parametrize("shape", [(96,), (2, 3, 4, 96), pytest.param((1, 0, 96), marks=no_rows)])
def test_activations_of_any_rank_and_of_no_rows_are_quantised(shape: tuple[int, ...]) -> None:
    letters = ",".join("abc"[: len(shape) - 1])
    text = f"g (float[{letters}{',' * bool(letters)}96] x) => (float y) {{ y = MatMul (x, w) }}"
    model = with_weights(text, {"w": weight(96, 80)})
    model.graph.output[0].type.tensor_type.ClearField("shape")
    x = RNG.standard_normal(shape).astype(np.float32)
    expected, got = run(model, {"x": x})["y"], run_exactly(apply(model)[0], {"x": x})["y"]
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=1.0)
    assert got.size == 0 or relative(expected, got) < 0.015


@given(st.integers(0, 2**31), st.floats(-1, 1), st.sampled_from([1e-20, 1e-3, 1.0, 1e20]))
@settings(max_examples=60, deadline=None)
def test_no_zero_point_ever_cuts_off_a_value(seed: int, lean: float, size: float) -> None:
    rows = (np.random.default_rng(seed).standard_normal((20, 96)) + 3 * lean).astype(np.float32) * np.float32(size)
    point = best_zero_point(rows.max(axis=1), rows.min(axis=1))
    assert 0 < point < 255
    step = np.maximum(rows.max(axis=1) / (255 - point), -rows.min(axis=1) / point)[:, None]
    levels = np.rint(rows / step) + point
    assert levels.min() >= 0
    assert levels.max() <= 255
    symmetric = np.maximum(rows.max(axis=1) / 127, -rows.min(axis=1) / 128)[:, None]
    assert np.mean(np.square(step / symmetric)) <= 1 + 1e-6

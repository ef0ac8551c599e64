"""Channels that are balanced before they are quantised: what it saves, where the factors stand, and when it is left."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from passes.base import PassResult
from passes.graph_io import import_graph
from passes.precision.float_to_int8 import METADATA_KEY
from passes.precision.int8_balance import choose_balance
from passes.precision.int8_rows import Rows
from passes.precision.int8_sites import find_products
from tests.numerics import run, run_exactly
from tests.passes.precision.int8_models import apply, one_product, relative, types, weight, with_weights
from tests.passes.rewrites import ops

LOUD = (3, 40, 77)


def loud_rows(rows: int = 64) -> NDArray[np.float32]:
    """Activations, three channels of which are far larger than the others."""
    x = weight(rows, 96)
    x[:, LOUD] *= 60
    return x


def errors(model: onnx.ModelProto, x: NDArray[np.float32]) -> tuple[float, float]:
    """The error of the first output without and with balance."""
    name, expected = model.graph.output[0].name, run(model, {"x": x})[model.graph.output[0].name]
    converted = (apply(model, data=lambda _: {"x": x}, balance=balance, max_error=10)[0] for balance in (False, True))
    plain, balanced = (relative(expected, run_exactly(each, {"x": x})[name]) for each in converted)
    return plain, balanced


def quiet_weight(columns: int = 80) -> NDArray[np.float32]:
    """A weight that has room where the activation is loud."""
    w = weight(96, columns)
    w[list(LOUD)] /= 60
    return w


def one_loud_product() -> onnx.ModelProto:
    return with_weights("g (float[n,96] x) => (float[n,80] y) { y = MatMul (x, w) }", {"w": quiet_weight()})


def test_loud_channels_cost_the_others_no_steps() -> None:
    model, x = one_loud_product(), loud_rows()
    plain, balanced = errors(model, x)
    assert balanced < 0.3 * plain
    assert balanced < 0.015


def test_products_of_one_activation_share_a_mul_in_front_of_one_quantisation() -> None:
    text = "g (float[n,96] x) => (float[n,80] p, float[n,64] q) { p = MatMul (x, v)  q = MatMul (x, w) }"
    model = with_weights(text, {"v": quiet_weight(), "w": quiet_weight(64)})
    x = loud_rows()
    converted, result = apply(model, data=lambda _: {"x": x})
    plain = apply(model, data=lambda _: {"x": x}, balance=False, max_error=10)[0]
    assert sorted(ops(converted)) == sorted([*ops(plain), "Mul"])
    assert result.details["balanced"] == "1 activations, 0 of them in the normalisation before"
    mul = next(node for node in converted.graph.node if node.output[0] == "x_balanced")
    assert mul.op_type == "Mul"
    readers = [node.op_type for node in converted.graph.node if "x_balanced" in node.input]
    assert sorted(readers) == ["Div", "ReduceMax", "ReduceMin"]


NORM = "LayerNormalization <axis = -1> (x, gamma, beta)"
DECOMPOSED = """mean = ReduceMean <axes = [-1]> (x)  centred = Sub (x, mean)  square = Mul (centred, centred)
    variance = ReduceMean <axes = [-1]> (square)  deviation = Sqrt (variance)  ratio = Div (centred, deviation)
    scaled = Mul (ratio, gamma)  h = Add (scaled, beta)"""


def normalised(text: str) -> onnx.ModelProto:
    gamma, beta = np.ones(96, np.float32), weight(1, 96)[0]
    gamma[list(LOUD)] = 60
    return with_weights(text, {"gamma": gamma, "beta": beta, "w": quiet_weight()}, opset=17)


@pytest.mark.parametrize("norm", [f"h = {NORM}", DECOMPOSED])
def test_a_normalisation_takes_the_factors_in(norm: str) -> None:
    model, x = normalised(f"g (float[n,96] x) => (float[n,80] y) {{ {norm}  y = MatMul (h, w) }}"), weight(64, 96)
    converted, result = apply(model, data=lambda _: {"x": x})
    assert sorted(ops(converted)) == sorted(ops(apply(model, data=lambda _: {"x": x}, balance=False, max_error=10)[0]))
    assert result.details["balanced"] == "1 activations, 1 of them in the normalisation before"
    assert {"gamma_balanced", "beta_balanced"} <= set(types(converted))
    assert "gamma" not in types(converted)
    plain, balanced = errors(model, x)
    assert balanced < 0.5 * plain


@pytest.mark.parametrize(
    "reader",
    ["z = Add (y, w0)  r = Neg (h)", "r = Identity (h)  z = Neg (y)", "z = Gemm (h, v, h)  r = Neg (y)"],
)
def test_a_normalisation_that_others_read_too_keeps_its_values(reader: str) -> None:
    text = f"g (float[n,96] x) => (float z, float r) {{ h = {NORM}  y = MatMul (h, w)  {reader} }}"
    model, x = normalised(text), weight(64, 96)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "w0"))
    model.graph.initializer.append(numpy_helper.from_array(quiet_weight(96), "v"))
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    converted, result = apply(model, data=lambda _: {"x": x})
    assert "0 of them" in str(result.details["balanced"])
    expected, got = run(model, {"x": x}), run_exactly(converted, {"x": x})
    for name, values in expected.items():
        assert relative(values, got[name]) < 0.02


def test_a_weight_that_two_activations_meet_is_stored_once_with_factors_for_both() -> None:
    text = """g (float[n,96] x) => (float[n,80] p, float[n,80] q) {
        a = Mul (x, gain)  b = Neg (x)  p = MatMul (a, w)  q = MatMul (b, w) }"""
    gain = np.full(96, 2, np.float32)
    model, x = with_weights(text, {"w": quiet_weight(), "gain": gain}), loud_rows()
    converted, result = apply(model, data=lambda _: {"x": x})
    assert list(types(converted).values()).count(onnx.TensorProto.INT8) == 1
    assert "2 activations" in str(result.details["balanced"])
    expected, got = run(model, {"x": x}), run_exactly(converted, {"x": x})
    for name, values in expected.items():
        assert relative(values, got[name]) < 0.015


def test_even_channels_are_left_alone() -> None:
    model, x = one_product(), weight(64, 96).reshape(2, 32, 96)
    converted, result = apply(model, data=lambda _: {"x": x})
    plain, _ = apply(model, data=lambda _: {"x": x}, balance=False, max_error=10)
    assert ops(converted) == ops(plain)
    assert "balanced" not in result.details


def test_a_channel_that_the_data_never_moved_is_kept_within_reach() -> None:
    x = loud_rows()
    x[:, 5] = 0
    graph = import_graph(one_loud_product())
    factors = choose_balance(find_products(graph, PassResult()), {"x": Rows.parted(x)}, 127)
    assert factors is not None
    assert np.median(factors) / factors[5] < 20


def test_values_that_are_not_finite_are_not_balanced() -> None:
    model, x = one_loud_product(), loud_rows()
    x[3, 3] = np.inf
    assert "balanced" not in apply(model, data=lambda _: {"x": x})[1].details


def test_a_balanced_token_does_not_depend_on_its_neighbours() -> None:
    x = loud_rows(6)
    converted, _ = apply(one_loud_product(), data=lambda _: {"x": x})
    assert "x_balanced" in {output for node in converted.graph.node for output in node.output}
    louder = x.copy()
    louder[1:] *= 1000
    alone, together, beside = (run_exactly(converted, {"x": rows})["y"][0] for rows in (x[:1], x, louder))
    np.testing.assert_array_equal(alone, together)
    np.testing.assert_array_equal(alone, beside)


def test_a_float16_activation_is_widened_before_it_is_balanced() -> None:
    model, x = one_loud_product(), loud_rows().astype(np.float16)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    half = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float16)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(half, "w"))
    converted, _ = apply(model, data=lambda _: {"x": x})
    expected = x.astype(np.float32) @ half.astype(np.float32)
    assert relative(expected, run_exactly(converted, {"x": x})["y"].astype(np.float32)) < 0.015


@pytest.mark.parametrize(("data", "kind"), [(None, "none"), (lambda _: {"x": loud_rows()}, "real")])
def test_the_model_says_what_was_done(data: object, kind: str) -> None:
    converted, _ = apply(one_loud_product(), data=data)
    note = next(json.loads(prop.value) for prop in converted.metadata_props if prop.key == METADATA_KEY)
    assert note == {"max_error": 0.05, "balanced": int(kind == "real"), "feedback": 0, "data": kind}

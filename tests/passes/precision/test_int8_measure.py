"""What int8 costs is measured on sample data: what stays float for it, and what the report says."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from passes.errors import RewriteError
from passes.precision.float_to_int8 import FloatToInt8
from tests.numerics import run, run_exactly
from tests.passes.precision.int8_models import RNG, apply, one_product, reasons, relative, types, weight, with_weights


def two_products() -> tuple[onnx.ModelProto, NDArray[np.float32]]:
    """One ordinary product, and one whose activation has an outlier that drowns the rest in every token."""
    text = """g (float[n,96] x) => (float[n,80] tame, float[n,80] wild) {
        tame = MatMul (x, w)  bent = Mul (x, gain)  wild = MatMul (bent, v) }"""
    gain, v = np.ones(96, np.float32), weight(96, 80)
    gain[0], v[0] = 1000, 0
    model = with_weights(text, {"w": weight(96, 80), "v": v, "gain": gain})
    return model, RNG.standard_normal((32, 96)).astype(np.float32)


def test_a_product_that_measures_badly_on_the_data_stays_float_alone() -> None:
    model, x = two_products()
    converted, result = apply(model, data=lambda signature: {"x": x}, balance=False)
    assert result.counts == {"products in int8": 1}
    assert "wild" in reasons(result)
    assert "more than 5.0%" in reasons(result)
    assert {"w_int8", "v"} <= set(types(converted))
    outputs = run_exactly(converted, {"x": x})
    assert relative(run(model, {"x": x})["tame"], outputs["tame"]) < 0.015
    np.testing.assert_allclose(outputs["wild"], run(model, {"x": x})["wild"], rtol=1e-5, atol=1e-4)


def test_the_limit_of_the_error_is_the_callers(caplog: pytest.LogCaptureFixture) -> None:
    model, x = two_products()
    assert apply(model, data=lambda signature: {"x": x}, max_error=10)[1].counts == {"products in int8": 2}
    assert not apply(model, data=lambda signature: {"x": x}, max_error=1e-4)[1].modified
    with pytest.raises(RewriteError, match="max_error"):
        FloatToInt8(max_error=0)
    with caplog.at_level(logging.WARNING, "poprt"):
        assert apply(model)[1].counts == {"products in int8": 2}
    assert "no sample data" in caplog.text


def test_the_report_says_what_it_cost() -> None:
    model, x = two_products()
    converted, result = apply(model, data=lambda signature: {"x": x}, balance=False)
    expected, got = run(model, {"x": x})["tame"], run_exactly(converted, {"x": x})["tame"]
    assert float(result.details["largest difference of tame"]) == pytest.approx(np.abs(expected - got).max(), rel=0.01)
    cosine = np.sum(expected * got) / np.linalg.norm(expected) / np.linalg.norm(got)
    assert float(result.details["cosine of tame"]) == pytest.approx(cosine, abs=1e-5)
    before, after = map(int, result.details["bytes of weights"].split(" -> "))
    assert before == (2 * 96 * 80 + 96) * 4
    assert before - after == pytest.approx(96 * 80 * 3, rel=0.05)


def test_the_data_source_gets_the_inputs_and_the_metadata() -> None:
    model, x = two_products()
    onnx.helper.set_model_props(model, {"key": "value"})
    seen = []

    def data(signature: onnx.ModelProto) -> dict[str, NDArray[Any]]:
        seen.append(signature)
        return {"x": x}

    apply(model, data=data)
    assert [value.name for value in seen[0].graph.input] == ["x"]
    assert seen[0].metadata_props[0].value == "value"


def test_data_that_the_model_cannot_take_is_an_error_that_says_so() -> None:
    model, x = two_products()
    with pytest.raises(RewriteError, match="sample data"):
        apply(model, data=lambda signature: {"x": x[:, :5]})


def test_an_activation_of_one_sign_gets_finer_steps_than_one_of_both() -> None:
    text = "g (float[n,96] x) => (float[n,80] y) { a = Relu (x)  y = MatMul (a, w) }"
    model = with_weights(text, {"w": weight(96, 80)})
    x = RNG.standard_normal((64, 96)).astype(np.float32)
    expected = run(model, {"x": x})["y"]
    blind = relative(expected, run_exactly(apply(model)[0], {"x": x})["y"])
    told = relative(expected, run_exactly(apply(model, data=lambda signature: {"x": x})[0], {"x": x})["y"])
    assert told < 0.85 * blind


def test_the_reduced_range_keeps_sums_of_two_products_within_16_bits() -> None:
    converted, _ = apply(one_product(), reduce_range=True)
    levels = next(numpy_helper.to_array(t) for t in converted.graph.initializer if t.name == "w_int8")
    assert 60 <= np.abs(levels.astype(int)).max() <= 63
    assert 2 * 255 * np.abs(levels.astype(int)).max() < 2**15


def test_a_weight_that_is_not_finite_stays_float() -> None:
    w = weight(96, 80)
    w[3, 5] = np.inf
    text = "g (float[n,96] x) => (float[n,80] y) { y = MatMul (x, w) }"
    for options in ({}, {"data": lambda signature: {"x": np.ones((2, 96), np.float32)}}):
        result = apply(with_weights(text, {"w": w}), **options)[1]
        assert "not finite" in reasons(result)
        assert not result.modified


def test_a_model_of_tables_alone_is_measured_as_well() -> None:
    text = "g (int64[n] ids) => (float[n,128] y) { y = Gather (t, ids) }"
    _, result = apply(with_weights(text, {"t": weight(1000, 128)}), data=lambda signature: {"ids": np.arange(9)})
    assert result.counts == {"table lookups in int8": 1}
    assert float(result.details["cosine of y"]) > 0.9999

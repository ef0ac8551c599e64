"""Which kinds of products there are is told where it explains what stayed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from onnx import TensorProto

from tests.passes.precision.int8_models import apply, reasons, weight, with_weights
from tests.passes.rewrites import parse


@pytest.mark.parametrize(
    ("text", "dtypes", "kinds"),
    [
        ("(float16[n,96] x) => (float16[n,2] y) { y = MatMul (x, w) }", {"w": "float16"}, "1 with float16 weights"),
        ("(float[n,96] x) => (float[n,2] y) { y = MatMul (x, w) }", {"w": "float32"}, "1 with float32 weights"),
        ("(uint8[n,96] x) => (int32[n,80] y) { y = MatMulInteger (x, w) }", {"w": "int8"}, "1 already quantised"),
        (
            "(float[n,96] x) => (float[n,80] y) { d = DequantizeLinear (w, s)  y = MatMul (x, d) }",
            {"w": "int8", "s": "float32"},
            "1 already quantised",
        ),
        (
            "(float[n,80] x) => (float[n,96] y) { d = DequantizeLinear (w, s)  t = Transpose (d)  y = MatMul (x, t) }",
            {"w": "int8", "s": "float32"},
            "1 already quantised",
        ),
        (
            "(float[n,96] x) => (float[n,80] y) { y = com.microsoft.DynamicQuantizeMatMul (x, w, s) }",
            {"w": "int8", "s": "float32"},
            "1 already quantised",
        ),
        (
            "(uint8[n,96] x) => (uint8[n,80] y) { y = QLinearMatMul (x, s, z, w, s, z, s, z) }",
            {"w": "uint8", "s": "float32", "z": "uint8"},
            "1 already quantised",
        ),
        (
            "(float[n,96,1] x) => (float[n,96,1] y) { d = DequantizeLinear (c, s)  y = Conv (x, d) }",
            {"c": "int8", "s": "float32"},
            "1 already quantised",
        ),
        ("(uint8[n,96,1] x) => (int32[n,96,1] y) { y = ConvInteger (x, c) }", {"c": "int8"}, "1 already quantised"),
        ("(float[n,96,1] x) => (float[n,96,1] y) { y = Conv (x, c) }", {"c": "float32"}, "none"),
        ("(float[n,96] x, float[96,80] z) => (float[n,80] y) { y = MatMul (x, z) }", {}, "none"),
    ],
)
def test_where_no_product_is_quantised_the_report_says_which_kinds_there_are(
    text: str, dtypes: Mapping[str, str], kinds: str
) -> None:
    shape = (96, 2) if "[n,2]" in text else (96, 80)
    shapes: dict[str, tuple[int, ...]] = {"s": (), "z": (), "c": (96, 96, 1)}
    weights = {name: np.ones(shapes.get(name, shape), dtype) for name, dtype in dtypes.items()}
    result = apply(with_weights(f"g {text}", weights))[1]
    assert not result.modified
    assert result.details == {"products by constant matrices before": kinds}


def test_products_that_were_quantised_before_are_counted_beside_those_that_are_now() -> None:
    model = with_weights(
        "g (float[n,96] x) => (float[n,80] y, float[n,80] z) "
        "{ y = MatMul (x, w)  d = DequantizeLinear (q, s)  z = MatMul (x, d) }",
        {"w": weight(96, 80), "q": np.ones((96, 80), np.int8), "s": np.float32(1).reshape(())},
    )
    result = apply(model)[1]
    assert result.counts["products in int8"] == 1
    assert result.details["products by constant matrices before"] == "1 with float32 weights, 1 already quantised"


def test_a_weight_of_a_type_that_numpy_lacks_is_named() -> None:
    model = parse("g (bfloat16[n,96] x) => (bfloat16[n,80] y) { y = MatMul (x, w) }", opset=17)
    model.graph.initializer.append(TensorProto(name="w", data_type=TensorProto.BFLOAT16, dims=(96, 80)))
    model.graph.initializer[0].raw_data = bytes(2 * 96 * 80)
    result = apply(model)[1]
    assert "its weight is bfloat16" in reasons(result)
    assert result.details["products by constant matrices before"] == "1 with bfloat16 weights"

"""int8 weights of QDQ models are stored unsigned, and nothing else is; the numbers stay the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from passes.precision.unsign_dequantised import UnsignDequantised
from tests.numerics import run
from tests.passes.rewrites import copy_of, parse

WEIGHT = np.random.default_rng(0).integers(-128, 128, (6, 4)).astype(np.int8)
X = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)
PRODUCT = "d = DequantizeLinear <axis = 1> (w, s, z)  y = MatMul (x, d)"


def model(body: str, outputs: str = "float[n,4] y", point: int = 3) -> onnx.ModelProto:
    parsed = parse(
        f"g (float[n,6] x) => ({outputs}) <float[4] s = {{0.1, 0.2, 0.3, 0.4}}, float one = {{0.5}}> {{ {body} }}"
    )
    points = {"w": WEIGHT, "z": np.full(4, point, np.int8), "p": np.array(point, np.int8)}
    parsed.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in points.items())
    return parsed


def types(model: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


@pytest.mark.parametrize(
    "body",
    [
        PRODUCT,
        "d = DequantizeLinear <axis = 1> (w, s)  y = MatMul (x, d)",
        PRODUCT + "  e = DequantizeLinear (w, one, p)  v = MatMul (x, e)  u = DequantizeLinear (w, one)",
    ],
    ids=["points", "no points", "three readers"],
)
def test_the_numbers_stay_the_same(body: str) -> None:
    before = model(body)
    after = UnsignDequantised().run(copy_of(before))
    assert types(after)["w"] == onnx.TensorProto.UINT8
    np.testing.assert_array_equal(run(after, {"x": X})["y"], run(before, {"x": X})["y"])


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (PRODUCT + "  v = Cast <to = 1> (w)", "float[n,4] y, float[6,4] v"),
        (PRODUCT, "float[n,4] y, int8[6,4] w"),
    ],
    ids=["another reader", "an output"],
)
def test_a_weight_that_anything_else_reads_keeps_its_sign(body: str, outputs: str) -> None:
    assert types(UnsignDequantised().run(model(body, outputs)))["w"] == onnx.TensorProto.INT8


def test_a_weight_that_is_a_zero_point_too_keeps_its_sign() -> None:
    body = f"{PRODUCT}  q = QuantizeLinear (y, one, p)  r = DequantizeLinear (q, one, p)"
    body += "  c = DequantizeLinear (p, one)  v = Add (r, c)"
    before = model(body, "float[n,4] v")
    after = UnsignDequantised().run(copy_of(before))
    assert types(after)["p"] == onnx.TensorProto.INT8
    np.testing.assert_array_equal(run(after, {"x": X})["v"], run(before, {"x": X})["v"])

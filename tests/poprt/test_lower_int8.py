"""Integer products are fused for the engine, where nothing else reads what lies between."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from poprt.compiler.lower_int8 import lower_int8
from tests.numerics import run
from tests.passes.rewrites import copy_of, ops, parse

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (5, 16)).astype(np.uint8)


def product(body: str, outputs: str = "float[n,8] y", scale: NDArray[np.float32] | None = None) -> onnx.ModelProto:
    model = parse(f"g (uint8[n,16] x) => ({outputs}) <uint8 z = {{100}}> {{ {body} }}")
    weights = {"w": RNG.integers(-127, 128, (16, 8)).astype(np.int8)}
    weights["s"] = RNG.random(8).astype(np.float32) if scale is None else scale
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


PLAIN = "i = MatMulInteger (x, w, z)  f = Cast <to = 1> (i)  y = Mul (f, s)"


@pytest.mark.parametrize("body", [PLAIN, PLAIN.replace("(f, s)", "(s, f)")])
def test_a_scaled_integer_product_is_one_node_with_the_same_result(body: str) -> None:
    model = product(body)
    lowered = copy_of(model)
    assert lower_int8(lowered) == 1
    assert ops(lowered) == ["MatMulIntegerToFloat"]
    onnx.checker.check_model(lowered)
    np.testing.assert_allclose(run(lowered, {"x": X})["y"], run(model, {"x": X})["y"], rtol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        product(PLAIN, "float[n,8] y, float[n,8] f"),
        product(PLAIN + "  j = Neg (i)", "float[n,8] y, int32[n,8] j"),
        product(PLAIN + "  e = Neg (f)", "float[n,8] y, float[n,8] e"),
        product(PLAIN.replace("to = 1", "to = 11"), "double[n,8] y", np.ones(8, np.float64)),
        product(PLAIN, scale=np.ones((1, 8), np.float32)),
    ],
)
def test_a_result_that_something_else_reads_or_another_type_or_shape_stays(model: onnx.ModelProto) -> None:
    lowered = copy_of(model)
    assert lower_int8(lowered) == 0
    assert lowered == model

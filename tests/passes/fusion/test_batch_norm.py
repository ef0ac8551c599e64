"""BatchNormalization goes into the product before it, or becomes a Mul and an Add."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from tests.passes.rewritten import model_of, random, refuse, rewrite

C = 4
WEIGHTS: dict[str, Any] = {
    "scale": random(C), "bias": random(C, seed=1), "mean": random(C, seed=2),
    "variance": np.abs(random(C, seed=3)) + 0.1,
    "W": random(C, 3, 3, 3, seed=4), "b": random(C, seed=5), "M": random(3, C, seed=6), "MT": random(C, 3, seed=7),
    "row": random(1, C, seed=8),
}  # fmt: skip
NORM = "y = BatchNormalization (c, scale, bias, mean, variance)"
IMAGE = {"x": random(2, 3, 5, 5, seed=9)}
ROWS = {"x": random(2, 3, seed=9)}


def image(body: str, outputs: str = f"float[2,{C},3,3] y", weights: Any = None) -> onnx.ModelProto:
    return model_of(f"g (float[2,3,5,5] x) => ({outputs}) {{ {body} }}", {**WEIGHTS, **(weights or {})})


def rows(body: str, outputs: str = f"float[2,{C}] y") -> onnx.ModelProto:
    return model_of(f"g (float[2,3] x) => ({outputs}) {{ {body} }}", WEIGHTS)


@pytest.mark.parametrize("bias", ["", ", b"])
def test_a_convolution_takes_it_in(bias: str) -> None:
    assert rewrite("fuse_bn_into_conv", image(f"c = Conv (x, W{bias}) {NORM}"), IMAGE).ops == ["Conv"]


def test_a_convolution_of_groups_keeps_its_attributes() -> None:
    model = image(
        f"c = Conv <group = 3, pads = [1, 1, 1, 1]> (x, G) {NORM.replace('scale, bias, mean, variance', 's, s, s, v')}",
        "float[2,3,5,5] y",
        {"G": random(3, 1, 3, 3), "s": random(3), "v": np.ones(3, np.float32)},
    )
    assert rewrite("fuse_bn_into_conv", model, IMAGE).ops == ["Conv"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"c = Conv (x, W) k = Neg (c) y0 = {NORM[4:]} y = Add (y0, k)", "'c', is read elsewhere"),
        (f"w = Abs (W) c = Conv (x, w) {NORM}", "weight 'w' is computed"),
        (f"c = Conv (x, W) y0 = {NORM[4:]} k = Conv (x, W) y = Add (y0, k)", "weight 'W' is read by other nodes"),
        (f"c = Conv (x, W, b) y0 = {NORM[4:]} k = Neg (b) y = Add (y0, y0)", "is read by other nodes"),
        (f"v = Abs (variance) c = Conv (x, W) {NORM.replace('variance', 'v')}", "parameter 'v' is computed"),
        (f"a = Conv (x, W) c = Relu (a) {NORM}", "comes from no Conv"),
    ],
)
def test_what_a_convolution_does_not_take_in_is_told(body: str, reason: str) -> None:
    outputs = f"float[2,{C},3,3] y" + (f", float[{C}] k" if "Neg (b)" in body else "")
    refuse("fuse_bn_into_conv", image(body, outputs), reason)


def test_a_result_of_the_convolution_that_is_an_output_stays() -> None:
    model = image(f"c = Conv (x, W) {NORM}", f"float[2,{C},3,3] y, float[2,{C},3,3] c")
    refuse("fuse_bn_into_conv", model, "read elsewhere")


def test_a_batch_norm_of_training_stays() -> None:
    body = (
        f"c = Conv (x, W) y, m, v = {NORM[4:].replace('BatchNormalization', 'BatchNormalization <training_mode = 1>')}"
    )
    model = image(body)
    refuse("fuse_bn_into_conv", model, "one of training")


@pytest.mark.parametrize(
    "product",
    [
        "Gemm (x, M, b)",
        "Gemm (x, M)",
        "Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, MT, b)",
        "Gemm <transB = 1> (x, MT, row)",
    ],
)
def test_a_gemm_takes_it_in(product: str) -> None:
    assert rewrite("fuse_bn_into_gemm", rows(f"c = {product} {NORM}"), ROWS).ops == ["Gemm"]


def test_a_product_of_matrices_takes_it_in() -> None:
    assert rewrite("fuse_bn_into_gemm", rows(f"c = MatMul (x, M) {NORM}"), ROWS).ops == ["MatMul", "Add"]


def test_a_product_of_more_axes_has_its_channels_elsewhere() -> None:
    model = model_of(f"g (float[2,{C},3] x) => (float[2,{C},{C}] y) {{ c = MatMul (x, M) {NORM} }}", WEIGHTS)
    refuse("fuse_bn_into_gemm", model, "not known to be one of two matrices")


def test_a_matrix_of_two_products_stays() -> None:
    model = rows(f"c = MatMul (x, M) y0 = {NORM[4:]} k = MatMul (x, M) y = Add (y0, k)")
    refuse("fuse_bn_into_gemm", model, "read by other nodes")


def test_an_input_of_no_known_rank_stays() -> None:
    model = model_of(f"g (float[2,{C},3,3] c) => (float[] y) {{ r = Relu (c) {NORM.replace('(c', '(r')} }}", WEIGHTS)
    refuse("replace_bn_with_mul_add", model, "how many axes 'r' has is not known")


def test_it_is_a_product_and_a_sum_where_the_rank_is_known() -> None:
    model = model_of(f"g (float[2,{C},3,3] c) => (float[2,{C},3,3] y) {{ {NORM} }}", WEIGHTS)
    after = rewrite("replace_bn_with_mul_add", model, {"c": random(2, C, 3, 3)})
    assert after.ops == ["Mul", "Add"]
    assert sorted(values.shape for values in after.weights.values()) == [(C, 1, 1)] * 2


def test_two_in_a_row_go_into_one_convolution() -> None:
    body = f"c0 = Conv (x, W) c = {NORM[4:].replace('(c', '(c0')} {NORM}"
    assert rewrite("fuse_bn_into_conv", image(body), IMAGE).ops == ["Conv"]


def test_a_weight_of_float16_that_would_be_infinite_stays() -> None:
    ones = {name: np.ones(2, np.float16) for name in ("scale", "bias", "mean")}
    weights = {**ones, "W": np.full((2, 1, 1), 100, np.float16), "variance": np.full(2, 6e-8, np.float16)}
    model = model_of(f"g (float16[1,1,4] x) => (float16[1,2,4] y) {{ c = Conv (x, W) {NORM} }}", weights)
    model.graph.node[1].attribute.append(onnx.helper.make_attribute("epsilon", 0.0))
    refuse("fuse_bn_into_conv", model, "out of the range of float16")


def test_parameters_of_another_type_than_the_input_stay() -> None:
    model = model_of(f"g (float16[2,{C},3] c) => (float16[2,{C},3] y) {{ {NORM} }}", WEIGHTS)
    refuse("replace_bn_with_mul_add", model, "its parameters are float32")

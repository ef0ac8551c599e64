"""Integer products as products by dequantised weights: where they may be, and how many columns share a scale."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from passes import PassManager
from passes.precision.float_to_int8 import FloatToInt8
from poprt.compiler.dequantise_products import DequantiseProducts, activation_group
from tests.numerics import run, run_exactly

RNG = np.random.default_rng(0)
FEEDS = {"x": RNG.normal(size=(5, 64)).astype(np.float32)}


def quantised(body: str, *weights: str) -> onnx.ModelProto:
    """A model with weights [64, 64], its products in int8."""
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> m (float[5, 64] x) => {body}')
    for name in weights:
        proto.graph.initializer.append(numpy_helper.from_array(RNG.normal(size=(64, 64)).astype(np.float32), name))
    return FloatToInt8().run(proto)


def dequantised(proto: onnx.ModelProto) -> onnx.ModelProto:
    return PassManager([DequantiseProducts()]).run(proto)


def count(proto: onnx.ModelProto, operator: str) -> int:
    return sum(node.op_type == operator for node in proto.graph.node)


def agree(one: onnx.ModelProto, other: onnx.ModelProto) -> None:
    for name, values in run_exactly(one, FEEDS).items():
        assert np.abs(run(other, FEEDS)[name] - values).max() <= 2e-2 * np.abs(values).max()


def test_products_that_share_an_activation_lose_what_quantised_it() -> None:
    proto = quantised("(float[5, 64] y) { a = MatMul(x, v) b = MatMul(x, w) y = Add(a, b) }", "v", "w")
    assert count(proto, "MatMulInteger") == 2
    assert count(proto, "QuantizeLinear") == 1
    rewritten = dequantised(proto)
    assert sorted(node.op_type for node in rewritten.graph.node) == sorted(["Add", *["DequantizeLinear", "MatMul"] * 2])
    agree(proto, rewritten)


def test_a_product_that_is_an_output_is_rewritten() -> None:
    proto = quantised("(float[5, 64] y, float[5, 64] z) { y = MatMul(x, v) z = MatMul(y, w) }", "v", "w")
    rewritten = dequantised(proto)
    assert count(rewritten, "MatMul") == 2
    assert [value.name for value in rewritten.graph.output] == ["y", "z"]
    agree(proto, rewritten)


@pytest.mark.parametrize("operator", ["MatMulInteger", "Cast"])
def test_what_is_an_output_in_the_middle_keeps_its_product(operator: str) -> None:
    proto = quantised("(float[5, 64] y) { y = MatMul(x, v) }", "v")
    (node,) = (node for node in proto.graph.node if node.op_type == operator)
    element = onnx.TensorProto.INT32 if operator == "MatMulInteger" else onnx.TensorProto.FLOAT
    proto.graph.output.append(helper.make_tensor_value_info(node.output[0], element, [5, 64]))
    assert count(dequantised(proto), "MatMulInteger") == 1


def test_another_reader_of_the_sums_keeps_the_product() -> None:
    proto = quantised("(float[5, 64] y) { y = MatMul(x, v) }", "v")
    (node,) = (node for node in proto.graph.node if node.op_type == "MatMulInteger")
    proto.graph.node.append(helper.make_node("Neg", [node.output[0]], ["n"]))
    proto.graph.output.append(helper.make_tensor_value_info("n", onnx.TensorProto.INT32, [5, 64]))
    assert count(dequantised(proto), "MatMulInteger") == 1


def test_another_reader_of_the_levels_keeps_them() -> None:
    proto = quantised("(float[5, 64] y) { y = MatMul(x, v) }", "v")
    (node,) = (node for node in proto.graph.node if node.op_type == "QuantizeLinear")
    proto.graph.node.append(helper.make_node("Cast", [node.output[0]], ["n"], to=onnx.TensorProto.FLOAT))
    proto.graph.output.append(helper.make_tensor_value_info("n", onnx.TensorProto.FLOAT, [5, 64]))
    rewritten = dequantised(proto)
    assert (count(rewritten, "MatMulInteger"), count(rewritten, "QuantizeLinear")) == (0, 1)
    agree(proto, rewritten)


def test_a_scale_other_than_one_is_not_lost() -> None:
    """``QuantizeLinear(x / steps, 2)``: nobody's conversion, and another number."""
    proto = quantised("(float[5, 64] y) { y = MatMul(x, v) }", "v")
    (node,) = (node for node in proto.graph.node if node.op_type == "QuantizeLinear")
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
    node.input[1] = "two"
    assert count(dequantised(proto), "MatMulInteger") == 1


def products(*shapes: tuple[int, int]) -> onnx.ModelProto:
    nodes, weights = [], []
    for number, shape in enumerate(shapes):
        weights.append(numpy_helper.from_array(np.zeros(shape, np.int8), f"w{number}"))
        weights.append(numpy_helper.from_array(np.ones(shape[1], np.float32), f"s{number}"))
        nodes.append(helper.make_node("DequantizeLinear", [f"w{number}", f"s{number}"], [f"d{number}"], axis=1))
        nodes.append(helper.make_node("MatMul", [f"x{number}", f"d{number}"], [f"y{number}"]))
    return helper.make_model(helper.make_graph(nodes, "g", [], [], weights))


@pytest.mark.parametrize(
    ("shapes", "group"),
    [
        ([(384, 384), (384, 1536), (1536, 384)], 384),
        ([(768, 768), (768, 3072), (3072, 768)], 768),
        ([(64, 64), (64, 128), (128, 64)], 64),
        ([(312, 312), (312, 1200), (1200, 312)], 1200),  # 312 is no multiple of 16: these are computed in floats
        ([(312, 312)], 0),
        ([(16, 64)], 0),  # so few cost more than they save
        ([(384, 384), (384, 384), (160, 384)], 32),  # all of them count more than a larger group
        ([(384, 384), (384, 384), (100, 384)], 384),
        ([], 0),
    ],
)
def test_the_columns_that_share_a_scale_divide_the_rows_of_most_weights(
    shapes: list[tuple[int, int]], group: int
) -> None:
    assert activation_group(products(*shapes)) == group

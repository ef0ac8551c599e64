"""expand_fused_ops on fused products: the standard operators in their place give the fused operator's numbers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest

from passes.fusion.expand_fused_ops import ExpandFusedOps
from passes.graph_io import import_graph
from tests.numerics import Arrays, run
from tests.passes.rewrites import copy_of, ops, parse, rewritten

RNG = np.random.default_rng(0)
OPERANDS: Arrays = {
    name: RNG.normal(size=shape).astype(np.float32)
    for name, shape in {
        "a": (2, 3, 4, 5),
        "b": (2, 3, 5, 6),
        "x": (4, 5),
        "w": (5, 6),
        "wt": (6, 5),
        "c": (6,),
        "image": (1, 3, 8),
        "kernel": (4, 3, 3),
        "shift": (4,),
        "before": (1, 4, 6),
    }.items()
}
FLAGS = ("transA", "transBatchA", "transB", "transBatchB")


def model(body: str, feeds: Arrays) -> onnx.ModelProto:
    inputs = ", ".join(f"float[{', '.join(map(str, array.shape))}] {name}" for name, array in feeds.items())
    parsed = parse(f"fused ({inputs}) => (float y) {{ {body} }}")
    declared = parsed.graph.output[0].type.tensor_type
    declared.ClearField("shape")
    for extent in run(parsed, feeds)["y"].shape:
        declared.shape.dim.add().dim_value = extent
    return parsed


def assert_same(body: str, feeds: Arrays, expected_ops: list[str]) -> None:
    before = model(body, feeds)
    after = rewritten(ExpandFusedOps(), before, full_check=False)
    assert ops(after) == expected_ops
    np.testing.assert_allclose(run(after, feeds)["y"], run(before, feeds)["y"], atol=1e-5, rtol=1e-5)


def laid_out(array: np.ndarray[Any, Any], batch: bool, matrix: bool) -> np.ndarray[Any, Any]:
    """What FusedMatMul turns into ``array``."""
    if matrix:
        array = np.swapaxes(array, -1, -2)
    return np.moveaxis(array, -2, 0) if batch else array


@pytest.mark.parametrize("flags", list(itertools.product([0, 1], repeat=4)))
def test_a_fused_product_becomes_transposes_a_product_and_a_factor(flags: tuple[int, ...]) -> None:
    trans_a, batch_a, trans_b, batch_b = flags
    feeds = {
        "a": laid_out(OPERANDS["a"], bool(batch_a), bool(trans_a)),
        "b": laid_out(OPERANDS["b"], bool(batch_b), bool(trans_b)),
    }
    attrs = ", ".join(f"{name} = {value}" for name, value in zip(FLAGS, flags, strict=True))
    turned = ["Transpose"] * (bool(trans_a or batch_a) + bool(trans_b or batch_b))
    body = f"y = com.microsoft.FusedMatMul <alpha = 0.25, {attrs}> (a, b)"
    assert_same(body, feeds, [*turned, "MatMul", "Mul"])


def test_a_fused_product_without_extras_is_a_product() -> None:
    assert_same("y = com.microsoft.FusedMatMul (a, b)", {"a": OPERANDS["a"], "b": OPERANDS["b"]}, ["MatMul"])


def test_the_older_name_of_the_fused_product_is_known() -> None:
    feeds = {"x": OPERANDS["x"], "wt": OPERANDS["wt"]}
    body = "y = com.microsoft.TransposeMatMul <alpha = 2.0, transB = 1> (x, wt)"
    assert_same(body, feeds, ["Transpose", "MatMul", "Mul"])


@pytest.mark.parametrize(
    ("attributes", "activation"),
    [
        ('activation = "Relu"', "Relu"),
        ('activation = "LeakyRelu", activation_alpha = 0.3, alpha = 0.5, beta = 2.0', "LeakyRelu"),
        ('activation = "HardSigmoid", activation_alpha = 0.1, activation_beta = 0.4', "HardSigmoid"),
        ('activation = "Tanh", transB = 1', "Tanh"),
    ],
)
def test_a_fused_gemm_becomes_a_gemm_and_its_activation(attributes: str, activation: str) -> None:
    weight = "wt" if "transB" in attributes else "w"
    feeds = {name: OPERANDS[name] for name in ("x", weight, "c")}
    assert_same(f"y = com.microsoft.FusedGemm <{attributes}> (x, {weight}, c)", feeds, ["Gemm", activation])


@pytest.mark.parametrize(
    ("attributes", "inputs", "expected"),
    [
        ('activation = "Relu"', "image, kernel, shift", ["Conv", "Relu"]),
        ('activation = "Relu"', "image, kernel, shift, before", ["Conv", "Add", "Relu"]),
        ('activation = "LeakyRelu", activation_params = [0.3]', "image, kernel", ["Conv", "LeakyRelu"]),
        ('activation = "Clip", activation_params = [-0.5, 0.5]', "image, kernel, shift", ["Conv", "Clip"]),
        ('activation = "HardSigmoid", activation_params = [0.1, 0.4]', "image, kernel", ["Conv", "HardSigmoid"]),
    ],
)
def test_a_fused_convolution_becomes_what_it_was_fused_from(attributes: str, inputs: str, expected: list[str]) -> None:
    feeds = {name: OPERANDS[name] for name in inputs.split(", ")}
    assert_same(f"y = com.microsoft.FusedConv <{attributes}> ({inputs})", feeds, expected)


def test_half_precision_stays_half_precision() -> None:
    body = "y = com.microsoft.FusedMatMul <alpha = 0.5> (x, w)"
    before = parse(f"g (float16[4, 5] x, float16[5, 6] w) => (float16[4, 6] y) {{ {body} }}")
    after = rewritten(ExpandFusedOps(), before, full_check=False)
    assert after.graph.initializer[0].data_type == onnx.TensorProto.FLOAT16
    feeds = {name: OPERANDS[name].astype(np.float16) for name in ("x", "w")}
    np.testing.assert_allclose(run(after, feeds)["y"], 0.5 * (feeds["x"] @ feeds["w"]), atol=1e-2)


def test_an_operand_of_unknown_rank_is_not_transposed() -> None:
    before = parse("g (float x, float w) => (float y) { y = com.microsoft.FusedMatMul <transA = 1> (x, w) }")
    for value in before.graph.input:
        value.type.tensor_type.ClearField("shape")
    graph = import_graph(copy_of(before))
    result = ExpandFusedOps().apply(graph)
    assert not result.modified
    assert "the rank of an operand that it transposes is unknown" in result.refusals[0].reason

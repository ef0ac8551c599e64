"""Operators written by others: what takes their place, the numbers, and what stays with which reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from passes import get_pass
from tests.passes.rewrites import copy_of
from tests.passes.rewritten import model_of, random, refuse, rewrite

X = {"x": np.abs(random(2, 3)) + 0.5}


def of_one(
    body: str, weights: dict[str, Any] | None = None, *, opset: int = 17, dtype: str = "float"
) -> onnx.ModelProto:
    return model_of(f"g ({dtype}[2,3] x) => ({dtype}[2,3] y) {{ {body} }}", weights, opset=opset)


@pytest.mark.parametrize(
    ("exponent", "ops"),
    [
        (2, ["Mul"]), (3, ["Mul", "Mul"]), (4, ["Mul", "Mul"]), (0.5, ["Sqrt"]), (-1, ["Reciprocal"]),
        (-0.5, ["Sqrt", "Reciprocal"]), (-2, ["Mul", "Reciprocal"]),
    ],
)  # fmt: skip
def test_powers_become_plainer_operators(exponent: float, ops: list[str]) -> None:
    for shape in ((), (1,)):
        model = of_one("y = Pow (x, e)", {"e": np.full(shape, exponent, np.float32)})
        assert rewrite("replace_pow", model, X).ops == ops


def test_a_whole_exponent_of_another_type_counts() -> None:
    assert rewrite("replace_pow", of_one("y = Pow (x, e)", {"e": np.array(2)}), X).ops == ["Mul"]


@pytest.mark.parametrize(
    ("body", "exponent", "reason"),
    [
        ("y = Pow (x, e)", np.float32([2, 3, 2]), "no constant number"),
        ("y = Pow (x, e)", np.float32([[[2]]]), "no constant number"),
        ("y = Pow (x, e)", np.float32(1.7), "the power of 1.7"),
        ("f = Abs (e) y = Pow (x, f)", np.float32(2), "'f' is no constant number"),
    ],
)
def test_other_powers_stay(body: str, exponent: np.ndarray, reason: str) -> None:
    refuse("replace_pow", of_one(body, {"e": exponent}), reason)


def test_powers_of_integers_stay() -> None:
    refuse("replace_pow", of_one("y = Pow (x, e)", {"e": np.array(2)}, dtype="int64"), "not known to be of floats")


def test_division_by_a_constant_becomes_multiplication() -> None:
    after = rewrite("replace_div_with_mul", of_one("y = Div (x, c)", {"c": np.float32([2, 4, 3])}), X)
    assert after.ops == ["Mul"]


def test_a_divisor_that_others_read_stays_theirs() -> None:
    model = of_one("a = Div (x, c) y = Add (a, c)", {"c": np.float32([2, 4, 3])})
    assert rewrite("replace_div_with_mul", model, X).ops == ["Mul", "Add"]


@pytest.mark.parametrize(
    ("body", "divisor", "dtype", "reason"),
    [
        ("y = Div (x, c)", np.array([2, 4, 3]), "int64", "divides by int64"),
        ("d = Abs (c) y = Div (x, d)", np.float32([2, 4, 3]), "float", "'d' is computed"),
        ("y = Div (c, x)", np.float32([2, 4, 3]), "float", "'x' is computed"),
        ("y = Div (x, c)", np.float32([2, 0, 3]), "float", "no ordinary number"),
        ("y = Div (x, c)", np.float32([2, 3e38, 3]), "float", "no ordinary number"),
    ],
)
def test_other_divisions_stay(body: str, divisor: np.ndarray, dtype: str, reason: str) -> None:
    refuse("replace_div_with_mul", of_one(body, {"c": divisor}, dtype=dtype), reason)


GEMM = {"A": random(3, 4), "AT": random(4, 3), "b": random(4), "N": random(2, 4), "one": random(1)}


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        ("y = Gemm (x, A)", ["MatMul"]),
        ("y = Gemm (x, A, b)", ["MatMul", "Add"]),
        ("y = Gemm <transB = 1> (x, AT, b)", ["MatMul", "Add"]),
        ("y = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (x, AT, N)", ["MatMul", "Add"]),
        ("y = Gemm <beta = 0.0> (x, A, b)", ["MatMul"]),
        ("w = Abs (AT) y = Gemm <transB = 1, alpha = 2.0> (x, w, one)", ["Abs", "Transpose", "Mul", "MatMul", "Add"]),
        (
            "t = Transpose <perm = [1, 0]> (x) y = Gemm <transA = 1> (t, A, b)",
            ["Transpose", "Transpose", "MatMul", "Add"],
        ),
        ("k = Neg (AT) y = Gemm <transB = 1> (x, AT)", ["Transpose", "MatMul"]),
    ],
)
def test_gemms_become_products_and_sums(body: str, ops: list[str]) -> None:
    model = model_of(f"g (float[2,3] x) => (float[2,4] y) {{ {body} }}", GEMM)
    assert rewrite("replace_gemm_with_matmul", model, X).ops == ops


def test_a_matrix_that_others_read_is_transposed_as_the_model_runs() -> None:
    model = model_of(
        "g (float[2,3] x) => (float[2,4] y, float[4,3] k) { k = Neg (AT) y = Gemm <transB = 1> (x, AT) }", GEMM
    )
    assert rewrite("replace_gemm_with_matmul", model, X).ops == ["Neg", "Transpose", "MatMul"]


def test_a_scaled_gemm_of_integers_stays() -> None:
    model = model_of(
        "g (int64[2,3] x) => (int64[2,4] y) { y = Gemm <alpha = 2.0> (x, A) }", {"A": np.ones((3, 4), np.int64)}
    )
    refuse("replace_gemm_with_matmul", model, "not known to be one of floats")


def test_casts_like_another_tensor_name_the_type() -> None:
    model = model_of("g (int64[2,3] x, float[1] z) => (float[2,3] y) { y = CastLike (x, z) }")
    feeds = {"x": np.arange(6).reshape(2, 3), "z": np.float32([1])}
    after = rewrite("replace_castlike", model, feeds)
    assert [(node.op_type, node.attribute[0].i) for node in after.model.graph.node] == [("Cast", TensorProto.FLOAT)]


def test_a_cast_to_no_known_type_stays() -> None:
    text = (
        "g (int64[2,3] x, float[2,3] z) => (float[2,3] y) "
        "{ w = local.given (z) c = CastLike (x, w) y = Cast <to = 1> (c) }"
        '<domain: "local", opset_import: ["" : 17, "elsewhere" : 1]> given (a) => (b) { b = elsewhere.Unknown (a) }'
    )
    model = model_of(text)
    after = get_pass("replace_castlike").run(copy_of(model))
    assert [node.op_type for node in after.graph.node] == ["given", "CastLike", "Cast"]


@pytest.mark.parametrize("bounds", ["", ", low", ", , high"])
def test_bounds_that_are_left_out_are_written(bounds: str) -> None:
    model = of_one(f"y = Clip (x{bounds})", {"low": np.float32(0), "high": np.float32(1)})
    after = rewrite("replace_clip_empty_inputs", model, {"x": np.float32([[1, -2, 3], [-np.inf, np.inf, 0]])})
    assert len([name for name in after.model.graph.node[0].input if name]) == 3


def test_bounds_of_integers_are_theirs() -> None:
    after = rewrite(
        "replace_clip_empty_inputs", of_one("y = Clip (x)", dtype="int32"), {"x": np.ones((2, 3), np.int32)}
    )
    assert sorted(int(value) for value in after.weights.values()) == [-(2**31), 2**31 - 1]


def test_a_clip_with_both_bounds_stays() -> None:
    model = of_one("y = Clip (x, low, high)", {"low": np.float32(0), "high": np.float32(1)})
    refuse("replace_clip_empty_inputs", model, "has both bounds")


def test_a_clip_of_an_older_opset_stays() -> None:
    refuse("replace_clip_empty_inputs", of_one("y = Clip <min = 0.0> (x)", opset=10), "bounds are attributes")


@pytest.mark.parametrize(("name", "op"), [("greater", "GreaterOrEqual"), ("less", "LessOrEqual")])
def test_comparisons_with_equality_are_two(name: str, op: str) -> None:
    model = model_of(f"g (float[2,3] x, float[3] z) => (bool[2,3] y) {{ y = {op} (x, z) }}")
    feeds = {"x": np.float32([[1, 2, np.nan], [np.inf, -1, 3]]), "z": np.float32([1, 3, 3])}
    after = rewrite(f"replace_{name}_or_equal", model, feeds)
    assert after.ops == [name.title(), "Equal", "Or"]


def test_hardswish_is_a_gate_and_a_product() -> None:
    model = of_one("y = HardSwish (x)")
    assert rewrite("replace_hardswish", model, {"x": 4 * random(2, 3)}).ops == ["HardSigmoid", "Mul"]


@pytest.mark.parametrize(
    ("equation", "shapes", "ops"),
    [
        ("bqhd,bkhd->bhqk", [(2, 3, 4, 5), (2, 6, 4, 5)], ["Transpose", "Transpose", "MatMul"]),
        ("bhqk,bkhd->bqhd", [(2, 4, 3, 6), (2, 6, 4, 5)], ["Transpose", "MatMul", "Transpose"]),
        ("bsh,hk->bsk", [(2, 3, 4), (4, 5)], ["MatMul"]),
        ("ij , jk -> ik", [(2, 3), (3, 4)], ["MatMul"]),
        ("ij,jk->ki", [(2, 3), (3, 4)], ["MatMul", "Transpose"]),
        ("ji,kj->ik", [(3, 2), (4, 3)], ["Transpose", "Transpose", "MatMul"]),
    ],
)
def test_sums_over_an_axis_of_both_are_products(equation: str, shapes: list[tuple[int, ...]], ops: list[str]) -> None:
    left, right = (random(*shape, seed=seed) for seed, shape in enumerate(shapes))
    inputs = f"float[{_listed(left)}] a, float[{_listed(right)}] b"
    text = f'g ({inputs}) => (float[] y) {{ y = Einsum <equation = "{equation}"> (a, b) }}'
    after = rewrite("replace_einsum_with_matmul", model_of(text), {"a": left, "b": right})
    assert after.ops == ops


def _listed(values: np.ndarray) -> str:
    return ",".join(map(str, values.shape))


@pytest.mark.parametrize(
    ("equation", "reason"),
    [
        ("ij,jk->i", "does not sum over one axis of both"),
        ("ij,ij->", "does not sum over one axis of both"),
        ("ij,ij->i", "no axis of each operand alone"),
        ("ij,kl->ijkl", "does not sum over one axis of both"),
        ("...j,jk->...k", "all axes named"),
        ("ij,jk", "all axes named"),
        ("ii,ij->j", "names an axis twice"),
    ],
)
def test_other_sums_stay(equation: str, reason: str) -> None:
    text = f'g (float[3,3] a, float[3,3] b) => (float[] y) {{ y = Einsum <equation = "{equation}"> (a, b) }}'
    refuse("replace_einsum_with_matmul", model_of(text), reason)

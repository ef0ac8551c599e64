"""Products of one tensor become one; attention's queries, keys and values do; factors go into matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from passes.errors import RewriteError
from passes.manager import PassManager
from passes.registry import get_pass
from tests.passes.rewritten import model_of, random, refuse, rewrite

H, S = 8, 5
WEIGHTS: dict[str, Any] = {
    "Q": random(H, H), "K": random(H, H, seed=1), "V": random(H, H, seed=2), "N": random(H, 3, seed=3),
    "O": random(3, H),
    "q": random(H, seed=4), "k": random(H, seed=5), "v": random(H, seed=6), "n": random(3, seed=7), "row": random(1, H),
    "heads": np.array([0, 0, 2, 4]), "whole": np.array([0, 0, H]), "root": np.float32(2), "scale": np.float32(0.5),
    "two": np.float32([2]), "columns": random(H, seed=8), "grid": random(S, H, seed=9),
}  # fmt: skip
FEEDS = {"x": random(2, S, H, seed=10), "z": random(2, S, H, seed=11)}


def graph(body: str, outputs: str = f"float[2,{S},{H}] y", opset: int = 17) -> onnx.ModelProto:
    inputs = f"float[2,{S},{H}] x, float[2,{S},{H}] z"
    return model_of(f"g ({inputs}) => ({outputs}) {{ {body} }}", WEIGHTS, opset=opset)


def attention(scaled: str = "Div (s, root)", *, biased: str = "qkv", keys_of: str = "x") -> str:
    """Self-attention of two heads, as exporters spell it."""
    lines = []
    for part, data in (("q", "x"), ("k", keys_of), ("v", keys_of)):
        name = part.upper()
        lines.append(f"{part}0 = MatMul ({data}, {name})")
        lines.append(f"{part}1 = Add ({part}0, {part})" if part in biased else f"{part}1 = Identity ({part}0)")
        perm = "[0, 2, 3, 1]" if part == "k" else "[0, 2, 1, 3]"
        lines.append(f"{part}2 = Reshape ({part}1, heads) {part}3 = Transpose <perm = {perm}> ({part}2)")
    lines.append(f"s = MatMul (q3, k3) t = {scaled} p = Softmax <axis = -1> (t) c = MatMul (p, v3)")
    lines.append("c1 = Transpose <perm = [0, 2, 1, 3]> (c) y = Reshape (c1, whole)")
    return "\n".join(lines)


TWO = "a = MatMul (x, Q) b = MatMul (x, K) y = Add (a, b)"


def test_products_of_one_tensor_become_one() -> None:
    after = rewrite("merge_matmul", graph(TWO), FEEDS)
    assert after.ops == ["MatMul", "Split", "Add"]
    assert (H, 2 * H) in [values.shape for values in after.weights.values()]


def test_products_of_different_widths_become_one() -> None:
    body = "a = MatMul (x, N) b = MatMul (x, K) c = MatMul (a, O) y = Add (c, b)"
    assert rewrite("merge_matmul", graph(body), FEEDS).ops == ["MatMul", "Split", "MatMul", "Add"]


def test_results_that_are_outputs_keep_their_names() -> None:
    after = rewrite("merge_matmul", graph(TWO, f"float[2,{S},{H}] a, float[2,{S},{H}] b, float[2,{S},{H}] y"), FEEDS)
    assert after.ops == ["MatMul", "Split", "Add"]


def test_a_bias_is_merged_where_all_have_one() -> None:
    body = "a0 = MatMul (x, Q) a = Add (a0, q) b0 = MatMul (x, K) b = Add (k, b0) y = Mul (a, b)"
    assert rewrite("merge_matmul_add", graph(body), FEEDS).ops == ["MatMul", "Add", "Split", "Mul"]


def test_those_that_are_named_are_merged() -> None:
    model = graph("a = MatMul (x, Q) b = MatMul (x, K) c = MatMul (x, V) d = Add (a, b) y = Add (c, d)")
    for node, name in zip(model.graph.node, ("one", "two", "three", "four", "five"), strict=True):
        node.name = name
    after = rewrite("merge_matmul", model, FEEDS, "one, three")
    assert sorted(after.ops) == ["Add", "Add", "MatMul", "MatMul", "Split"]


def test_a_name_that_there_is_not_is_an_error() -> None:
    with pytest.raises(RewriteError, match="'nine': no node has this name"):
        PassManager([get_pass("merge_matmul", "nine")]).run(graph(TWO))


@pytest.mark.parametrize(("name", "words"), [("merge_matmul", "first"), ("merge_matmul_add", "first,second")])
def test_names_of_fewer_than_two_products_are_told(name: str, words: str) -> None:
    model = graph(TWO)
    model.graph.node[0].name, model.graph.node[1].name = "first", "second"
    refuse(name, model, "no two of the named nodes", words)


def test_names_of_different_tensors_are_refused() -> None:
    model = graph("a = MatMul (x, Q) b = MatMul (z, K) y = Add (a, b)")
    model.graph.node[0].name, model.graph.node[1].name = "one", "two"
    refuse("merge_matmul", model, "of different tensors", ["one", "two"])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("a = MatMul (x, Q) b = MatMul (x, Q) y = Add (a, b)", "matrix 'Q' is read by other nodes"),
        ("a = MatMul (x, Q) b = MatMul (x, K) c = MatMul (z, K) d = Add (a, b) y = Add (c, d)", "'K' is read by other"),
    ],
)
def test_shared_matrices_stay(body: str, reason: str) -> None:
    refuse("merge_matmul", graph(body), reason)


def test_what_is_computed_is_no_matrix_to_merge() -> None:
    model = graph("w = Abs (Q) a = MatMul (x, w) b = MatMul (x, K) y = Add (a, b)")
    assert rewrite("merge_matmul", model, FEEDS).ops == ["Abs", "MatMul", "MatMul", "Add"]


def test_an_older_opset_has_no_split_by_sizes() -> None:
    refuse("merge_matmul", graph(TWO, opset=11), "since opset 13, the model has 11")


@pytest.mark.parametrize("biased", ["qkv", "qv", ""])
def test_queries_keys_and_values_are_one_product(biased: str) -> None:
    after = rewrite("fused_attention", graph(attention(biased=biased)), FEEDS)
    assert after.ops.count("MatMul") == 3
    assert after.ops.count("Split") == 1
    assert (H, 3 * H) in [values.shape for values in after.weights.values()]


def test_attention_over_another_tensor_stays() -> None:
    refuse("fused_attention", graph(attention(keys_of="z")), "the products are of different tensors")


def test_a_softmax_that_is_no_attention_is_told() -> None:
    refuse("fused_attention", graph("y = Softmax <axis = -1> (x)"), "between no product of queries and keys")


def test_an_intermediate_product_that_is_an_output_stays() -> None:
    outputs = f"float[2,{S},{H}] y, float[2,{S},{H}] k0"
    refuse("fused_attention", graph(attention(), outputs), "'k0' is read elsewhere")


def test_shared_projections_stay() -> None:
    body = attention().replace("MatMul (x, K)", "MatMul (x, Q)")
    refuse("fused_attention", graph(body), "'Q' is read by other nodes")


@pytest.mark.parametrize("scaled", ["Div (s, root)", "Mul (s, scale)", "Mul (scale, s)"])
def test_the_scale_of_scores_goes_into_the_queries_projection(scaled: str) -> None:
    model = graph(attention(scaled))
    after = rewrite("pre_scale", model, FEEDS)
    assert sorted(after.ops) == sorted(node.op_type for node in model.graph.node if node.output[0] != "t")
    assert np.allclose(after.weights["Q_scaled"], WEIGHTS["Q"] / 2)


def test_queries_are_scaled_where_their_projection_is_shared() -> None:
    body = attention().replace("y =", "y0 =") + " e = MatMul (x, Q) y = Add (y0, e)"
    after = rewrite("pre_scale", graph(body), FEEDS)
    assert "Div" not in after.ops
    assert after.ops.count("Mul") == 1


def test_queries_are_scaled_where_they_are_an_output() -> None:
    after = rewrite("pre_scale", graph(attention(), f"float[2,{S},{H}] y, float[2,2,{S},4] q3"), FEEDS)
    assert after.ops.count("Mul") == 1


def test_queries_are_scaled_where_they_are_the_keys_too() -> None:
    body = attention().replace("MatMul (q3, k3)", "MatMul (q3, q3)")
    model = model_of(f"g (float[2,4,{H}] x) => (float[2,4,{H}] y) {{ {body} }}", WEIGHTS)
    after = rewrite("pre_scale", model, {"x": random(2, 4, H)})
    assert after.ops.count("Mul") == 1


@pytest.mark.parametrize(
    ("scaled", "outputs", "reason"),
    [
        ("Identity (s)", "", "not scaled by a constant number"),
        ("Mul (s, s)", "", "not scaled by a constant number"),
        ("Div (s, root)", f", float[2,2,{S},{S}] s", "'s' are read elsewhere"),
    ],
)
def test_scores_that_are_not_scaled_or_are_read_stay(scaled: str, outputs: str, reason: str) -> None:
    refuse("pre_scale", graph(attention(scaled), f"float[2,{S},{H}] y{outputs}"), reason)


@pytest.mark.parametrize("factor", ["Mul (a, scale)", "Mul (two, a)", "Div (a, root)", "Mul (a, columns)"])
def test_a_factor_goes_into_the_matrix(factor: str) -> None:
    assert rewrite("fuse_mul_into_matmul", graph(f"a = MatMul (x, Q) y = {factor}"), FEEDS).ops == ["MatMul"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("a = MatMul (x, Q) f = Abs (scale) y = Mul (a, f)", "factor 'f' is computed"),
        ("a = MatMul (x, Q) y = Mul (a, grid)", "neither a number nor one a column"),
        ("a = MatMul (x, z1) y = Mul (a, scale)", "matrix 'z1' is computed"),
        ("a = MatMul (x, Q) b = MatMul (x, Q) c = Mul (a, scale) y = Add (b, c)", "'Q' is read by other nodes"),
        ("a = MatMul (x, Q) c = Mul (a, scale) y = Add (a, c)", "'a' is read elsewhere"),
        ("y = Mul (x, scale)", "it scales no product"),
        ("a = MatMul (x, Q) y = Div (scale, a)", "it scales no product"),
    ],
)
def test_factors_that_stay_say_why(body: str, reason: str) -> None:
    prefix = "z1 = Abs (Q) " if "z1" in body else ""
    refuse("fuse_mul_into_matmul", graph(prefix + body), reason)


def test_factors_behind_factors_go_into_the_matrix() -> None:
    body = "a = MatMul (x, Q) b = Mul (a, scale) c = Mul (b, columns) y = Div (c, root)"
    assert rewrite("fuse_mul_into_matmul", graph(body), FEEDS).ops == ["MatMul"]


@pytest.mark.parametrize(("weight", "factor"), [(3e4, 4.0), (1e-3, 1e-4)])
def test_a_factor_that_the_type_of_the_matrix_has_no_room_for_stays(weight: float, factor: float) -> None:
    weights = {"W": np.full((3, 2), weight, np.float16), "f": np.float16(factor)}
    model = model_of("g (float16[4,3] x) => (float16[4,2] y) { a = MatMul (x, W) y = Mul (a, f) }", weights)
    refuse("fuse_mul_into_matmul", model, "out of the range of float16")

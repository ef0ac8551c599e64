"""Operators that do nothing go, two in a row become one, inputs and initializers move where they belong."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.passes.rewrites import ops
from tests.passes.rewritten import model_of, random, refuse, rewrite

X = {"x": random(2, 3)}
NUMBERS: dict[str, Any] = {
    "zero": np.float32(0), "one": np.float32(1), "two": np.float32([2]), "three": np.float32(3),
    "wide": np.float32([[[1]]]),
    "row": random(3), "ones": np.array([1, 1]), "shape": np.array([2, 3]), "grown": np.array([4, 2, 3]),
    "none": np.zeros(4, np.int64), "some": np.array([0, 0, 0, 1]), "flat": np.array([6]), "tall": np.array([3, 2]),
    "same": np.array([0, 3]), "a0": np.array([0]), "a1": np.array([1]), "a2": np.array([2]), "last": np.array([-1]),
}  # fmt: skip


def of_one(body: str, shape: str = "2,3", *, outputs: str = "float[] y", opset: int = 17) -> onnx.ModelProto:
    return model_of(f"g (float[{shape}] x) => ({outputs}) {{ {body} }}", NUMBERS, opset=opset)


@pytest.mark.parametrize(
    ("name", "nothing"),
    [
        ("arithmetic", "Add (a, zero)"), ("arithmetic", "Add (zero, a)"), ("arithmetic", "Sub (a, zero)"),
        ("arithmetic", "Mul (a, one)"), ("arithmetic", "Mul (one, a)"), ("arithmetic", "Div (a, one)"),
        ("arithmetic", "Pow (a, one)"), ("expand", "Expand (a, ones)"), ("expand", "Expand (a, shape)"),
        ("flatten", "Flatten (a)"), ("pad", "Pad (a, none)"),
    ],
)  # fmt: skip
def test_what_does_nothing_goes(name: str, nothing: str) -> None:
    model = of_one(f"a = Neg (x) b = {nothing} y = Abs (b)", outputs="float[2,3] y")
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", TensorProto.FLOAT, [2, 3]))
    assert rewrite(f"eliminate_nop_{name}", model, X).ops == ["Neg", "Abs"]


@pytest.mark.parametrize(
    ("name", "something"),
    [
        ("arithmetic", "Add (a, one)"), ("arithmetic", "Sub (zero, a)"), ("arithmetic", "Div (one, a)"),
        ("arithmetic", "Mul (a, wide)"), ("arithmetic", "Mul (a, a)"), ("expand", "Expand (a, grown)"),
        ("flatten", "Flatten <axis = 0> (a)"), ("pad", "Pad (a, some)"),
    ],
)  # fmt: skip
def test_what_does_something_stays(name: str, something: str) -> None:
    model = of_one(f"a = Neg (x) b = {something} y = Abs (b)")
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", TensorProto.FLOAT, [2, 3]))
    assert len(rewrite(f"eliminate_nop_{name}", model, X).ops) == 3


def test_a_sum_with_zero_that_links_an_input_and_an_output_stays() -> None:
    refuse(
        "eliminate_nop_arithmetic", of_one("y = Add (x, zero)", outputs="float[2,3] y"), "comes straight from an input"
    )


BRANCHES = (
    "y = If (c) <then_branch = t () => (float[2,3] y1) { a = Neg (x) y1 = Abs (a) }, "
    "else_branch = e () => (float[2,3] y2) { y2 = Relu (x) }>"
)


@pytest.mark.parametrize("name", ["eliminate_nop_if", "expand_if"])
@pytest.mark.parametrize(("truth", "expected"), [(True, ["Neg", "Abs"]), (False, ["Relu"])])
def test_the_branch_of_a_constant_condition_takes_the_place_of_its_if(
    name: str, truth: bool, expected: list[str]
) -> None:
    model = model_of(f"g (float[2,3] x) => (float[2,3] y) {{ {BRANCHES} }}", {"c": np.array(truth)})
    after = rewrite(name, model, X)
    assert [op for op in after.ops if op != "Identity"] == expected


def test_a_condition_that_is_computed_stays() -> None:
    model = model_of(f"g (float[2,3] x, bool c) => (float[2,3] y) {{ {BRANCHES} }}")
    refuse("eliminate_nop_if", model, "condition 'c' is computed")


@pytest.mark.parametrize(
    ("name", "body", "shape", "left"),
    [
        ("reshape", "a = Reshape (x, tall) b = Reshape (a, flat) y = Reshape (b, shape)", "2,3", ["Reshape"]),
        (
            "transpose",
            "a = Transpose <perm = [1, 0, 2]> (x) y = Transpose <perm = [2, 0, 1]> (a)",
            "2,3,4",
            ["Transpose"],
        ),
        ("squeeze", "a = Squeeze (x, a0) y = Squeeze (a, a1)", "1,2,1,3", ["Squeeze"]),
        ("unsqueeze", "a = Unsqueeze (x, a1) y = Unsqueeze (a, a1)", "2,3", ["Unsqueeze"]),
        ("unsqueeze", "a = Unsqueeze (x, a2) y = Unsqueeze (a, a0)", "2,3", ["Unsqueeze"]),
        ("arithmetic", "a = Add (x, two) b = Add (three, a) y = Add (b, row)", "2,3", ["Add"]),
        ("arithmetic", "a = Mul (two, x) y = Mul (a, three)", "2,3", ["Mul"]),
        ("cast", "a = Cast <to = 11> (x) y = Cast <to = 1> (a)", "2,3", ["Cast"]),
    ],
)
def test_two_of_a_kind_become_one(name: str, body: str, shape: str, left: list[str]) -> None:
    feeds = {"x": random(*map(int, shape.split(",")))}
    assert rewrite(f"fuse_consecutive_{name}", of_one(body, shape), feeds).ops == left


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("reshape", "a = Reshape (x, tall) y = Reshape (a, same)", "says that an extent stays"),
        ("transpose", "a = Transpose (x) y = Transpose <perm = [1, 0]> (a)", "reverses the axes"),
        ("unsqueeze", "a = Unsqueeze (x, last) y = Unsqueeze (a, a0)", "counted from the end"),
        ("arithmetic", "f = Abs (two) a = Mul (x, f) y = Mul (a, three)", "no small constant"),
        ("cast", "a = Cast <to = 7> (x) y = Cast <to = 1> (a)", "may change values"),
        ("transpose", "a = Turn (x) b = Turn (a) c = Turn (a) d = Neg (c) y = Add (b, b)", "read elsewhere"),
    ],
)  # fmt: skip
def test_two_that_are_not_one_stay(name: str, body: str, reason: str) -> None:
    outputs = "float[] y, float[] d" if "d =" in body else "float[] y"
    model = of_one(body.replace("Turn", "Transpose <perm = [1, 0]>"), outputs=outputs)
    refuse(f"fuse_consecutive_{name}", model, reason)


def test_a_result_between_that_is_an_output_stays() -> None:
    model = of_one("a = Mul (x, two) y = Mul (a, three)", outputs="float[] a, float[] y")
    refuse("fuse_consecutive_arithmetic", model, "'a', is read elsewhere")


def test_axes_as_attributes_stay_attributes() -> None:
    model = of_one("a = Squeeze <axes = [0]> (x) y = Squeeze <axes = [1]> (a)", "1,2,1,3", opset=11)
    after = rewrite("fuse_consecutive_squeeze", model, {"x": random(1, 2, 1, 3)})
    assert list(after.model.graph.node[0].attribute[0].ints) == [0, 2]


TABLE = {"T": random(10, 4), "two": np.float32(2)}


@pytest.mark.parametrize(("kind", "to"), [("float", TensorProto.INT32), ("float16", TensorProto.INT64)])
def test_an_input_that_is_an_index_becomes_one(kind: str, to: int) -> None:
    model = model_of(f"g ({kind}[2,3] x) => (float[2,3,4] y) {{ i = Cast <to = {to}> (x) y = Gather (T, i) }}", TABLE)
    ids = np.array([[1, 2, 3], [9, 8, 7]])
    feeds = {"x": ids.astype("float32" if kind == "float" else kind)}
    after = rewrite("remove_input_cast", model, feeds, after_feeds={"x": ids.astype(np.int32)})
    assert after.ops == ["Gather"]
    assert after.model.graph.input[0].type.tensor_type.elem_type == TensorProto.INT32


def test_an_index_of_integers_keeps_its_type() -> None:
    model = model_of("g (int64[2] x) => (float[2,4] y) { i = Cast <to = 6> (x) y = Gather (T, i) }", TABLE)
    after = rewrite("remove_input_cast", model, {"x": np.array([3, 4])})
    assert after.ops == ["Gather"]
    assert after.model.graph.input[0].type.tensor_type.elem_type == TensorProto.INT64


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        (
            "float",
            "i = Cast <to = 7> (x) z = Gather (T, i) u = Mul (x, two) w = ReduceSum (u) y = Mul (z, w)",
            "as what it is",
        ),
        ("float", "i = Cast <to = 7> (x) z = Gather (T, i) j = Add (i, i) y = Gather (T, j)", "more than the index"),
        ("float", "i = Cast <to = 7> (x) y = Gather (i, i)", "more than the index"),
        ("uint8", "i = Cast <to = 7> (x) y = Gather (T, i)", "no type that stands for an index"),
    ],
)
def test_inputs_that_are_more_than_indices_stay(kind: str, body: str, reason: str) -> None:
    refuse("remove_input_cast", model_of(f"g ({kind}[3] x) => (float[] y) {{ {body} }}", TABLE), reason)


def test_initializers_of_branches_move_to_the_main_graph() -> None:
    model = model_of(
        "g (float[2,3] x, bool c) => (float[2,3] y) { y = If (c) "
        "<then_branch = t () => (float[2,3] y1) <float[3] w = {1, 2, 3}> { y1 = Mul (x, w) }, "
        "else_branch = e () => (float[2,3] y2) <float[3] w = {4, 5, 6}> { y2 = Mul (x, w) }> }"
    )
    for truth in (True, False):
        after = rewrite("move_subgraph_initializer", model, {**X, "c": np.array(truth)})
    assert len(after.model.graph.initializer) == 2
    assert not any(attribute.g.initializer for attribute in after.model.graph.node[0].attribute)


def test_empty_operands_of_a_concat_go() -> None:
    model = model_of("g (float[2,3] x, float[2,0] e) => (float[2,6] y) { y = Concat <axis = 1> (x, e, x) }")
    after = rewrite("remove_empty_concat_inputs", model, {**X, "e": np.zeros((2, 0), np.float32)})
    assert list(after.model.graph.node[0].input) == ["x", "x"]


def test_a_concat_of_nothing_stays() -> None:
    model = model_of("g (float[2,0] e) => (float[2,0] y) { y = Concat <axis = 1> (e, e) }")
    refuse("remove_empty_concat_inputs", model, "all of its operands are empty")
    assert ops(model) == ["Concat"]

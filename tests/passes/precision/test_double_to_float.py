"""Every float64 becomes float32, in subgraphs and functions as well, or nothing does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from passes import get_pass
from tests import numerics
from tests.passes.rewrites import copy_of, parse
from tests.passes.rewritten import model_of, random, refuse

DOUBLE = {"W": random(3, 4, dtype=np.float64), "two": np.float64(2)}


def in_float(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The model in float32, whose numbers must be those of ``model`` but for rounding."""
    after = get_pass("double_to_float").run(copy_of(model))
    onnx.checker.check_model(after, full_check=True)
    assert get_pass("double_to_float").run(copy_of(after)).SerializeToString() == after.SerializeToString()
    assert str(TensorProto.DOUBLE) not in {str(value.type.tensor_type.elem_type) for value in after.graph.value_info}
    single = {name: value.astype(np.float32) if value.dtype == np.float64 else value for name, value in feeds.items()}
    expected, actual = numerics.run(model, feeds), numerics.run(after, single)
    for name, values in expected.items():
        assert actual[name].dtype == (np.float32 if values.dtype == np.float64 else values.dtype)
        np.testing.assert_allclose(actual[name], values, rtol=1e-5, atol=1e-6)
    return after


@pytest.mark.parametrize(
    "body",
    [
        "a = MatMul (x, W) y = Mul (a, two)",
        "f = Cast <to = 1> (x) d = Cast <to = 11> (f) y = MatMul (d, W)",
        "c = Constant <value = double {3}> () a = MatMul (x, W) y = Add (a, c)",
        "s = Shape (W) r = ConstantOfShape <value = double[1] {1.5}> (s) y = MatMul (x, r)",
    ],
)
def test_numbers_become_float(body: str) -> None:
    model = model_of(f"g (double[2,3] x) => (double[2,4] y) {{ {body} }}", DOUBLE)
    after = in_float(model, {"x": random(2, 3, dtype=np.float64)})
    assert [value.type.tensor_type.elem_type for value in (*after.graph.input, *after.graph.output)] == [1, 1]


def test_branches_and_functions_do_too() -> None:
    text = (
        "g (double[2,3] x, bool c) => (double[2,3] y) { y = If (c) <then_branch = t () => (double[2,3] y1) "
        "<double[3] w = {1, 2, 3}> { y1 = Mul (x, w) }, "
        "else_branch = e () => (double[2,3] y2) { y2 = local.twice (x) }> }"
        '<domain: "local", opset_import: ["" : 17]> twice (a) => (b) '
        "{ two = Constant <value = double {2}> () b = Mul (a, two) }"
    )
    model = parse(text)
    for truth in (True, False):
        in_float(model, {"x": random(2, 3, dtype=np.float64), "c": np.array(truth)})


def test_a_weight_beyond_float_leaves_all_as_it_is() -> None:
    model = model_of(
        "g (double[2] x) => (double[2] y) { a = Mul (x, big) y = Mul (a, two) }",
        {**DOUBLE, "big": np.float64([1e300, 1])},
    )
    refuse("double_to_float", model, "big: holds finite values beyond float32")


def test_infinity_stays_infinity() -> None:
    model = model_of("g (double[2] x) => (double[2] y) { y = Min (x, big) }", {"big": np.float64([np.inf, 1])})
    in_float(model, {"x": np.float64([3, 4])})


def test_an_operator_that_nobody_knows_leaves_all_as_it_is() -> None:
    model = parse("g (double[2] x) => (double[2] y) { a = elsewhere.Sharpen (x) y = Neg (a) }")
    model.opset_import.append(onnx.helper.make_opsetid("elsewhere", 1))
    refuse("double_to_float", model, "an operator of elsewhere may take float64 alone")


def test_a_model_without_float64_stays() -> None:
    model = model_of("g (float[2] x) => (float[2] y) { y = Neg (x) }")
    assert (
        get_pass("double_to_float").run(copy_of(model)).SerializeToString()
        == get_pass("sort_graph").run(model).SerializeToString()
    )

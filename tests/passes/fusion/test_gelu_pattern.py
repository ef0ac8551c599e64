"""GELU in its tanh form is found in every spelling, and nothing else is taken for it."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from poprt.converter import Converter
from tests.passes.rewrites import ops
from tests.passes.rewritten import model_of, random, refuse, rewrite

CONSTANTS = {
    "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "c": 0.044715, "root": math.sqrt(2 / math.pi), "quarter": 0.25,
}  # fmt: skip
INNER = "p = Pow (x, three) q = Mul (p, c) s = Add (x, q) t = Mul (s, root) h = Tanh (t) "
SPELLINGS = {
    "x * half last": INNER + "a = Add (h, one) m = Mul (x, a) y = Mul (m, half)",
    "half of x first": INNER + "a = Add (one, h) w = Mul (half, x) y = Mul (w, a)",
    "divided by two": INNER + "a = Add (h, one) m = Mul (a, x) y = Div (m, two)",
    "a product of three": "p = Mul (x, x) q = Mul (p, x) r = Mul (c, q) s = Add (r, x) t = Mul (root, s) h = Tanh (t) "
    "a = Add (h, one) w = Mul (a, half) y = Mul (x, w)",
    "x outside of the sum": "p = Mul (x, x) q = Mul (p, c) r = Add (q, one) w = Mul (x, root) t = Mul (w, r) "
    "h = Tanh (t) a = Add (h, one) m = Mul (x, a) y = Mul (m, half)",
    "multiplied out": INNER + "w = Mul (x, half) m = Mul (w, h) y = Add (m, w)",
}
OTHERS = {
    "another root": INNER.replace("root", "half") + "a = Add (h, one) m = Mul (x, a) y = Mul (m, half)",
    "another factor": INNER + "a = Add (h, one) m = Mul (z, a) y = Mul (m, half)",
    "another power": INNER.replace("three", "two") + "a = Add (h, one) m = Mul (x, a) y = Mul (m, half)",
    "a quarter": INNER + "a = Add (h, one) m = Mul (x, a) y = Mul (m, quarter)",
    "a factor that is computed": INNER + "f = Abs (half) a = Add (h, one) m = Mul (x, a) y = Mul (m, f)",
    "no gate": INNER + "y = Mul (x, h)",
    "a part that is read": INNER + "a = Add (h, one) m = Mul (x, a) y = Mul (m, half) k = Neg (a)",
}


def gelu(body: str, outputs: str = "float[3,4] y", opset: int = 17, rank: int = 0) -> onnx.ModelProto:
    weights = {name: np.full([1] * rank, value, np.float32) for name, value in CONSTANTS.items()}
    return model_of(f"g (float[3,4] x, float[3,4] z) => ({outputs}) {{ {body} }}", weights, opset=opset)


FEEDS = {"x": 3 * random(3, 4), "z": random(3, 4, seed=1)}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("opset", "op"), [(13, "FastGelu"), (20, "Gelu")])
def test_every_spelling_becomes_one_node(spelling: str, opset: int, op: str) -> None:
    after = rewrite("gelu_pattern", gelu(SPELLINGS[spelling], opset=opset), FEEDS)
    assert after.ops == [op]


def test_constants_of_one_axis_count_too() -> None:
    assert rewrite("gelu_pattern", gelu(SPELLINGS["x * half last"], rank=1), FEEDS).ops == ["FastGelu"]


@pytest.mark.parametrize("other", OTHERS)
def test_what_only_looks_like_it_stays(other: str) -> None:
    outputs = "float[3,4] y, float[3,4] k" if "k = " in OTHERS[other] else "float[3,4] y"
    refuse("gelu_pattern", gelu(OTHERS[other], outputs), "Tanh 'h': it is not part of x * (1 + tanh")


def test_an_intermediate_result_that_is_an_output_stays() -> None:
    refuse("gelu_pattern", gelu(SPELLINGS["x * half last"], "float[3,4] y, float[3,4] h"), "not part of")


def test_one_in_a_subgraph_is_found() -> None:
    body = SPELLINGS["x * half last"]
    model = gelu(
        f"y = If (b) <then_branch = t () => (float[3,4] y1) {{ {body.replace('y =', 'y1 =')} }}, "
        "else_branch = e () => (float[3,4] y2) { y2 = Neg (x) }>"
    )
    model.graph.input.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.BOOL, []))
    after = rewrite("gelu_pattern", model, {**FEEDS, "b": np.array(True)})
    assert [node.op_type for node in after.model.graph.node[0].attribute[0].g.node] == ["FastGelu"]


def test_a_branch_that_an_outer_node_reads_into_stays() -> None:
    body = INNER + "a = Add (h, one) m = Mul (x, a) y0 = Mul (m, half) "
    model = gelu(
        body + "k = If (b) <then_branch = t () => (float[3,4] k1) { k1 = Neg (a) }, "
        "else_branch = e () => (float[3,4] k2) { k2 = Neg (x) }> y = Add (y0, k)"
    )
    model.graph.input.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.BOOL, []))
    refuse("gelu_pattern", model, "not part of")


@pytest.mark.parametrize(("opset", "op"), [(13, "FastGelu"), (20, "Gelu")])
def test_what_stays_float_in_a_model_of_float16_is_no_obstacle(opset: int, op: str) -> None:
    converter = Converter(precision="fp16", used_passes=["gelu_pattern"], check=True)
    assert ops(converter.convert(gelu(SPELLINGS["x * half last"], opset=opset))) == [op]
    assert converter.verification is not None
    assert converter.verification.passed


def test_a_scalar_stays_where_the_operator_takes_none() -> None:
    model = gelu(SPELLINGS["x * half last"])
    for value in (*model.graph.input, *model.graph.output):
        del value.type.tensor_type.shape.dim[:]
    refuse("gelu_pattern", model, "takes no scalar")

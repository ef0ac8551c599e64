"""A layer norm is found in every spelling, and nothing else is taken for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from poprt.converter import Converter
from tests.passes.rewrites import ops
from tests.passes.rewritten import model_of, random, refuse, rewrite

H = 8
WEIGHTS: dict[str, Any] = {
    "epsilon": np.float32(1e-5), "two": np.float32(2), "half": np.float32(0.5),
    "scale": random(H), "shift": random(H, seed=1),
    "one_scale": random(1, 1, H), "table": random(3, H), "four": np.array([4], np.int64),
}  # fmt: skip
DEVIATION = (
    "m = ReduceMean <axes = [-1]> (x) d = Sub (x, m) q = Pow (d, two) v = ReduceMean <axes = [-1]> (q) "
    "e = Add (v, epsilon) r = Sqrt (e) "
)
SPELLINGS = {
    "of torch": DEVIATION + "n = Div (d, r) a = Mul (n, scale) y = Add (a, shift)",
    "the shift first": DEVIATION + "n = Div (d, r) a = Mul (scale, n) y = Add (shift, a)",
    "a square by product": DEVIATION.replace("Pow (d, two)", "Mul (d, d)")
    + "n = Div (d, r) a = Mul (n, scale) y = Add (a, shift)",
    "two differences": DEVIATION + "d2 = Sub (x, m) n = Div (d2, r) a = Mul (n, scale) y = Add (a, shift)",
    "a reciprocal": DEVIATION + "i = Reciprocal (r) n = Mul (d, i) a = Mul (n, scale) y = Add (a, shift)",
    "of tensorflow": DEVIATION + "i = Reciprocal (r) f = Mul (i, scale) xf = Mul (x, f) mf = Mul (m, f) "
    "b = Sub (shift, mf) y = Add (xf, b)",
    "no shift": DEVIATION + "n = Div (d, r) y = Mul (n, scale)",
    "no scale": DEVIATION + "n = Div (d, r) y = Add (n, shift)",
    "neither": DEVIATION + "y = Div (d, r)",
    "a scale of three axes": DEVIATION + "n = Div (d, r) a = Mul (n, one_scale) y = Add (a, shift)",
    "the last axis by its number": DEVIATION.replace("-1", "2")
    + "n = Div (d, r) a = Mul (n, scale) y = Add (a, shift)",
}
OTHERS = {
    "another axis": (DEVIATION.replace("-1", "1") + "n = Div (d, r) y = Mul (n, scale)", "not over the last axis"),
    "a mean of another": (DEVIATION.replace("(x)", "(z)") + "n = Div (d, r) y = Mul (n, scale)", "no variance"),
    "no square": (DEVIATION.replace("Pow (d, two)", "Mul (d, two)") + "y = Div (d, r)", "no variance"),
    "an epsilon that is computed": (
        DEVIATION.replace("(v, epsilon)", "(v, w)").replace("m =", "w = Abs (epsilon) m =") + "y = Div (d, r)",
        "no root of a variance and an epsilon",
    ),
    "something else divided": (DEVIATION + "n = Div (z, r) y = Mul (n, scale)", "not (x - mean) / deviation"),
    "a deviation that is read": (DEVIATION + "n = Div (d, r) k = Neg (r) y = Mul (n, k)", "something else reads"),
}  # fmt: skip
FEEDS = {"x": random(2, 3, H, seed=2), "z": random(2, 3, H, seed=3)}


def norm(body: str, outputs: str = f"float[2,3,{H}] y", opset: int = 17, x: str = f"float[2,3,{H}]") -> onnx.ModelProto:
    return model_of(f"g ({x} x, float[2,3,{H}] z) => ({outputs}) {{ {body} }}", WEIGHTS, opset=opset)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_becomes_one_node(spelling: str) -> None:
    after = rewrite("layer_norm_pattern", norm(SPELLINGS[spelling]), FEEDS)
    assert after.ops == ["LayerNormalization"]


def test_open_extents_are_told_by_the_scale() -> None:
    after = rewrite("layer_norm_pattern", norm(SPELLINGS["of torch"], x="float[b,s,h]"), FEEDS)
    assert after.ops == ["LayerNormalization"]


def test_without_a_scale_open_extents_tell_nothing() -> None:
    refuse("layer_norm_pattern", norm(SPELLINGS["neither"], x="float[b,s,h]"), "along its last axis is not known")


def test_what_is_added_to_each_place_is_no_shift() -> None:
    body = SPELLINGS["of torch"].replace("y =", "n2 =") + " y = Add (n2, table)"
    assert rewrite("layer_norm_pattern", norm(body), FEEDS).ops == ["LayerNormalization", "Add"]


def test_what_is_computed_is_no_scale() -> None:
    body = DEVIATION + "n = Div (d, r) w = Abs (scale) y = Mul (n, w)"
    assert "LayerNormalization" in rewrite("layer_norm_pattern", norm(body), FEEDS).ops  # of what stands before it


@pytest.mark.parametrize("other", OTHERS)
def test_what_only_looks_like_it_stays(other: str) -> None:
    body, reason = OTHERS[other]
    refuse("layer_norm_pattern", norm(body), reason)


def test_an_intermediate_result_that_is_an_output_stays_computed() -> None:
    after = rewrite("layer_norm_pattern", norm(SPELLINGS["of torch"], f"float[2,3,{H}] y, float[2,3,{H}] n"), FEEDS)
    assert after.ops == ["LayerNormalization", "Mul", "Add"]


def test_an_older_opset_has_no_such_operator() -> None:
    refuse("layer_norm_pattern", norm(SPELLINGS["of torch"], opset=13), "needs opset 17, the model has 13")


def test_axes_may_be_an_input() -> None:
    body = SPELLINGS["of torch"].replace("<axes = [-1]> (x)", "(x, last)").replace("<axes = [-1]> (q)", "(q, last)")
    model = norm(body, opset=18)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), "last"))
    assert rewrite("layer_norm_pattern", model, FEEDS).ops == ["LayerNormalization"]


@pytest.mark.parametrize("spelling", ["of torch", "of tensorflow", "neither"])
def test_what_stays_float_in_a_model_of_float16_is_no_obstacle(spelling: str) -> None:
    converter = Converter(precision="fp16", used_passes=["layer_norm_pattern"], check=True)
    assert ops(converter.convert(norm(SPELLINGS[spelling]))) == ["LayerNormalization"]
    assert converter.verification is not None
    assert converter.verification.passed

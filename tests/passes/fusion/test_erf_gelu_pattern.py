"""GELU is found in every spelling, and nothing else is taken for it."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from passes.fusion.erf_gelu_pattern import ErfGeluPattern
from tests import numerics

ROOT = math.sqrt(2)
SPELLINGS = {
    "divided, then (x * sum) * half": "s = Div (x, root) e = Erf (s) a = Add (e, one) m = Mul (x, a) y = Mul (m, half)",
    "multiplied by the inverse": "s = Mul (x, inverse) e = Erf (s) a = Add (e, one) m = Mul (x, a) y = Mul (m, half)",
    "half times the sum first": "s = Div (x, root) e = Erf (s) a = Add (one, e) m = Mul (half, a) y = Mul (x, m)",
    "half of x first": "h = Mul (x, half) s = Div (x, root) e = Erf (s) a = Add (e, one) y = Mul (h, a)",
    "divided by two at the end": "s = Div (x, root) e = Erf (s) a = Add (e, one) m = Mul (a, x) y = Div (m, two)",
}
OTHERS = {
    "another scale": "s = Div (x, two) e = Erf (s) a = Add (e, one) m = Mul (x, a) y = Mul (m, half)",
    "another factor": "s = Div (x, root) e = Erf (s) a = Add (e, one) m = Mul (z, a) y = Mul (m, half)",
    "no half": "s = Div (x, root) e = Erf (s) a = Add (e, one) m = Mul (x, a) y = Mul (m, two)",
    "two is divided": "s = Div (x, root) e = Erf (s) a = Add (e, one) m = Mul (x, a) y = Div (two, m)",
}


def _model(body: str, opset: int = 17, outputs: str = "float[3,4] y") -> onnx.ModelProto:
    constants = f"<float root = {{{ROOT}}}, float inverse = {{{1 / ROOT}}}, float half = {{0.5}}, float one = {{1}}, "
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[3,4] x, float[3,4] z) => ({outputs}) '
    return onnx.parser.parse_model(text + constants + f"float two = {{2}}> {{ {body} }}")


def _feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(3, 4)).astype(np.float32) for name in "xz"}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("opset", "domain"), [(17, "com.microsoft"), (20, "")])
def test_every_spelling_becomes_one_node(spelling: str, opset: int, domain: str) -> None:
    model = _model(SPELLINGS[spelling], opset)
    expected = numerics.run(model, _feeds())["y"]
    fused = ErfGeluPattern().run(model)
    onnx.checker.check_model(fused)
    assert [(node.domain, node.op_type) for node in fused.graph.node] == [(domain, "Gelu")]
    np.testing.assert_allclose(numerics.run(fused, _feeds())["y"], expected, atol=1e-6)
    assert ErfGeluPattern().run(fused).SerializeToString() == fused.SerializeToString()


@pytest.mark.parametrize("other", OTHERS)
def test_what_only_looks_like_gelu_stays(other: str) -> None:
    model = _model(OTHERS[other])
    before = [node.op_type for node in model.graph.node]
    assert [node.op_type for node in ErfGeluPattern().run(model).graph.node] == before


def test_an_intermediate_result_that_is_read_elsewhere_stays() -> None:
    body = SPELLINGS["half of x first"] + " k = Neg (a)"
    model = _model(body, outputs="float[3,4] y, float[3,4] k")
    assert "Erf" in [node.op_type for node in ErfGeluPattern().run(model).graph.node]

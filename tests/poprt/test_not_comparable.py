"""Outputs in which two right models may differ: the check says that they cannot be compared, not that they differ."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from poprt.comparison import OutputCheck
from poprt.converter import Converter
from poprt.errors import PoprtError
from poprt.value_dependence import dependences
from poprt.verify import verify

CONSTANTS = {
    "w": np.random.default_rng(0).standard_normal((96, 80)).astype(np.float32),
    "last": np.array([2]),
    "scale": np.array(20, np.float32),
    "half": np.array(0.5, np.float32),
    "zero": np.array(0),
    "one": np.array(1),
    "first": np.array([0]),
}


def model_of(graph: str) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{graph}')
    used = {name for node in model.graph.node for name in node.input}
    constants = {name: values for name, values in CONSTANTS.items() if name in used}
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())
    return model


def voice(
    scale: float = 20, extra: str = "", outputs: str = "float[1,N] audio, float[1,S,80] hidden"
) -> onnx.ModelProto:
    """As many samples of audio as the values of a product say: each token has a length of its own."""
    model = model_of(
        f"""g (float[1,S,96] x) => ({outputs}) {{ p = MatMul (x, w)  hidden = Identity (p)
            d = ReduceSum <keepdims = 0> (p, last)  a = Abs (d)  s = Mul (a, scale)  c = Ceil (s)  n = Cast <to = 7> (c)
            total = ReduceSum <keepdims = 0> (n)  r = Range (zero, total, one)  f = Cast <to = 1> (r)  t = Sin (f)
            audio = Unsqueeze (t, first) {extra} }}"""
    )
    stored = next(tensor for tensor in model.graph.initializer if tensor.name == "scale")
    stored.CopyFrom(numpy_helper.from_array(np.array(scale, np.float32), "scale"))
    return model


def by_name(original: onnx.ModelProto, converted: onnx.ModelProto) -> dict[str, OutputCheck]:
    return {output.name: output for output in verify(original, converted).outputs}


def test_an_extent_that_depends_on_values_is_not_comparable(caplog: pytest.LogCaptureFixture) -> None:
    checks = by_name(voice(), voice(19.5))
    assert "its extents depend on values (Range 'r')" in checks["audio"].not_comparable
    assert (checks["audio"].passed, checks["hidden"].passed) == (True, True)
    assert not checks["hidden"].not_comparable
    assert "'audio' is not comparable" in caplog.text


def test_an_extent_that_depends_on_values_is_compared_where_it_is_the_same() -> None:
    checks = by_name(voice(), voice())
    assert (checks["audio"].not_comparable, checks["audio"].max_abs_diff) == ("", 0)


def test_another_rank_is_an_error_whatever_the_values() -> None:
    other = voice(19.5)
    other.graph.node[-1].output[0] = "deeper"
    other.graph.node.append(onnx.helper.make_node("Unsqueeze", ["deeper", "first"], ["audio"]))
    for value in other.graph.output:
        value.type.tensor_type.ClearField("shape")
    with pytest.raises(PoprtError, match="'audio': the shapes differ"):
        verify(voice(), other)


def test_an_extent_that_shapes_decide_must_be_the_same() -> None:
    whole = model_of("g (float[4] x) => (float y) { s = Shape (x)  y = Expand (half, s) }")
    part = model_of("g (float[4] x) => (float y) { s = Shape (x)  t = Sub (s, one)  y = Expand (half, t) }")
    with pytest.raises(PoprtError, match="'y': the shapes differ"):
        verify(whole, part)


def test_a_voice_in_int8_is_converted_and_measured() -> None:
    converter = Converter(precision="int8", check=True)
    converter.convert(voice())
    assert converter.verification is not None
    assert converter.verification.passed
    details = next(record.result.details for record in converter.records if record.name == "float_to_int8")
    assert details["cosine of audio"] == "not comparable: its extents depend on values"
    assert float(details["cosine of hidden"]) > 0.999


def drawing(*nodes: str) -> onnx.ModelProto:
    return model_of(f"g (float[4] x) => (float[4] y, float[4] z) {{ {' '.join(nodes)} }}")


def test_random_numbers_are_not_comparable_and_what_is_wrong_beside_them_fails() -> None:
    draw, add = "r = RandomNormalLike (x)", "y = Add (x, r)"
    checks = by_name(drawing(draw, add, "z = Neg (x)"), drawing("z = Relu (x)", draw, add))
    assert checks["y"].not_comparable == "it holds random numbers (RandomNormalLike 'r')"
    assert not checks["z"].passed


def test_numbers_drawn_from_a_seed_are_compared() -> None:
    draw, add = "r = RandomNormalLike <seed = {}> (x)", "y = Add (x, r)"
    same = by_name(drawing(draw.format(1.0), add, "z = Neg (x)"), drawing("z = Neg (x)", draw.format(1.0), add))
    assert (same["y"].passed, same["y"].not_comparable) == (True, "")
    other = by_name(drawing(draw.format(1.0), add, "z = Neg (x)"), drawing(draw.format(2.0), add, "z = Neg (x)"))
    assert not other["y"].passed


DECIDED = {
    "NonZero 'n'": "n = NonZero (x)  y = Neg (n)",
    "Slice 'y'": "m = ReduceMax (x)  i = Cast <to = 7> (m)  y = Slice (x, first, i)",
    "Expand 'y'": "n = NonZero (x)  s = Shape (n)  y = Expand (half, s)",
    "If 'y'": "c = Equal (x, x)  s = Squeeze (c)  y = If (s) <then_branch = t () => (float p) { p = Relu (x) }, "
    "else_branch = e () => (float q) { q = NonZero (x) }>",
    "": "s = Shape (x)  z = ConstantOfShape (s)  r = Expand (half, s)  y = Add (x, r)",
}


@pytest.mark.parametrize("step", DECIDED)
def test_the_step_that_makes_an_extent_of_values_is_named(step: str) -> None:
    assert dependences(model_of(f"g (float[N] x) => (float y) {{ {DECIDED[step]} }}"))["y"].extents == step

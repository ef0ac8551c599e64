"""Weights that float16 cannot hold keep what reads them in float32, by name; a mask's fill does not, and is silent."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from passes.graph_io import import_graph
from passes.precision.float_to_half import FloatToHalf
from tests.numerics import run
from tests.passes.rewrites import copy_of, ops, parse, rewritten

RNG = np.random.default_rng(0)
Array = NDArray[Any]


def with_weights(model: onnx.ModelProto, **weights: Array) -> onnx.ModelProto:
    for name, values in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values, np.float32), name))
    return model


def difference(model: onnx.ModelProto, converted: onnx.ModelProto, **feeds: Array) -> float:
    """The largest of all outputs, relative to the range of each."""
    halves = {name: array.astype(np.float16) if array.dtype == np.float32 else array for name, array in feeds.items()}
    expected = run(model, {name: array.astype(feeds[name].dtype) for name, array in halves.items()})
    result = run(converted, halves)
    return max(
        float(np.abs(expected[name] - result[name].astype(np.float64)).max() / np.abs(expected[name]).max())
        for name in expected
    )


def kept(model: onnx.ModelProto) -> list[str]:
    """What the pass says that it left in float32."""
    return [str(refusal) for refusal in FloatToHalf().apply(import_graph(copy_of(model))).refusals]


def normalised(
    scale: float, *, epsilon: float = 1e-5, mean: float | None = None, factor: float = 1.0
) -> onnx.ModelProto:
    """Conv, BatchNormalization with the statistics of what the Conv gives for normal numbers, Relu, Conv."""
    weights = RNG.standard_normal((4, 3, 3, 3)) * scale
    bias = np.full(4, mean or 0)
    model = parse(
        f"""g (float[n,3,6,6] x) => (float[n,2,4,4] y) {{
            c = Conv (x, w, b)  n = BatchNormalization <epsilon = {epsilon}> (c, s, t, m, v)  r = Relu (n)
            y = Conv (r, u) }}""",
        opset=15,
    )
    variance = (weights**2).sum((1, 2, 3))
    head = RNG.standard_normal((2, 4, 1, 1)) / factor
    return with_weights(model, w=weights, b=bias, s=np.full(4, factor), t=np.ones(4), m=bias, v=variance, u=head)


@pytest.mark.parametrize(
    ("scale", "options"),
    [
        (1e3, {}),  # a variance of 3e7
        (1e4, {}),  # what the Conv gives leaves float16 as well
        (1e-4, {"epsilon": 1e-12}),  # a variance of 3e-7, which float16 rounds by a sixth
        (1e-5, {"epsilon": 1e-14}),  # of 3e-9, which becomes 0
        (0.1, {"mean": 3000.0}),  # a mean that float16 knows to 2, beside a deviation of 0.5
        (1e-9, {"mean": 5.0}),  # channels that died: the deviation is that of epsilon
        (1.0, {"factor": 1e5}),
    ],
)
def test_statistics_that_half_cannot_hold_keep_their_normalisation(scale: float, options: dict[str, float]) -> None:
    model = normalised(scale, **options)
    converted = rewritten(FloatToHalf(), model)
    x = RNG.standard_normal((2, 3, 6, 6)).astype(np.float32)
    assert difference(model, converted, x=x) < 1e-2
    assert any("BatchNormalization 'n': stays float32" in reason for reason in kept(model))
    assert "Cast" in ops(converted)


def test_ordinary_statistics_become_half() -> None:
    model = normalised(1.0)
    assert ops(rewritten(FloatToHalf(), model)) == ["Conv", "BatchNormalization", "Relu", "Conv"]
    assert not kept(model)


def test_what_feeds_a_normalisation_stays_where_its_statistics_say_so() -> None:
    converted = rewritten(FloatToHalf(), normalised(1e4))
    assert ops(converted) == ["Cast", "Conv", "BatchNormalization", "Cast", "Relu", "Conv"]


def test_one_warning_names_node_weight_and_number(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "poprt"):
        FloatToHalf().run(with_weights(parse("g (float[n,2] x) => (float[n,2] y) { y = Conv (x, w) }"), w=np.zeros(2)))
        assert not caplog.records
        model = parse("g (float[n,2] x) => (float[n,2] y) { a = MatMul (x, w)  y = Softmax (a) }")
        FloatToHalf().run(with_weights(model, w=np.full((2, 2), 1e5)))
    assert [record.message for record in caplog.records] == [
        "1 node left in float32 because of the weights: MatMul 'a': 'w' holds 1e+05, beyond float16"
    ]


def test_large_numbers_are_followed_until_they_are_small_again() -> None:
    model = parse("""g (float[n] x) => (float[n] y, float[n] z) <float big = {1e6}, float third = {3e-7}> {
        a = Mul (x, big)  b = Neg (a)  c = Mul (b, third)  y = Tanh (c)  d = Abs (x)  z = Cos (d)
    }""")
    converted = rewritten(FloatToHalf(), model)
    assert ops(converted) == ["Cast", "Mul", "Neg", "Mul", "Cast", "Tanh", "Abs", "Cos"]
    assert difference(model, converted, x=np.linspace(-1, 1, 9).astype(np.float32)) < 2e-3


def test_small_numbers_are_followed_until_they_are_large_again() -> None:
    model = parse("""g (float[n] x) => (float[n] y) <float tiny = {1e-9}, float back = {2e-9}> {
        a = Mul (x, tiny)  b = Neg (a)  y = Div (b, back)
    }""")
    converted = rewritten(FloatToHalf(), model)
    assert ops(converted) == ["Cast", "Mul", "Neg", "Div", "Cast"]
    assert difference(model, converted, x=np.linspace(-1, 1, 9).astype(np.float32)) < 2e-3


def test_a_sum_that_is_scaled_down_afterwards_stays_with_its_scale() -> None:
    model = parse("""g (float[n,m] x) => (float[n,1] y) <float count = {1e6}, int64[1] axes = {1}> {
        a = ReduceSum (x, axes)  y = Div (a, count)
    }""")
    converted = rewritten(FloatToHalf(), model)
    assert ops(converted) == ["Cast", "ReduceSum", "Div", "Cast"]
    assert difference(model, converted, x=np.full((1, 3000), 60, np.float32)) < 2e-3


def test_an_output_beyond_half_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "poprt"):
        FloatToHalf().run(parse("g (float[n] x) => (float[n] y) <float big = {1e6}> { y = Mul (x, big) }"))
    assert "output 'y' is float16 and may overflow: it is about 1e+06" in caplog.text


def test_a_weight_below_half_keeps_its_product() -> None:
    model = parse("g (float[n,4] x) => (float[n,4] y) <float big = {1e8}> { a = MatMul (x, w)  y = Mul (a, big) }")
    model = with_weights(model, w=RNG.standard_normal((4, 4)) * 1e-8)
    converted = rewritten(FloatToHalf(), model)
    assert difference(model, converted, x=RNG.standard_normal((3, 4)).astype(np.float32)) < 2e-3


MASKED = {
    "added before a softmax": "a = Mul (f, FILL)  b = Add (x, a)  y = Softmax (b)",
    "added before a scale": "a = Mul (f, FILL)  b = Add (x, a)  c = Mul (b, eighth)  y = Softmax (c)",
    "chosen": "c = Cast <to = 9> (f)  y = Where (c, FILL, x)",
    "before a maximum": "c = Cast <to = 9> (f)  b = Where (c, FILL, x)  y = ReduceMax <axes = [1]> (b)",
    "a lower bound": "y = Max (x, FILL)",
    "clipped": "y = Clip (x, FILL)",
}


@pytest.mark.parametrize("fill", [-3.4e38, -1e9, -1e5])
@pytest.mark.parametrize("body", MASKED.values(), ids=MASKED.keys())
def test_the_fill_of_a_mask_becomes_half_in_silence(body: str, fill: float, caplog: pytest.LogCaptureFixture) -> None:
    text = body.replace("FILL", "fill")
    model = parse(
        f"g (float[2,4] x, float[2,4] f) => (float y) <float fill = {{{fill}}}, float eighth = {{0.125}}> {{ {text} }}"
    )
    with caplog.at_level(logging.WARNING, "poprt"):
        converted = FloatToHalf().run(copy_of(model))
    assert not caplog.records
    assert not kept(model)
    assert {str(t.data_type) for t in converted.graph.initializer} == {str(onnx.TensorProto.FLOAT16)}


@pytest.mark.parametrize(
    "body",
    [
        "a = Mul (x, big)  b = Mul (a, small)  y = Sigmoid (b)",
        "y = Greater (x, big)",
        "a = Add (x, big)  y = Log (a)",
        "y = Where (c, x, big)",
        "y = Max (x, big)",
    ],
)
def test_a_large_number_that_is_no_fill_stays_exact(body: str) -> None:
    model = parse(
        f"g (float[2] x, bool[2] c) => (float[2] y) <float big = {{1e5}}, float small = {{1e-5}}> {{ {body} }}"
    )
    converted = FloatToHalf().run(copy_of(model))
    exact = {t.name for t in converted.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    assert "big" in exact
    assert kept(model)


def test_an_angle_made_of_positions_stays_exact_beyond_a_hundred() -> None:
    model = parse("""g (int64[n] places, float[n,2] x) => (float[n,2] y) <int64[1] one = {1}> {
        f = Cast <to = 1> (places)  c = Unsqueeze (f, one)  angle = MatMul (c, rates)  s = Sin (angle)  y = Mul (x, s)
    }""")
    model = with_weights(model, rates=np.array([[0.77, 0.013]]))
    converted = rewritten(FloatToHalf(), model)
    places = np.arange(1500, 1600)
    assert difference(model, converted, places=places, x=np.ones((100, 2), np.float32)) < 2e-3


def test_functions_and_subgraphs_keep_their_weights_too() -> None:
    model = parse("""g (float[n] x, bool c) => (float[n] y) {
        a = local.Shrunk (x)
        y = If (c) <then_branch = t () => (float[n] p) { k = Constant <value_float = 2e5> ()  p = Div (a, k) },
                    else_branch = e () => (float[n] q) { q = Neg (a) }>
    }
    <domain: "local", opset_import: ["" : 17]> Shrunk (v) => (w) {
        k = Constant <value_float = 1e5> ()  m = Mul (v, k)  w = Tanh (m)
    }""")
    converted = FloatToHalf().run(copy_of(model))
    assert ops(converted.functions[0]) == ["Cast", "Constant", "Mul", "Tanh", "Cast"]
    for condition in (True, False):
        feeds = {"x": np.array([1e-5, -1e-4], np.float16), "c": np.array(condition)}
        expected = run(model, {"x": feeds["x"].astype(np.float32), "c": feeds["c"]})["y"]
        np.testing.assert_allclose(run(converted, feeds)["y"], expected, rtol=2e-2, atol=6e-8)

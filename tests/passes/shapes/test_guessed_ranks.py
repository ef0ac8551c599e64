"""Inference guesses where it knows no rank. What rests on that is not written into the model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from passes.shapes.ort_inference import OrtShapeInference
from poprt.converter import Converter
from poprt.engine.plain import plain_session

HEADER = '<ir_version: 8, opset_import: ["" : 15, "made.up" : 1]>'
BRANCHES = """
    p = If (wide) <
        then_branch = a () => (float t) { t = Unsqueeze (x, first) },
        else_branch = b () => (float e) { e = Identity (x) }>
"""


def with_branches(rest: str) -> onnx.ModelProto:
    """An If whose branches have the ranks 3 and 2, as exporters write it: their outputs declare no shape."""
    model = parser.parse_model(
        f"{HEADER} g (float[N, L] x, bool wide) => (float y) "
        "<int64[1] first = {0}, int64[1] axis = {1}, int64[2] flat = {3, 6}, float[4, 1, 3] w = "
        f"{{{', '.join(['1'] * 12)}}}> {{ {BRANCHES} {rest} }}"
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for attribute in model.graph.node[0].attribute:
        attribute.g.output[0].type.tensor_type.ClearField("shape")
    return model


def declared(model: onnx.ModelProto) -> dict[str, list[int | str] | None]:
    values = [*model.graph.value_info, *model.graph.output]
    kinds = {value.name: value.type.tensor_type for value in values}
    return {
        name: [dim.dim_value or dim.dim_param for dim in kind.shape.dim] if kind.HasField("shape") else None
        for name, kind in kinds.items()
    }


def test_a_convolution_behind_branches_of_two_ranks_loads_and_gives_the_same() -> None:
    model = with_branches("u = Unsqueeze (p, axis)  y = Conv <dilations = [1]> (u, w)")
    converted = Converter().convert(model)
    assert not any(declared(converted).get(name) for name in ("p", "u", "y"))
    feeds = {"x": np.random.default_rng(0).random((2, 9), np.float32), "wide": np.array(False)}
    expected, got = (plain_session(m.SerializeToString()).run(None, feeds)[0] for m in (model, converted))
    np.testing.assert_array_equal(got, expected)


def test_a_shape_that_a_constant_states_is_a_fact_again() -> None:
    converted = Converter().convert(with_branches("r = Reshape (p, flat)  y = Relu (r)"))
    assert declared(converted)["y"] == [3, 6]


def test_the_rank_of_an_unknown_operator_is_a_guess() -> None:
    body = "h = made.up.Fold (x)  r = Relu (h)  s = Sigmoid (x)  y = Add (r, s)"
    text = f"{HEADER} g (float[N, 8] x) => (float y) {{ {body} }}"
    inference = OrtShapeInference(parser.parse_model(text), 2**31 - 1)
    inference.walk_once()
    assert inference.guessed == {"h", "r", "y"}


@pytest.mark.parametrize(("body", "guessed"), [("Unsqueeze (c, first)", True), ("Relu (c)", False)])
def test_a_loop_that_changes_a_rank_is_a_guess(body: str, guessed: bool) -> None:
    model = parser.parse_model(
        f"{HEADER} g (float[N, 8] x, int64 n, bool go) => (float y) <int64[1] first = {{0}}> {{ y = Loop (n, go, x) <"
        "body = b (int64 i, bool before, float[N, 8] c) => (bool after, float d) "
        f"{{ after = Identity (before)  d = {body} }}> }}"
    )
    inference = OrtShapeInference(model, 2**31 - 1)
    inference.walk_once()
    assert ("y" in inference.guessed) == guessed

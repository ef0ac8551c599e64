"""Inputs get fixed shapes, everything declared follows, and baked constants are found."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest

from models.bert import SIZES, BertConfig, build_bert
from passes.errors import RewriteError
from passes.shapes.const_input_shape import ConstInputShape
from tests.numerics import padded, random_samples, run
from tests.passes.rewrites import copy_of, declared, ops, parse, rewritten, say_packed

TWO_INPUTS = """g (float[batch,seq,4] x, float[batch,4] z) => (float[batch,four] y) <float[batch,seq,4] n> {
    n = Neg (x)  m = ReduceMax <axes=[1], keepdims=0> (n)  y = Add (m, z)
}"""


def fix(model: onnx.ModelProto, **options: object) -> onnx.ModelProto:
    converted = rewritten(ConstInputShape(**options), model)  # type: ignore[arg-type]
    onnx.shape_inference.infer_shapes(converted, strict_mode=True, data_prop=True, check_type=True)
    return converted


def test_a_fixed_name_is_fixed_everywhere() -> None:
    model = parse(TWO_INPUTS)
    converted = fix(model, input_shape={"x": [2, 5, 4]})
    shapes = declared(converted)
    assert (shapes["x"], shapes["z"], shapes["n"], shapes["m"], shapes["y"]) == (
        [2, 5, 4],
        [2, 4],
        [2, 5, 4],
        [2, 4],
        [2, 4],
    )
    assert ops(converted) == ops(model)
    feeds = {"x": np.ones((2, 5, 4), np.float32), "z": np.ones((2, 4), np.float32)}
    np.testing.assert_array_equal(run(converted, feeds)["y"], run(model, feeds)["y"])


def test_batch_size_sets_its_axis_of_every_input() -> None:
    shapes = declared(fix(parse(TWO_INPUTS), batch_size=3))
    assert (shapes["x"], shapes["z"], shapes["y"]) == ([3, "seq", 4], [3, 4], [3, 4])


def test_another_batch_axis_is_possible_and_a_missing_one_an_error() -> None:
    model = parse("g (float[seq,batch] x) => (float[seq,batch] y) { y = Neg (x) }")
    assert declared(fix(model, batch_size=3, batch_axis=1))["y"] == ["seq", 3]
    with pytest.raises(RewriteError, match="'x' has no axis 2"):
        fix(model, batch_size=3, batch_axis=2)


def test_an_unknown_name_is_a_warning_that_lists_the_inputs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "poprt"):
        converted = fix(parse(TWO_INPUTS), input_shape={"nope": [1]})
    assert "nope" in caplog.text
    assert "x, z" in caplog.text
    assert declared(converted)["x"] == ["batch", "seq", 4]


@pytest.mark.parametrize(
    ("shape", "words"),
    [([2, 5, 3], "'x', axis 2: the model fixes it to 4, it cannot become 3"), ([2, 5], "'x' has 3 dimensions"),
     ([0, 5, 4], "axis 0: 0 is no extent")],
)  # fmt: skip
def test_impossible_shapes_are_errors_that_name_the_place(shape: list[int], words: str) -> None:
    with pytest.raises(RewriteError, match=words):
        fix(parse(TWO_INPUTS), input_shape={"x": shape})


def test_one_name_cannot_get_two_values() -> None:
    with pytest.raises(RewriteError, match="'batch' would be 2 in input 'x' and 3 in input 'z'"):
        fix(parse(TWO_INPUTS), input_shape={"x": [2, 5, 4], "z": [3, 4]})


def test_stale_declarations_give_way() -> None:
    model = parse("""g (float[b,4] x) => (float[unk,4] y) <float[1,4] n> { n = Neg (x)  y = Abs (n) }""")
    shapes = declared(fix(model, input_shape={"x": [8, 4]}))
    assert (shapes["n"], shapes["y"]) == ([8, 4], [8, 4])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("<int64[3] t = {1, 8, 2}> { y = Reshape (x, t) }", r"Reshape 'y': its target \[1, 8, 2\] was baked"),
        ("<int64[3] t = {1, -1, 4}> { y = Reshape (x, t) }", "axis 0 .* would be folded into axis 1"),
        ("<int64[3] t = {3, 1, 1}> { y = Expand (x, t) }", r"Expand 'y': its target \[3, 1, 1\] was baked"),
        ("<int64[3] t = {3, 1, 4}> { c = ConstantOfShape (t)  y = Add (x, c) }", "Add 'y'.*ConstantOfShape 'c' with"),
        ("<int64[3] t = {3, 1, 4}> { c = ConstantOfShape (t)  y = Concat <axis=1> (x, c) }", "baked above it"),
    ],
)
def test_constants_baked_for_another_shape_are_named(body: str, words: str) -> None:
    model = parse(f"g (float[batch,seq,4] x) => (float[p,q,r] y) {body}")
    with pytest.raises(RewriteError, match=words):
        fix(model, input_shape={"x": [2, 5, 4]})


def test_a_sequence_longer_than_the_table_of_positions_is_an_error() -> None:
    model = parse("""g (int64[batch,seq] ids) => (int64[batch,seq] y)
    <int64[1,4] table = {0,1,2,3}, int64[1] none = {0}, int64[1] one = {1}, int64[1] two = {2}> {
        s = Shape (ids)  length = Slice (s, one, two)  part = Slice (table, none, length, one)  y = Expand (part, s)
    }""")
    assert declared(fix(model, input_shape={"ids": [2, 3]}))["part"] == [1, 3]
    with pytest.raises(RewriteError, match=r"Expand 'y': it expands to \[2, 9\]; its input 'part' is \[1, 4\]"):
        fix(model, input_shape={"ids": [2, 9]})


@pytest.mark.parametrize("target", ["-1, 4", "0, -1, 2", "0, 0, 2, 2", "2, -1", "1, -1, 5, 4"])
def test_reshapes_that_fit_are_left_alone(target: str) -> None:
    size = target.count(",") + 1
    outs = ",".join("abcd"[:size])
    model = parse(
        f"g (float[batch,seq,4] x) => (float[{outs}] y) <int64[{size}] t = {{{target}}}> {{ y = Reshape (x, t) }}"
    )
    shape = declared(fix(model, input_shape={"x": [2, 5, 4]}))["y"]
    assert np.prod(np.array(shape, int)) == 40


@pytest.mark.parametrize("dialect", ["old-torch", "new-torch"])
@pytest.mark.parametrize("head", ["qa", "sequence", "mean"])
def test_an_encoder_keeps_its_numbers_and_declares_them(dialect: str, head: str) -> None:
    model = build_bert(BertConfig(**SIZES["tiny"], head=head, dialect=dialect))
    feeds = padded(random_samples([3, 16], vocab=1000))
    converted = fix(model, input_shape={name: [2, 16] for name in feeds})
    got = run(converted, feeds)
    for name, expected in run(model, feeds).items():
        np.testing.assert_array_equal(got[name], expected)
        assert declared(converted)[name] == list(expected.shape)


def test_a_packed_model_changes_only_what_it_declares_outside() -> None:
    model = parse("""g (float[batch,seq,4] x, int32[3,1] unpack_info) => (float[three,eight,4] y)
    <float[batch,seq,4] n> {
        n = Neg (x)  u = ai.graphcore.Unpack <max_valid_num=3, segment_max_size=[8]> (n, unpack_info)  y = Abs (u)
    }""")
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("u", 1, [3, 8, 4]))
    say_packed(model)
    converted = ConstInputShape(input_shape={"x": [2, 16, 4]}).run(copy_of(model))
    shapes = declared(converted)
    assert (shapes["x"], shapes["unpack_info"], shapes["n"], shapes["u"]) == (
        [2, 16, 4],
        [3, 1],
        ["batch", "seq", 4],
        [3, 8, 4],
    )
    assert shapes["y"][2] == 4
    assert converted.graph.node == model.graph.node
    assert declared(ConstInputShape(batch_size=2).run(model))["unpack_info"] == [3, 1]

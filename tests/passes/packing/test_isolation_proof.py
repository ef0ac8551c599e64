"""Which samples may share a run: proved node by node, and true of what is served."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from passes.errors import PackingError
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.runtime.declared import DeclaredSession
from tests.numerics import Arrays, one_by_one
from tests.passes.packing.packs import (
    COLUMNS,
    MOST,
    PACK_ARGS,
    ROWS,
    around,
    copy_of,
    metadata,
    pack,
    packed,
    run_declared,
    samples,
)

ANY, SAME_LENGTH, NONE = "any", "same_length", "none"

#: What is told apart from mask arithmetic; `y` is the body's result, `pooled` the head's.
_MASKED = "masked = Mul (x, column)  "
_DROP = """
    number = Cast <to = 7> (mask)  hidden = Equal (number, scalar_zero)  hidden_column = Unsqueeze (hidden, last)
"""

#: Head -> which samples may share a run. [n, L, 8] x, and the mask as a column [n, L, 1], come in.
HEADS = {
    # Sums and zero.
    "masked = Mul (x, column)  pooled = ReduceSum <keepdims = 0> (masked, one)": ANY,
    "pooled = ReduceSum <keepdims = 0> (x, one)": ANY,
    "e = Exp (x)  pooled = ReduceSum <keepdims = 0> (e, one)": SAME_LENGTH,
    "e = Exp (x)  f = Mul (e, column)  pooled = ReduceSum <keepdims = 0> (f, one)": ANY,
    "pooled = ReduceMean <axes = [1], keepdims = 0> (x)": SAME_LENGTH,
    "g = Neg (x)  h = Mul (g, column)  pooled = ReduceL2 <axes = [1], keepdims = 0> (h)": ANY,
    # Maxima and what is below every value.
    "pooled = ReduceMax <axes = [1], keepdims = 0> (x)": SAME_LENGTH,
    _MASKED + "pooled = ReduceMax <axes = [1], keepdims = 0> (masked)": SAME_LENGTH,
    "r = Relu (x)  f = Mul (r, column)  pooled = ReduceMax <axes = [1], keepdims = 0> (f)": ANY,
    _DROP + "f = Where (hidden_column, far, x)  pooled = ReduceMax <axes = [1], keepdims = 0> (f)": ANY,
    _DROP + "f = Where (hidden_column, near, x)  pooled = ReduceMax <axes = [1], keepdims = 0> (f)": SAME_LENGTH,
    _DROP + "f = Where (hidden_column, nil, x)  pooled = ReduceMin <axes = [1], keepdims = 0> (f)": SAME_LENGTH,
    _MASKED + "pooled = ReduceLogSumExp <axes = [1], keepdims = 0> (masked)": SAME_LENGTH,
    _DROP + "f = Where (hidden_column, far, x)  pooled = ReduceLogSumExp <axes = [1], keepdims = 0> (f)": ANY,
    # Softmax over the places.
    _DROP + """s = MatMul (x, V8)  f = Where (hidden_column, far, s)  w = Softmax <axis = 1> (f)  u = Mul (w, x)
        pooled = ReduceSum <keepdims = 0> (u, one)""": ANY,
    """s = MatMul (x, V8)  f = Mul (s, column)  w = Softmax <axis = 1> (f)  u = Mul (w, x)
        pooled = ReduceSum <keepdims = 0> (u, one)""": SAME_LENGTH,
    # Places.
    "pooled = Gather <axis = 1> (x, scalar_zero)": ANY,
    "pooled = Gather <axis = 1> (x, minus_one)": SAME_LENGTH,
    "t = Slice (x, zero, one, one)  pooled = Squeeze (t, one)": ANY,
    "t = Slice (x, minus_ones, big, one)  pooled = ReduceSum <keepdims = 0> (t, one)": SAME_LENGTH,
    "t = Slice (x, minus_ones, least, one, minus_ones)  pooled = Gather <axis = 1> (t, scalar_zero)": SAME_LENGTH,
    "v, i = TopK <axis = 1> (x, one)  pooled = Squeeze (v, one)": SAME_LENGTH,
    "a = ArgMax <axis = 1, keepdims = 0> (ids)  c = Cast <to = 1> (a)  pooled = Unsqueeze (c, last)": ANY,
    "c = CumSum (x, scalar_one)  d = Gather <axis = 1> (c, scalar_zero)  pooled = Identity (d)": ANY,
    "c = CumSum <reverse = 1> (x, scalar_one)  pooled = Gather <axis = 1> (c, scalar_zero)": ANY,
    "e = Exp (x)  c = CumSum <reverse = 1> (e, scalar_one)  pooled = Gather <axis = 1> (c, scalar_zero)": SAME_LENGTH,
    # Windows and pools.
    "t = Transpose <perm = [0, 2, 1]> (x)  c = Conv <pads = [1, 1]> (t, K3)  p = Transpose <perm = [0, 2, 1]> (c)"
    "  m = Mul (p, column)  pooled = ReduceSum <keepdims = 0> (m, one)": ANY,
    "e = Exp (x)  t = Transpose <perm = [0, 2, 1]> (e)  c = Conv <pads = [1, 1]> (t, K3)"
    "  p = Transpose <perm = [0, 2, 1]> (c)  m = Mul (p, column)  pooled = ReduceSum <keepdims = 0> (m, one)":
        ANY,
    "e = Exp (x)  t = Transpose <perm = [0, 2, 1]> (e)  c1 = Conv <pads = [1, 1]> (t, K3)"
    "  c2 = Conv <pads = [1, 1]> (t, K3)  c = Add (c1, c2)  p = Transpose <perm = [0, 2, 1]> (c)"
    "  m = Mul (p, column)  pooled = ReduceSum <keepdims = 0> (m, one)": ANY,
    "t = Transpose <perm = [0, 2, 1]> (x)  g = GlobalAveragePool (t)  pooled = Squeeze (g, two)": SAME_LENGTH,
    "t = Transpose <perm = [0, 2, 1]> (x)  g = GlobalMaxPool (t)  pooled = Squeeze (g, two)": SAME_LENGTH,
    """t = Transpose <perm = [0, 2, 1]> (x)  i = InstanceNormalization (t, V, V1)
        pooled = Gather <axis = 2> (i, scalar_zero)""": SAME_LENGTH,
    # What counts places or samples.
    """n = Shape <start = 1, end = 2> (ids)  c = Cast <to = 1> (n)  s = ReduceSum <keepdims = 0> (x, one)
        pooled = Div (s, c)""": SAME_LENGTH,
    """n = Shape <start = 0, end = 1> (ids)  c = Cast <to = 1> (n)  s = ReduceSum <keepdims = 0> (x, one)
        pooled = Div (s, c)""": NONE,
    # Samples that mix.
    "s = ReduceSum <keepdims = 0> (x, one)  m = ReduceMean <axes = [0], keepdims = 1> (s)  pooled = Sub (s, m)": NONE,
    "s = ReduceSum <keepdims = 0> (x, one)  pooled = Softmax <axis = 0> (s)": NONE,
    "s = ReduceSum <keepdims = 0> (x, one)  pooled = CumSum (s, scalar_zero)": NONE,
}  # fmt: skip


def _model(head: str) -> onnx.ModelProto:
    model = around("y = MatMul (x, W1)", head=head)
    extra = {
        "far": np.float32(-1e9), "near": np.float32(-100), "nil": np.float32(0), "minus_one": np.array(-1),
        "minus_ones": np.array([-1]), "least": np.array([np.iinfo(np.int64).min]),
        "V8": np.random.default_rng(1).normal(size=(8, 1)).astype(np.float32),
    }  # fmt: skip
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in extra.items() if name in read
    )
    return model


def _label(head: str) -> str:
    return " ".join(head.split())[-60:]


@pytest.mark.parametrize("head", HEADS, ids=_label)
def test_who_may_share_a_run_is_proved(head: str) -> None:
    assert metadata(packed(_model(head)))["neighbours"] == HEADS[head]


@pytest.mark.parametrize("head", HEADS, ids=_label)
def test_a_sample_in_company_gets_what_it_gets_alone(head: str) -> None:
    model = _model(head)
    shapes = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    converted = Converter(input_shape=shapes, pack_args=PACK_ARGS, skip_isolation_check=True).convert(copy_of(model))
    session = DeclaredSession(Compiler.compile(converted), threads=1)
    company = samples((5, 9, 1, 5, 2))
    expected = [result["pooled"] for result in one_by_one(model, company)]
    got = _run(session, company)
    for row, want in zip(got, expected, strict=False):
        np.testing.assert_allclose(row, want, atol=1e-5, rtol=1e-5)


def _run(session: DeclaredSession, batch: list[Arrays]) -> np.ndarray:
    feeds = {name: array.astype(np.int32) for name, array in pack(batch).items()}
    result: np.ndarray = session.run(feeds, ["pooled"])[0]
    return result


@pytest.mark.parametrize("head", [head for head, neighbours in HEADS.items() if neighbours != ANY], ids=_label)
def test_within_rows_what_is_not_proved_is_refused_by_name(head: str) -> None:
    model = _model(head)
    shapes = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    with pytest.raises(PackingError):
        Converter(input_shape=shapes, pack_args=PACK_ARGS, used_passes=["insert_attention_mask"]).convert(model)


ATTENTION = """
    flip = Transpose <perm = [0, 2, 1]> (x)  scores = MatMul (x, flip)
    keys = Unsqueeze (keep, one)  off = Sub (float_one, keys)  drop = Mul (off, penalty)
    hidden_scores = Add (scores, drop)  weights = Softmax (hidden_scores)  y = MatMul (weights, x)
"""


def _attention(scale: float, penalty: float) -> onnx.ModelProto:
    model = around(ATTENTION)
    for tensor in model.graph.initializer:
        if tensor.name == "W":
            scaled = onnx.numpy_helper.to_array(tensor) * np.float32(scale)
            tensor.CopyFrom(onnx.numpy_helper.from_array(scaled, "W"))
    for name, value in (("float_one", 1), ("penalty", penalty)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.float32), name))
    return model


@pytest.mark.parametrize("mask", [[1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0]], ids=str)
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("penalty", [-1e4, -1e9, np.finfo(np.float32).min], ids=str)
def test_no_score_and_no_mask_lets_padding_in(scale: float, penalty: float, mask: list[int]) -> None:
    """Scores beyond what the model adds to hide, and samples that mask all of themselves, see no padding."""
    model = _attention(scale, penalty)
    shapes = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    converted = Converter(input_shape=shapes, pack_args=PACK_ARGS).convert(copy_of(model))
    assert metadata(converted)["neighbours"] == ANY
    session = DeclaredSession(Compiler.compile(converted), threads=1)
    sample, long = samples((5, 9))
    sample = {**sample, "mask": np.array(mask)}
    want = one_by_one(model, [sample])[0]["y"]
    feeds = {name: array.astype(np.int32) for name, array in pack([sample, long]).items()}
    got = session.run(feeds, ["y"])[0][0, :5]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_one_scale_for_all_samples_of_a_run_makes_each_run_alone() -> None:
    body = "q, scale, zero_point = DynamicQuantizeLinear (x)  y = DequantizeLinear (q, scale, zero_point)"
    said = metadata(packed(around(body)))
    assert said["neighbours"] == NONE
    assert "DynamicQuantizeLinear" in said["isolation"]
    assert "one scale from all samples" in said["isolation"]


def test_several_segments_that_show_padding_are_padded_alike() -> None:
    model = _model("pooled = ReduceMean <axes = [1], keepdims = 0> (x)")
    said = metadata(packed(model, segment_max_size="4+5"))
    assert said["neighbours"] == ANY


def test_pair_results_say_which_axes_grow_with_the_sample() -> None:
    model = around("flip = Transpose <perm = [0, 2, 1]> (x)  y = MatMul (x, flip)")
    said = metadata(packed(model))
    assert said["token_axes"] == {"y": [1, 2]}


def test_what_lies_behind_a_sample_in_a_pair_result_is_zero() -> None:
    model = around("flip = Transpose <perm = [0, 2, 1]> (x)  p = MatMul (x, flip)  y = Exp (p)")
    shapes = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    converted = Converter(input_shape=shapes, pack_args=PACK_ARGS).convert(copy_of(model))
    session = DeclaredSession(Compiler.compile(converted), threads=1)
    short, long = samples((3, 9))
    feeds = {name: array.astype(np.int32) for name, array in pack([short, long]).items()}
    y = session.run(feeds, ["y"])[0]
    assert y.shape[0] == MOST
    assert not y[0, 3:].any()
    assert not y[0, :, 3:].any()
    np.testing.assert_allclose(y[0, :3, :3], one_by_one(model, [short])[0]["y"], rtol=1e-4)


def test_a_mask_that_only_multiplies_tokens_may_number_the_samples() -> None:
    body = """m = Mul (x, column)  t = Transpose <perm = [0, 2, 1]> (m)  c = Conv <pads = [1, 1]> (t, K3)
        y = Transpose <perm = [0, 2, 1]> (c)"""
    packed_model = packed(around(body, head="pooled = Gather <axis = 1> (x, scalar_zero)"))
    assert metadata(packed_model)["mask"] == "mask"
    company = samples((3, 5, 2))
    plain = run_declared(packed_model, company)
    numbered = run_declared(packed_model, [{**s, "mask": s["mask"] * number} for number, s in enumerate(company, 1)])
    np.testing.assert_array_equal(numbered["y"][:3], plain["y"][:3])

"""What passes do with facts of :mod:`passes.operators`, where a list of their own had it wrong or left it out."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from passes.errors import RewriteError
from passes.precision.int64_to_int32 import Int64ToInt32
from passes.shapes.const_input_shape import ConstInputShape
from passes.shapes.trace_folding import TraceFolding
from poprt.converter import Converter
from tests.passes.packing.packs import around, metadata, packed
from tests.passes.rewrites import copy_of, ops, parse


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("y = PRelu (x, c)", "float"),
        ('y = BitShift <direction = "LEFT"> (x, c)', "uint32"),
        ("y = BitwiseXor (x, c)", "int32"),
    ],
    ids=["PRelu", "BitShift", "BitwiseXor"],
)
def test_operands_that_do_not_broadcast_are_named_whatever_the_operator(body: str, kind: str) -> None:
    model = parse(
        f"""g ({kind}[batch, seq, 4] x, int64[1] unused) => ({kind}[p, q, r] y) <int64[3] t = {{3, 1, 4}}> {{
            k = ConstantOfShape (t)  c = Cast <to = {onnx.TensorProto.DataType.Value(kind.upper())}> (k)  {body}
        }}""",
        opset=18,
    )
    with pytest.raises(RewriteError, match="do not broadcast; baked above it: ConstantOfShape 'k' with"):
        ConstInputShape(input_shape={"x": [2, 5, 4]}).run(model)


def test_an_addition_that_broadcasts_as_opset_6_did_is_not_blamed() -> None:
    model = parse(
        "g (float[batch, 5, 4] x, float[5] c) => (float[p, 5, 4] y) { y = Add <broadcast = 1, axis = 1> (x, c) }",
        opset=6,
    )
    fixed = ConstInputShape(input_shape={"x": [2, 5, 4]}).run(model)
    assert [dim.dim_value for dim in fixed.graph.input[0].type.tensor_type.shape.dim] == [2, 5, 4]


def test_a_fixed_extent_is_followed_through_any_operator_that_works_place_by_place() -> None:
    model = around(
        """e = Constant <value_ints = [3, 9, 8]> ()  m = Mul (x, column)  f = ReduceSum (m, one)  s = Expand (f, e)
        r = Sigmoid (s)  y = Mul (x, r)"""
    )
    for value in model.graph.input:
        for dim, extent in zip(value.type.tensor_type.shape.dim, (3, 9), strict=True):
            dim.dim_value = extent
    converted = Converter(pack_args={"max_valid_num": 6, "segment_max_size": 9}).convert(copy_of(model))
    assert metadata(converted)["shape_agnostic"]


@pytest.mark.parametrize(("lambd", "neighbours"), [("-1.0, bias = 2.0", "same_length"), ("0.5", "any")])
def test_a_shrink_keeps_zero_where_its_lambd_is_not_negative(lambd: str, neighbours: str) -> None:
    head = (
        f"masked = Mul (x, column)  s = Shrink <lambd = {lambd}> (masked)  pooled = ReduceSum <keepdims = 0> (s, one)"
    )
    assert metadata(packed(around("y = MatMul (x, W1)", head=head)))["neighbours"] == neighbours


def test_the_activation_of_onnxruntime_that_keeps_zero_is_known_to() -> None:
    head = """masked = Mul (x, column)  s = com.microsoft.QuickGelu (masked)
        pooled = ReduceSum <keepdims = 0> (s, one)"""
    assert metadata(packed(around("y = MatMul (x, W1)", head=head)))["neighbours"] == "any"


def test_shape_arithmetic_folds_through_clip_and_sign() -> None:
    model = parse("""g (float[2, 5] x) => (int64[2] y) <int64 low = {1}, int64 high = {3}> {
        s = Shape (x)  c = Clip (s, low, high)  n = Sign (c)  m = Mul (c, n)  y = Identity (m)
    }""")
    folded = TraceFolding().run(model)
    assert ops(folded) == ["Identity"]
    np.testing.assert_array_equal(
        ort.InferenceSession(folded.SerializeToString()).run(None, {"x": np.zeros((2, 5), np.float32)})[0], [2, 3]
    )


def test_bits_of_int64_inputs_become_int32_without_a_cast_back() -> None:
    model = parse("g (int64[3] x, int64[3] z) => (int64[3] y) { a = BitwiseAnd (x, z)  y = BitwiseNot (a) }", opset=18)
    narrowed = Int64ToInt32().run(copy_of(model))
    assert "BitwiseAnd" in ops(narrowed)
    assert ops(narrowed)[:2] == ["BitwiseAnd", "BitwiseNot"]
    feeds = {"x": np.array([6, 5, 1], np.int32), "z": np.array([3, 4, 1], np.int32)}
    got = ort.InferenceSession(narrowed.SerializeToString()).run(None, feeds)[0]
    np.testing.assert_array_equal(got, ~(feeds["x"] & feeds["z"]))

"""float32 becomes float16 where it may, and nothing overflows, vanishes or loses its name."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from models.bert import SIZES, BertConfig, build_bert
from passes.graph_io import import_graph
from passes.precision.float_to_half import FloatToHalf
from tests.numerics import padded, random_samples, run
from tests.passes.rewrites import copy_of, ops, parse, rewritten

F16, F32 = TensorProto.FLOAT16, TensorProto.FLOAT


def convert(model: onnx.ModelProto, **options: object) -> onnx.ModelProto:
    return rewritten(FloatToHalf(**options), model)  # type: ignore[arg-type]


def initializer(model: onnx.ModelProto, name: str) -> np.ndarray:
    return next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def io_types(model: onnx.ModelProto) -> list[int]:
    return [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)]


def test_inputs_weights_and_outputs_become_half() -> None:
    model = parse("g (float[n,2] x) => (float[n,2] y) <float[2,2] w = {1,2,3,4}> { y = MatMul (x, w) }")
    converted = convert(model)
    assert ops(converted) == ["MatMul"]
    assert io_types(converted) == [F16, F16]
    assert initializer(converted, "w").dtype == np.float16
    x = np.array([[1, 2]], np.float32)
    np.testing.assert_array_equal(run(converted, {"x": x.astype(np.float16)})["y"], run(model, {"x": x})["y"])


def test_a_skipped_operator_gets_casts_and_neighbours_share_them() -> None:
    model = parse("g (float[n] x) => (float[n] y) { a = Exp (x)  b = Tanh (a)  c = Sin (b)  y = Neg (c) }")
    converted = convert(model, skip_op_types="Tanh, Sin")
    assert ops(converted) == ["Exp", "Cast", "Tanh", "Sin", "Cast", "Neg"]
    assert converted.graph.node[0].output[0] == "a"
    assert "c" in [name for node in converted.graph.node for name in node.output]
    assert ops(convert(model, skip_op_types=["Sin"])) == ["Exp", "Tanh", "Cast", "Sin", "Cast", "Neg"]


def test_an_unknown_skip_type_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "poprt"):
        convert(parse("g (float[n] x) => (float[n] y) { y = Neg (x) }"), skip_op_types="Softmx")
    assert "Softmx" in caplog.text


def test_a_variance_chain_stays_float_and_keeps_its_epsilon() -> None:
    model = parse("""g (float[n,4] x) => (float[n,4] y)
    <float two = {2}, float eps = {1e-12}, float[4] gamma = {1,2,3,4}> {
        mean = ReduceMean <axes=[-1]> (x)  centred = Sub (x, mean)  square = Pow (centred, two)
        variance = ReduceMean <axes=[-1]> (square)  safe = Add (variance, eps)  deviation = Sqrt (safe)
        normal = Div (centred, deviation)  y = Mul (normal, gamma)
    }""")
    converted = convert(model)
    assert ops(converted) == ["Cast", "ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div", "Cast", "Mul"]
    assert initializer(converted, "eps") == np.float32(1e-12)
    zeros = np.zeros((1, 4), np.float16)
    np.testing.assert_array_equal(run(converted, {"x": zeros})["y"], zeros)


def test_an_epsilon_between_half_operators_does_not_become_zero() -> None:
    model = parse("g (float[n] x) => (float[n] y) <float eps = {1e-12}> { a = Add (x, eps)  y = Div (x, a) }")
    converted = convert(model)
    assert initializer(converted, "eps") == np.float16(2.0**-24)
    assert run(converted, {"x": np.zeros(1, np.float16)})["y"] == 0


def test_mask_fills_are_clamped_with_headroom() -> None:
    model = parse("""g (float[n] x) => (float[n] y, float[n] z) <float low = {-3.4e38}, float edge = {-65504}> {
        y = Add (x, low)  z = Add (x, edge)
    }""")
    converted = FloatToHalf().run(copy_of(model))
    got = run(converted, {"x": np.array([-500, 500], np.float16)})
    assert np.isfinite(got["y"]).all()
    assert np.isfinite(got["z"]).all()
    assert initializer(converted, "low") == np.float16(-6e4)


def test_a_clamped_number_that_control_flow_reads_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    model = parse("""g (float[2] x, int64 n) => (float y) <bool go = {1}, float start = {-1e9}> {
        y = Loop (n, go, start) <body = b (int64 i, bool c, float v) => (bool again, float w) {
            again = Identity (c)  m = ReduceMax <keepdims = 0> (x)  w = Max (v, m)
        }>
    }""")
    with caplog.at_level(logging.WARNING, "poprt"):
        FloatToHalf().run(copy_of(model))
    (record,) = caplog.records
    assert record.message == "1 finite values beyond float16 in 1 tensors became +-60000, most of them in start (1)"


def test_infinities_stay() -> None:
    model = parse("g (float[n] x, bool[n] c) => (float[n] y) { y = Where (c, x, low) }")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(-np.inf, np.float32), "low"))
    assert initializer(convert(model), "low") == -np.inf


def test_constants_follow_and_random_numbers_are_cast() -> None:
    model = parse("""g (float[n] x, int64[1] k) => (float[n] y, float[m] z, float[2] r) {
        c = Constant <value_float = 2.0> ()  y = Mul (x, c)  z = ConstantOfShape (k)  r = RandomNormal <shape=[2]> ()
    }""")
    converted = convert(model)
    assert ops(converted) == ["Constant", "Mul", "ConstantOfShape", "RandomNormal", "Cast"]
    assert io_types(converted) == [F16, TensorProto.INT64, F16, F16, F16]
    got = run(converted, {"x": np.ones(1, np.float16), "k": np.array([3])})
    assert [got[name].dtype for name in "yzr"] == [np.float16] * 3


def test_a_cast_to_float_becomes_a_cast_to_half() -> None:
    model = parse("g (int64[n] mask) => (float[n] y) <float one = {1}> { m = Cast <to=1> (mask)  y = Sub (one, m) }")
    converted = convert(model)
    assert ops(converted) == ["Cast", "Sub"]
    assert converted.graph.node[0].attribute[0].i == F16


def test_arithmetic_on_indices_stays_exact_beyond_2048() -> None:
    model = parse("""g (int64[n] ids) => (int64[n] y) <float two = {2}> {
        f = Cast <to=1> (ids)  h = Div (f, two)  r = Floor (h)  y = Cast <to=7> (r)
    }""")
    converted = convert(model)
    assert ops(converted) == ["Cast", "Div", "Floor", "Cast"]
    assert run(converted, {"ids": np.array([20003])})["y"] == 10001


def test_one_tensor_in_both_forms_keeps_its_name_for_half() -> None:
    model = parse("g (float[n] x) => (float[n] y, float[n] z) { t = Neg (x)  y = Abs (t)  z = Sqrt (t) }")
    converted = convert(model)
    assert ops(converted) == ["Neg", "Cast", "Abs", "Sqrt", "Cast"]
    assert list(converted.graph.node[1].input) == ["t"]
    assert list(converted.graph.node[1].output) == ["t_float"]


def test_subgraphs_are_converted_and_read_outer_tensors() -> None:
    model = parse("""g (float[n] x, bool c) => (float[n] y) <float two = {2}> {
        y = If (c) <then_branch = t () => (float[n] a) { a = Mul (x, two) },
                    else_branch = e () => (float[n] d) { d = Sqrt (x) }>
    }""")
    converted = convert(model)
    assert ops(converted) == ["Cast", "If"]
    branches = {a.name: a.g for a in converted.graph.node[1].attribute}
    assert ops(branches["then_branch"]) == ["Mul"]
    assert ops(branches["else_branch"]) == ["Sqrt", "Cast"]
    for condition, expected in ((True, 8), (False, 2)):
        assert run(converted, {"x": np.array([4], np.float16), "c": np.array(condition)})["y"] == expected


def test_a_local_function_is_converted_and_a_generic_one_is_not() -> None:
    model = parse("""g (float[n] x) => (float[n] y) { a = local.Twice (x)  y = ai.graphcore.Gen (a) }
    <domain: "local", opset_import: ["" : 17]> Twice (x) => (y) { c = Constant <value_float = 2.0> ()  y = Mul (x, c) }
    <domain: "ai.graphcore", opset_import: ["" : 17]> Gen (x) => (y) {
        c = Constant <value_float = 3.0> ()  d = CastLike (c, x)  y = Mul (x, d) }""")
    converted = convert(model)
    bodies = {function.name: function for function in converted.functions}
    assert ops(bodies["Twice"]) == ["Constant", "Mul"]
    assert bodies["Gen"] == next(f for f in model.functions if f.name == "Gen")
    assert run(converted, {"x": np.array([4], np.float16)})["y"] == 24


def test_attention_mask_follows_in_its_attribute() -> None:
    model = parse("""g (int32[r,c] mask, float[r,h,c,c] s) => (float[r,h,c,c] y) {
        m = ai.graphcore.AttentionMask <dataType = "FLOAT"> (mask, s)  y = Add (s, m)
    }""")
    converted = FloatToHalf().run(model)
    attributes = {a.name: a for a in converted.graph.node[0].attribute}
    assert ops(converted) == ["AttentionMask", "Add"]
    assert attributes["dataType"].s == b"FLOAT16"
    assert attributes["to"].i == F16


def test_an_operator_that_nobody_knows_stays_float() -> None:
    model = parse("""g (float[n] x) => (float[n] y) {
        a = com.microsoft.Mystery (x)  b = com.microsoft.FastGelu (a)  y = Neg (b)
    }""")
    assert ops(FloatToHalf().run(model)) == ["Cast", "Mystery", "Cast", "FastGelu", "Neg"]


def test_scores_stay_float_where_overflow_is_avoided() -> None:
    model = parse("""g (float[n,4] q, float[4,n] k) => (float[n,n] y) <float scale = {2}> {
        s = MatMul (q, k)  t = Div (s, scale)  y = Softmax (t)
    }""")
    assert ops(convert(model)) == ["MatMul", "Div", "Softmax"]
    safe = convert(model, enable_avoid_overflow_patterns=True)
    assert ops(safe) == ["Cast", "Cast", "MatMul", "Div", "Softmax", "Cast"]
    big = {"q": np.full((1, 4), 300, np.float16), "k": np.full((4, 1), 300, np.float16)}
    assert run(safe, big)["y"] == 1


def test_names_of_tensors_survive() -> None:
    model = parse("g (float[n] x) => (float[n] y) { a = Neg (x)  b = Sqrt (a)  c = Pow (b, b)  y = Abs (c) }")
    names = {name for node in model.graph.node for name in node.output}
    assert names <= {name for node in convert(model).graph.node for name in node.output}


def test_uint8_and_float64_are_left_alone() -> None:
    model = parse("g (uint8[n] x, double[n] d) => (uint8[n] y, double[n] e) { y = Identity (x)  e = Neg (d) }")
    assert convert(model).graph == model.graph


@pytest.mark.parametrize("dialect", ["old-torch", "new-torch"])
@pytest.mark.parametrize("avoid_overflow", [False, True])
def test_an_encoder_shrinks_to_half_and_stays_close(dialect: str, avoid_overflow: bool) -> None:
    model = build_bert(BertConfig(**SIZES["tiny"], head="qa", dialect=dialect))
    converted = convert(model, enable_avoid_overflow_patterns=avoid_overflow)
    feeds = padded(random_samples([3, 16, 9], vocab=1000))
    got = run(converted, feeds)
    for name, expected in run(model, feeds).items():
        error = np.abs(got[name].astype(np.float32) - expected)
        assert error.max() < 2e-2
        assert error.mean() < 2e-3
    assert converted.ByteSize() < 0.6 * model.ByteSize()


def test_a_sequence_of_tensors_follows() -> None:
    model = parse("""g (float[n] x) => (float[m] y) {
        s = SequenceConstruct (x, x)  y = ConcatFromSequence <axis=0> (s)
    }""")
    converted = convert(model)
    assert ops(converted) == ["SequenceConstruct", "ConcatFromSequence"]
    np.testing.assert_array_equal(run(converted, {"x": np.ones(2, np.float16)})["y"], np.ones(4, np.float16))


def test_quantisation_keeps_its_scales() -> None:
    model = parse("""g (float[n] x) => (float[n] y) <float scale = {0.1}, uint8 zero = {0}> {
        q = QuantizeLinear (x, scale, zero)  y = DequantizeLinear (q, scale, zero)
    }""")
    converted = convert(model)
    assert ops(converted) == ["Cast", "QuantizeLinear", "DequantizeLinear", "Cast"]
    assert initializer(converted, "scale").dtype == np.float32


def test_the_body_of_a_loop_is_converted() -> None:
    model = parse("""g (float[2] x, int64 n) => (float[2] y) <bool go = {1}> {
        y = Loop (n, go, x) <body = b (int64 i, bool c, float[2] v) => (bool again, float[2] w) {
            again = Identity (c)  w = Add (v, x)
        }>
    }""")
    converted = convert(model)
    assert io_types(converted) == [F16, TensorProto.INT64, F16]
    got = run(converted, {"x": np.ones(2, np.float16), "n": np.array(3)})["y"]
    np.testing.assert_array_equal(got, np.full(2, 4, np.float16))


def test_a_tensor_of_unknown_type_is_named() -> None:
    graph = import_graph(
        parse("""g (float[n] x) => (float[n] y) {
        a, b = com.microsoft.Mystery (x)  y = com.microsoft.Mystery (a, b)
    }""")
    )
    result = FloatToHalf().apply(graph)
    assert any("'b' is not known" in refusal.reason for refusal in result.refusals)


def test_a_constant_node_in_both_worlds_is_rounded_in_neither() -> None:
    model = parse("""g (float[2] x) => (float[2] y, float[2] z) {
        c = Constant <value_float = 3e38> ()  r = Sqrt (x)  a = Pow (r, c)  b = Min (x, c)  y = Neg (a)  z = Abs (b)
    }""")
    converted = convert(model)
    assert ops(converted) == ["Cast", "Constant", "Constant", "Sqrt", "Pow", "Cast", "Min", "Neg", "Abs"]
    values = {node.output[0]: node.attribute[0] for node in converted.graph.node[1:3]}
    assert values["c_float"].f == np.float32(3e38)
    assert onnx.numpy_helper.to_array(values["c"].t) == np.float16(6e4)


def test_a_constant_that_only_a_cast_reads_is_left_exact() -> None:
    model = parse("g () => (int64[1] y) <float[1] big = {3000001}> { y = Cast <to=7> (big) }")
    converted = convert(model)
    assert converted.graph == model.graph


def test_control_flow_cannot_be_skipped_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = parse("""g (float[n] x, bool c) => (float[n] y) {
        y = If (c) <then_branch = t () => (float[n] a) { a = Neg (x) },
                    else_branch = e () => (float[n] d) { d = Abs (x) }>
    }""")
    with caplog.at_level(logging.WARNING, "poprt"):
        converted = convert(model, skip_op_types=["If"])
    assert "If has no precision of its own" in caplog.text
    assert ops(converted) == ["If"]
    assert run(converted, {"x": np.array([-4], np.float16), "c": np.array(False)})["y"] == 4

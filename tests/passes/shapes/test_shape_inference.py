"""Shapes and types are written where they are missing."""

from __future__ import annotations

import onnx

from passes.shapes.shape_inference import ShapeInference
from tests.passes.rewrites import declared, ops, parse, rewritten, say_packed


def test_shapes_follow_from_the_inputs_in_their_names() -> None:
    model = parse("""g (float[batch,seq,4] x) => (float[batch,seq,2] y) <float[4,2] w = {0,1,2,3,4,5,6,7}> {
        m = MatMul (x, w)  joined = Concat <axis=1> (m, m)  n = Neg (m)  s = Shape (joined)  y = Identity (n)
    }""")
    converted = rewritten(ShapeInference(), model)
    shapes = declared(converted)
    assert shapes["m"] == ["batch", "seq", 2]
    assert shapes["joined"] == ["batch", "2*seq", 2]
    assert shapes["s"] == [3]
    types = {value.name: value.type.tensor_type.elem_type for value in converted.graph.value_info}
    assert types["s"] == onnx.TensorProto.INT64
    assert types["n"] == onnx.TensorProto.FLOAT
    assert ops(converted) == ops(model)


def test_a_shape_that_the_exporter_left_wins_where_it_is_more_specific() -> None:
    model = parse("""g (float[batch,seq] x, int64[k] target) => (float[a,b] y) <float[a,8] r, float[rows,seq] n> {
        r = Reshape (x, target)  n = Neg (x)  y = Abs (r)
    }""")
    shapes = declared(rewritten(ShapeInference(), model))
    assert shapes["r"] == ["a", 8]
    assert shapes["n"] == ["rows", "seq"]


def test_an_output_of_another_rank_than_its_graph_proves_gets_that_of_the_graph() -> None:
    model = parse("""g (float[b,n,4] x) => (float[b,n] y, float[b,n] z) <int64[1] first = {0}, int64 axis = {0}> {
        extents = Shape (x)  batch = Gather (extents, axis)  one = Unsqueeze (batch, first)
        target = Concat <axis=0> (one, first, first)  y = Reshape (x, target)
        last = Constant <value = int64[1] {-1}> ()  z = ReduceSum <keepdims=0> (x, last)
    }""")
    shapes = declared(rewritten(ShapeInference(), model))
    assert len(shapes["y"]) == 3
    assert shapes["z"] == ["b", "n"]


def test_types_are_set_behind_a_local_function_and_a_subgraph() -> None:
    model = parse("""g (float[n] x, bool c) => (float[n] y) {
        a = local.Twice (x)  b = Cast <to=10> (a)
        d = If (c) <then_branch = t () => (float16[n] p) { p = Neg (b) },
                    else_branch = e () => (float16[n] q) { q = Abs (b) }>
        y = Cast <to=1> (d)
    }
    <domain: "local", opset_import: ["" : 17]> Twice (x) => (y) { y = Add (x, x) }""")
    converted = rewritten(ShapeInference(), model)
    types = {value.name: value.type.tensor_type.elem_type for value in converted.graph.value_info}
    assert (types["a"], types["b"], types["d"]) == (
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.FLOAT16,
    )


def test_nothing_is_guessed_behind_an_unknown_operator() -> None:
    model = parse("g (float[b,4] x) => (float[p,q] y) { a = com.microsoft.Mystery (x)  y = Identity (a) }")
    shapes = declared(rewritten(ShapeInference(), model))
    assert shapes["a"] == []
    assert shapes["y"] == ["p", "q"]


def test_a_packed_model_with_declared_inputs_gets_types_only() -> None:
    model = parse("g (float[2,8,4] x) => (float[r,c,4] y) { a = Neg (x)  y = Abs (a) }")
    say_packed(model)
    assert declared(rewritten(ShapeInference(), model))["a"] == []
    del model.metadata_props[:]
    assert declared(rewritten(ShapeInference(), model))["a"] == [2, 8, 4]

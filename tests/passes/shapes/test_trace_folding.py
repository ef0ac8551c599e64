"""Shape arithmetic becomes constant once the shapes are known."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from passes.errors import RewriteError
from passes.shapes.trace_folding import TraceFolding
from tests.numerics import run
from tests.passes.rewrites import copy_of, ops, parse, rewritten, say_packed


def test_a_reshape_target_is_folded_and_keeps_its_name() -> None:
    model = parse("""g (float[2,6] x) => (float[2,3,2] y)
    <int64 zero = {0}, int64[1] axis = {0}, int64[2] rest = {3,2}> {
        s = Shape (x)  b = Gather (s, zero)  u = Unsqueeze (b, axis)  target = Concat <axis=0> (u, rest)
        y = Reshape (x, target)
    }""")
    converted = rewritten(TraceFolding(), model)
    assert ops(converted) == ["Reshape"]
    folded = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in converted.graph.initializer}
    np.testing.assert_array_equal(folded["target"], [2, 3, 2])
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_array_equal(run(converted, {"x": x})["y"], run(model, {"x": x})["y"])


def test_known_extents_are_folded_beside_unknown_ones() -> None:
    model = parse("""g (float[batch,6] x) => (int64[1] k, float[batch,6] y)
    <int64[1] one = {1}, int64[1] zero = {0}, int64 big = {9223372036854775807}> {
        s = Shape (x)  w = Gather (s, one)  h = Gather (s, zero)  double = Add (w, w)
        k = Mul (h, double)  y = Reshape (x, s)
    }""")
    converted = rewritten(TraceFolding(), model)
    assert ops(converted) == ["Shape", "Gather", "Mul", "Reshape"]
    x = np.ones((3, 6), np.float32)
    assert run(converted, {"x": x})["k"] == [36]


def test_shape_with_start_and_end_and_size_are_folded() -> None:
    model = parse("""g (float[2,3,4] x) => (float[24] y, int64[1] z) <int64[1] axis = {0}> {
        s = Shape <start=-2, end=-1> (x)  n = Size (x)  t = Unsqueeze (n, axis)  y = Reshape (x, t)  z = Identity (s)
    }""")
    converted = rewritten(TraceFolding(), model)
    assert ops(converted) == ["Reshape", "Identity"]
    assert run(converted, {"x": np.ones((2, 3, 4), np.float32)})["z"] == [3]


def test_what_a_folded_target_proves_is_folded_behind_it() -> None:
    """No tensor between declares a shape; of the target [batch, 3, 2] one extent is open."""
    model = parse("""g (float[batch,6] x) => (float[batch,2,3] y) <int64 zero = {0}, int64 two = {2}, int64 one = {1},
    int64[1] axis = {0}, int64[2] rest = {3,2}> {
        s = Shape (x)  b = Gather (s, zero)  u = Unsqueeze (b, axis)  target = Concat <axis=0> (u, rest)
        r = Reshape (x, target)  a = Abs (r)  s2 = Shape (a)  last = Gather (s2, two)  middle = Gather (s2, one)
        lu = Unsqueeze (last, axis)  mu = Unsqueeze (middle, axis)
        t2 = Concat <axis=0> (u, lu, mu)  y = Reshape (a, t2)
    }""")
    converted = rewritten(TraceFolding(), model)
    assert ops(converted).count("Shape") == 1
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_array_equal(run(converted, {"x": x})["y"], run(model, {"x": x})["y"])


def test_an_output_of_the_model_is_still_computed() -> None:
    model = parse("g (float[2,3] x) => (int64[2] s) { s = Shape (x) }")
    assert ops(rewritten(TraceFolding(), model)) == ["Shape"]


def test_unknown_extents_and_large_results_stay() -> None:
    model = parse("""g (float[batch,seq] x, float[50,50] w) => (int64[2] y, int64[50,50] z) {
        s = Shape (x)  t = Abs (s)  y = Neg (t)  e = Shape (w)
        f = ConstantOfShape <value = int64[1] {7}> (e)  z = Neg (f)
    }""")
    assert ops(rewritten(TraceFolding(), model)) == ["Shape", "Abs", "Neg", "ConstantOfShape", "Neg"]


def test_a_packed_model_is_left_alone() -> None:
    model = parse("g (float[2,3] x) => (int64[2] y) { s = Shape (x)  y = Neg (s) }")
    say_packed(model)
    assert ops(TraceFolding().run(copy_of(model))) == ["Shape", "Neg"]
    del model.metadata_props[:]
    assert ops(TraceFolding().run(model)) == ["Neg"]


def test_arithmetic_that_fails_on_the_declared_shapes_is_an_error_that_names_the_node() -> None:
    model = parse("""g (float[2,3,4] x) => (int64[2] y) <int64[2] pair = {1,2}> {
        s = Shape (x)  t = Add (s, pair)  y = Neg (t)
    }""")
    with pytest.raises(RewriteError, match=r"Add 't' fails on the declared shapes \(operands of \[3\], \[2\]\)"):
        TraceFolding().run(model)

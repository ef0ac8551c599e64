"""Weights stored in bfloat16: what the executable holds, and what the engine's graph sees."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from poprt.compiler import Compiler, CompilerOptions
from poprt.manifest import ENGINES
from poprt.runtime.declared import DeclaredSession

W = np.random.default_rng(0).normal(size=(64, 64)).astype(ml_dtypes.bfloat16)
FEEDS = {"x": np.ones((2, 64), np.float32)}


def model(body: str) -> onnx.ModelProto:
    """``w`` is a weight in bfloat16."""
    proto = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> m (float[2, 64] x) => (float[2, 64] y) {body}'
    )
    raw = W.tobytes()
    proto.graph.initializer.append(helper.make_tensor("w", onnx.TensorProto.BFLOAT16, W.shape, raw, raw=True))
    return proto


@pytest.mark.parametrize("engine", ENGINES)
def test_it_is_stored_in_half_and_the_cast_is_gone(engine: str) -> None:
    proto = model("{ f = Cast<to = 1>(w) y = MatMul(x, f) }")
    executable = Compiler.compile(proto, options=CompilerOptions(engine=engine))
    (spec,) = executable.manifest.weights
    assert (spec.dtype, spec.engine_dtype, spec.nbytes) == ("bfloat16", "float32", W.nbytes)
    assert [node.op_type for node in onnx.load_from_string(executable.graph).graph.node] == ["MatMul"]


def test_it_answers_as_the_rounded_weight_does() -> None:
    for body in (
        "{ f = Cast<to = 1>(w) y = MatMul(x, f) }",
        "{ f = Cast<to = 1>(w) g = Cast<to = 1>(w) h = MatMul(x, f) y = MatMul(h, g) }",  # cast twice
    ):
        (y,) = DeclaredSession(Compiler.compile(model(body))).run(FEEDS)
        expected = FEEDS["x"] @ W.astype(np.float32)
        expected = expected @ W.astype(np.float32) if "g" in body else expected
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-4)


def test_a_weight_that_is_an_output_as_well_keeps_its_cast() -> None:
    proto = model("{ f = Cast<to = 1>(w) y = MatMul(x, f) }")
    proto.graph.output.append(helper.make_tensor_value_info("f", onnx.TensorProto.FLOAT, [64, 64]))
    y, f = DeclaredSession(Compiler.compile(proto)).run(FEEDS)
    np.testing.assert_array_equal(f, W.astype(np.float32))
    np.testing.assert_allclose(y, FEEDS["x"] @ f, rtol=1e-5, atol=1e-4)


def test_a_weight_that_something_else_reads_stays_in_the_graph() -> None:
    rest = "p = MatMul (x, f) s = Shape (w) n = CastLike (s, p) r = ReduceSum (n) y = Add (p, r)"
    executable = Compiler.compile(model(f"{{ f = Cast <to = 1> (w) {rest} }}"))
    assert executable.manifest.weights == ()
    (y,) = DeclaredSession(executable, threads=1).run(FEEDS)
    np.testing.assert_allclose(y, FEEDS["x"] @ W.astype(np.float32) + 128, atol=1e-4)


def test_a_float32_weight_is_none_of_its_business() -> None:
    proto = model("{ f = Cast<to = 1>(w) h = MatMul(x, f) y = MatMul(h, v) }")
    proto.graph.initializer.append(numpy_helper.from_array(W.astype(np.float32), "v"))
    types = {spec.name: spec.dtype for spec in Compiler.compile(proto).manifest.weights}
    assert types == {"w": "bfloat16", "v": "float32"}

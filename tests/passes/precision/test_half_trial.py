"""The engine is asked which nodes it takes in float16: by its schemas, its list of kernels, and a trial."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from passes.engine_operators import engine_schema, has_half_kernel
from passes.graph_io import import_graph
from passes.precision.float_to_half import FloatToHalf
from tests.numerics import run
from tests.passes.rewrites import copy_of, ops, parse, rewritten

SUMS = [
    ("ScatterElements", "int64[1,4] i, float[1,4] u"),
    ("ScatterND", "int64[2,1] i, float[2,4] u"),
    ("ScatterND", "int64[2,2] i, float[2] u"),
]


def scatter(kind: str, op: str, inputs: str, reduction: str) -> onnx.ModelProto:
    inputs = inputs.replace("float", kind)
    body = f'a = Neg (x)  y = {op} <reduction = "{reduction}"> (a, i, u)'
    return parse(f"g ({kind}[3,4] x, {inputs}) => ({kind}[3,4] y) {{ {body} }}", opset=18)


def refuses(model: onnx.ModelProto, feeds: dict[str, NDArray[Any]]) -> bool:
    try:
        run(model, feeds)
    except Exception:  # onnxruntime's exceptions share no base class of their own
        return True
    return False


@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
@pytest.mark.parametrize(("op", "inputs"), SUMS)
def test_what_a_kernel_refuses_as_it_runs_stays_float_by_name(op: str, inputs: str, reduction: str) -> None:
    model = scatter("float", op, inputs, reduction)
    converted = rewritten(FloatToHalf(), model)
    shapes = [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.input[1:]]
    feeds = {"x": np.ones((3, 4), np.float16), "i": np.zeros(shapes[0], np.int64), "u": np.ones(shapes[1], np.float16)}
    stays = refuses(scatter("float16", op, inputs, reduction), feeds)
    assert stays or reduction in ("max", "min")
    assert sorted(ops(converted)) == ["Cast"] * (3 * stays) + ["Neg", op]
    refusals = FloatToHalf().apply(import_graph(copy_of(model))).refusals
    assert [str(r) for r in refusals] == [f"{op} 'y': stays float32: onnxruntime does not take it in float16"] * stays
    floats = {name: array if name == "i" else array.astype(np.float32) for name, array in feeds.items()}
    np.testing.assert_array_equal(run(converted, feeds)["y"], run(model, floats)["y"])


def test_the_same_operators_without_a_reduction_become_half() -> None:
    model = parse("g (float[3,4] x, int64[1,4] i, float[1,4] u) => (float[3,4] y) { y = ScatterElements (x, i, u) }")
    assert ops(rewritten(FloatToHalf(), model)) == ["ScatterElements"]


def test_what_holds_a_value_gives_its_type() -> None:
    model = parse("""g (int64[1] k, float[1] x) => (float[n] y, float[1] z) {
        y = ConstantOfShape (k)  c = Constant <value_float = 2.0> ()  z = Mul (x, c)
    }""")
    assert ops(rewritten(FloatToHalf(), model)) == ["ConstantOfShape", "Constant", "Mul"]
    assert not FloatToHalf().apply(import_graph(copy_of(model))).refusals


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 26, reason="this onnx does not have BitCast")
def test_bits_are_read_from_float32() -> None:
    model = parse("g (float[n] x) => (int32[n] y) { y = BitCast <to = 6> (x) }", opset=26)
    assert ops(FloatToHalf().run(copy_of(model))) == ["Cast", "BitCast"]


def test_operators_of_the_engine_follow_its_schemas() -> None:
    model = parse("""g (float[2,32] x, uint8[32,1,16] q, float[32] s, float[32] b) => (float[2,32] y) {
        a = com.microsoft.MatMulNBits <K = 32, N = 32, bits = 4, block_size = 32> (x, q, s)
        c = com.microsoft.QuickGelu (a)  y = com.microsoft.BiasGelu (c, b)
    }""")
    converted = FloatToHalf().run(model)
    assert ops(converted) == ["MatMulNBits", "QuickGelu", "BiasGelu"]
    feeds = {"x": np.ones((2, 32), np.float16), "q": np.zeros((32, 1, 16), np.uint8)}
    half = np.ones(32, np.float16)
    assert run(converted, {**feeds, "s": half, "b": half})["y"].dtype == np.float16


def test_the_engine_lists_schemas_and_kernels() -> None:
    schema = engine_schema("com.microsoft", "EmbedLayerNormalization")
    assert schema is not None
    assert [formal.type_str for formal in schema.outputs] == ["T", "T1", "T"]
    assert engine_schema("com.microsoft", "Mystery") is None
    assert has_half_kernel("", "ScatterElements")  # but not for a reduction: it has to be tried
    assert not has_half_kernel("", "NonZero")


def test_an_operator_with_a_second_output_that_is_no_float_keeps_that_type() -> None:
    model = parse("""g (int32[b,s] ids, int32[b,s] mask) => (float[b,s,4] y, int32[b] n) {
        y, m = com.microsoft.EmbedLayerNormalization (ids, , T, P, , V, V, mask)  n = Neg (m)
    }""")
    for name, shape in {"T": (9, 4), "P": (5, 4), "V": (4,)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    converted = FloatToHalf().run(model)
    assert ops(converted) == ["EmbedLayerNormalization", "Neg"]
    feeds = {"ids": np.ones((1, 3), np.int32), "mask": np.ones((1, 3), np.int32)}
    assert run(converted, feeds)["y"].dtype == np.float16


def test_a_node_is_not_tried_on_fewer_axes_than_it_names() -> None:
    """onnxruntime's ReverseSequence ends the process there."""
    model = parse(
        "g (float[2,3,4] x, int64[m] shape, int64[n] lengths) => (float[a,b,c] y) {"
        " r = Reshape (x, shape)  l = Squeeze (lengths)  y = ReverseSequence <batch_axis = 1, time_axis = 0> (r, l) }"
    )
    program = (
        "import sys, onnx; from passes.graph_io import import_graph; from passes.precision.float_to_half import"
        " FloatToHalf; FloatToHalf().apply(import_graph(onnx.load_from_string(sys.stdin.buffer.read())))"
    )
    tried = subprocess.run([sys.executable, "-c", program], input=model.SerializeToString(), capture_output=True)
    assert tried.returncode == 0, tried.stderr.decode()

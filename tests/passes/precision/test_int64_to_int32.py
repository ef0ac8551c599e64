"""int64 inputs become int32, and whatever needs int64 gets it back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from passes.graph_io import import_graph
from passes.ops import attach_functions
from passes.precision.int64_to_int32 import Int64ToInt32
from tests.numerics import run
from tests.passes.rewrites import copy_of, ops, parse, rewritten


def convert(model: onnx.ModelProto) -> onnx.ModelProto:
    return rewritten(Int64ToInt32(), model)


def input_types(model: onnx.ModelProto) -> list[int]:
    return [value.type.tensor_type.elem_type for value in model.graph.input]


def same(model: onnx.ModelProto, converted: onnx.ModelProto, feeds: dict[str, Any]) -> None:
    """Both give the same numbers and types; the converted model takes its integers as int32."""
    arrays = {name: np.asarray(value) for name, value in feeds.items()}
    floats = {name: a.astype(np.float32) if a.dtype == np.float64 else a for name, a in arrays.items()}
    narrow = {name: a.astype(np.int32) if a.dtype == np.int64 else a for name, a in floats.items()}
    got = run(converted, narrow)
    for name, expected in run(model, floats).items():
        assert got[name].dtype == expected.dtype
        np.testing.assert_array_equal(got[name], expected)


def test_ids_reach_a_gather_without_a_cast() -> None:
    model = parse("""g (int64[b,s] ids) => (float[b,s,2] y) <float[4,2] table = {0,1,2,3,4,5,6,7}> {
        y = Gather (table, ids)
    }""")
    converted = convert(model)
    assert ops(converted) == ["Gather"]
    assert input_types(converted) == [onnx.TensorProto.INT32]
    same(model, converted, {"ids": [[0, 3], [2, 1]]})


def test_int32_flows_through_arithmetic_with_constants_and_constants_are_converted() -> None:
    model = parse("""g (int64[b,s] ids) => (bool[b,s] y) <int64[1] one = {1}> {
        shifted = Add (ids, one)
        positions = CumSum (shifted, one)
        y = Greater (positions, one)
    }""")
    converted = convert(model)
    assert ops(converted) == ["Add", "CumSum", "Greater"]
    same(model, converted, {"ids": [[0, 3], [2, 1]]})


def test_an_output_of_int64_stays_int64_under_its_name() -> None:
    model = parse("g (int64[b] ids) => (int64[b] y, int64[b] z) { y = Neg (ids)  z = Abs (y) }")
    converted = convert(model)
    assert ops(converted) == ["Neg", "Cast", "Abs", "Cast"]
    assert [output.name for output in converted.graph.output] == ["y", "z"]
    same(model, converted, {"ids": [1, 2]})


def test_an_input_that_is_an_output_too_is_said_to_change_both() -> None:
    model = parse("g (int64[n] ids, float[8] T) => (int64[n] ids, float[n] y) { y = Gather (T, ids) }")
    graph = import_graph(model)
    result = Int64ToInt32().apply(graph)
    (refusal,) = result.refusals
    assert str(refusal) == "ids: is an input and an output at once, so the output is int32 too"
    assert {value.name: value.dtype for value in graph.outputs}["ids"] == np.int32


def test_a_constant_beyond_int32_keeps_the_operator_in_int64() -> None:
    model = parse("g (int64[b] ids) => (bool[b] y) <int64[1] big = {9223372036854775807}> { y = Less (ids, big) }")
    converted = convert(model)
    assert ops(converted) == ["Cast", "Less"]
    same(model, converted, {"ids": [1, 2]})


def test_the_open_end_of_a_slice_stays_int64() -> None:
    model = parse("""g (int64[b,s] ids) => (bool[b,n] y)
    <int64[1] start = {1}, int64[1] end = {9223372036854775807}, int64[1] axis = {1}, int64 zero = {0}> {
        tail = Slice (ids, start, end, axis)
        y = Greater (tail, zero)
    }""")
    converted = convert(model)
    assert ops(converted) == ["Slice", "Greater"]
    assert {"start", "end", "axis"} <= {tensor.name for tensor in converted.graph.initializer}
    same(model, converted, {"ids": [[0, 3, 1]]})


def test_a_shape_computed_from_an_input_is_cast_back() -> None:
    model = parse("g (float[n] x, int64[k] target) => (float[m] y) { y = Expand (x, target) }")
    converted = convert(model)
    assert ops(converted) == ["Cast", "Expand"]
    same(model, converted, {"x": [5.0], "target": [3]})


def test_an_operator_that_mixes_with_computed_int64_runs_in_int64() -> None:
    model = parse("g (int64[b] ids) => (bool[b] y) { n = Shape (ids)  y = Less (ids, n) }")
    converted = convert(model)
    assert ops(converted) == ["Shape", "Cast", "Less"]
    same(model, converted, {"ids": [1, 2, 3]})


def test_a_subgraph_reads_the_int64_form() -> None:
    model = parse("""g (int64[b] ids, bool c) => (int64[b] y) {
        y = If (c) <then_branch = t () => (int64[b] a) { a = Add (ids, ids) },
                    else_branch = e () => (int64[b] d) { d = Identity (ids) }>
    }""")
    converted = convert(model)
    assert ops(converted) == ["Cast", "If"]
    same(model, converted, {"ids": [1, 2], "c": True})
    same(model, converted, {"ids": [1, 2], "c": False})


def test_the_packing_operators_take_int32() -> None:
    model = parse("""g (int64[2,4] ids, int32[3,1] unpack_info) => (bool[3,4] y, float[2,1,4,4] m) <int64 one = {1}> {
        u = ai.graphcore.Unpack <max_valid_num=3, segment_max_size=[4]> (ids, unpack_info)
        y = Greater (u, one)  m = ai.graphcore.AttentionMask <dataType="FLOAT", to=1> (ids, ids)
    }""")
    attach_functions(model)
    converted = convert(model)
    assert ops(converted) == ["Unpack", "Greater", "AttentionMask"]
    lengths = np.array([[3], [4], [1]], np.int32)
    same(model, converted, {"ids": [[1, 1, 2, 2], [1, 2, 3, 0]], "unpack_info": lengths})


def test_a_node_of_another_domain_gets_int64() -> None:
    model = parse("""g (int64[n] ids) => (int64[n] y) { y = local.Twice (ids) }
    <domain: "local", opset_import: ["" : 17]> Twice (x) => (y) { y = Add (x, x) }""")
    converted = convert(model)
    assert ops(converted) == ["Cast", "Twice"]
    same(model, converted, {"ids": [1, 2]})


COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")


@pytest.mark.parametrize(
    "expression",
    [
        "Add (x, two)", "Sub (x, two)", "Mul (x, two)", "Div (x, two)", "Mod (x, two)", "Max (x, two)", "Min (x, two)",
        "Neg (x)", "Abs (x)", "Sign (x)", "CumSum (x, one)", "Clip (x, zero, seven)", "Transpose (x)", "Flatten (x)",
        "Squeeze (x, none)", "Unsqueeze (x, axis)", "Reshape (x, flat)", "Expand (x, pair)", "Tile (x, pair)",
        "Concat <axis=0> (x, x)", "Slice (x, axis, end, axis)", "Gather (x, axis)", "GatherElements (x, places)",
        "ScatterElements (x, places, places)", "Where (c, x, two)", "ReduceMax (x)", "ReduceMin (x)", "ReduceSum (x)",
        "ArgMax (x)", "ArgMin (x)", "NonZero (x)", "Identity (x)", "Size (x)", "Shape (x)",
        "Equal (x, two)", "Greater (x, two)", "GreaterOrEqual (x, two)", "Less (x, two)", "LessOrEqual (x, two)",
    ],
)  # fmt: skip
def test_the_engine_has_an_int32_kernel_for_every_operator_of_the_table(expression: str) -> None:
    kind = "bool" if expression.split()[0] in COMPARISONS else "int64"
    model = parse(f"""g (int64[2,2] x, bool[2,2] c) => ({kind} y)
    <int64 one = {{1}}, int64 two = {{2}}, int64 zero = {{0}}, int64 seven = {{7}}, int64[0] none = {{}},
     int64[1] axis = {{0}}, int64[1] end = {{2}}, int64[1] flat = {{-1}}, int64[2] pair = {{2,1}},
     int64[2,2] places = {{0,1,1,0}}> {{ y = {expression} }}""")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    converted = Int64ToInt32().run(copy_of(model))
    assert ops(converted)[0] == expression.split()[0], "a Cast stands before the operator"
    same(model, converted, {"x": [[3, 1], [2, 5]], "c": [[True, False], [False, True]]})

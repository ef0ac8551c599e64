"""Which axis carries the batch and which the sequence, for whatever spelling of shape arithmetic."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import sympy
from onnx import numpy_helper

from passes.graph_io import import_graph
from passes.shapes.symbolic import infer_symbolic_shapes, symbol
from tests.passes.rewrites import parse

B, S = symbol("B"), symbol("S")


def shapes_of(body: str, assumed: dict[str, list[int | str]] | None = None, value_info: str = ""):
    text = f"m (float[batch, seq, 8] x) => (float[o0, o1, o2] y) {value_info} {{ {body} }}"
    model = parse(text)
    constants = {
        "heads": [0, 0, 4, 2],
        "rows": [-1, 8],
        "pairs": [[0, 0]] * 5,
        "from_last": [-1],
        "to_far": [9999],
        "second": [1],
        "first": [0],
        "longest": [512],
        "last": [2],
    }
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v), name) for name, v in constants.items())
    if "places" in body:
        model.graph.input.append(onnx.helper.make_tensor_value_info("places", onnx.TensorProto.INT64, ["B", 1]))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    graph: gs.Graph = import_graph(model)
    return infer_symbolic_shapes(graph, {"x": ["B", "S", 8]} if assumed is None else assumed)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Relu (x)", (B, S, 8)),
        ("y = Transpose <perm = [1, 0, 2]> (x)", (S, B, 8)),
        ("y = Reshape (x, heads)", (B, S, 4, 2)),
        ("y = Reshape (x, rows)", (B * S, 8)),
        ("t = Transpose <perm = [0, 2, 1]> (x)  y = MatMul (x, t)", (B, S, S)),
        ("y = ReduceSum <keepdims = 0> (x)", ()),
        ("s = Shape <start = 1, end = 2> (x)  y = ConstantOfShape (s)", (S,)),
        ("y = Concat <axis = 1> (x, x)", (B, 2 * S, 8)),
        ("y = GatherND <batch_dims = 1> (x, places)", (B, 8)),
        ("y = GatherND (x, pairs)", (5, 8)),
        ("l = Slice (x, from_last, to_far, second)  y = Mul (l, x)", (B, S, 8)),
        ("l = Slice (x, from_last, to_far, second)  y = Mul (x, l)", (B, S, 8)),
    ],
)  # fmt: skip
def test_axes_keep_their_symbols(body, expected):
    got = shapes_of(body)["y"]
    assert len(got) == len(expected)
    assert all(sympy.simplify(extent - want) == 0 for extent, want in zip(got, expected, strict=True))


def test_what_is_broadcast_is_not_taken_for_what_it_is_broadcast_to():
    """The last place of each sample and all its places are two extents: merged, a pack would end after one place."""
    last = "l = Slice (x, from_last, to_far, second)  y = Mul (l, x)"
    assert shapes_of(last)["l"][1].subs({S: 7}) == 1


def test_an_extent_cut_at_the_longest_text_is_still_that_of_the_text():
    shapes = shapes_of("c = Slice (x, first, longest, second)  y = Add (c, x)")
    assert shapes["y"] == (B, S, 8)


def test_attention_masks_are_known_and_so_is_what_is_made_of_them():
    zeros = "t = Shape <end = 2> (x)  n = ConstantOfShape (t)"
    shapes = shapes_of(f'{zeros}  m = ai.graphcore.AttentionMask <dataType = "FLOAT16", to = 10> (n, x)  y = Relu (m)')
    assert shapes["y"] == (B, 1, S, S)
    assert shapes.dtypes["m"] == onnx.TensorProto.FLOAT16
    assert not shapes.guessed


def test_only_the_first_two_extents_of_what_is_unpacked_are_new():
    unpack = "ai.graphcore.Unpack <segment_max_size = [4], max_valid_num = 2> (x, pairs)"
    samples, longest, hidden = shapes_of(f"y = {unpack}")["y"]
    assert hidden == 8
    assert not {B, S} & {samples, longest}


def test_without_assumptions_the_declared_names_are_the_symbols():
    assert shapes_of("y = Relu (x)", {})["y"] == (symbol("batch"), symbol("seq"), 8)


def test_what_a_shape_tensor_holds_is_known():
    shapes = shapes_of("s = Shape (x)  y = ConstantOfShape (s)")
    assert list(shapes.contents["s"]) == [B, S, 8]


def test_an_operator_that_nobody_knows_leaves_no_symbol_of_the_inputs_behind():
    shapes = shapes_of("y = local.Unknown (x)")
    assert not any(extent in (B, S) for extent in shapes.get("y", ()))


def test_what_was_found_before_inference_stopped_is_kept():
    shapes = shapes_of("r = Relu (x)  u = local.Unknown (r)  y = local.Other (u)")
    assert shapes["r"] == (B, S, 8)


def test_a_shape_that_the_exporter_left_in_the_model_stands_where_inference_knows_nothing():
    shapes = shapes_of("t = local.Unknown (x)  y = Relu (t)", value_info="<float[batch, seq, 4] t>")
    assert shapes["t"] == (B, S, 4)


def test_shapes_left_by_an_export_of_a_fixed_size_do_not_contradict_an_open_one():
    text = "m (float[2, 16, 8] x) => (float[2, 16, 8] y) <float[2, 16, 8] r> { r = Relu (x)  y = Exp (r) }"
    shapes = infer_symbolic_shapes(import_graph(parse(text)), {"x": ["B", "S", 8]})
    assert shapes["r"] == (B, S, 8)


def test_the_graph_is_left_as_it_was():
    graph = import_graph(parse("m (float[batch, seq, 8] x) => (float[o0, o1, o2] y) { r = Relu (x)  y = Exp (r) }"))
    infer_symbolic_shapes(graph, {"x": ["B", "S", 8]})
    assert graph.inputs[0].shape == ["batch", "seq", 8]
    assert [node.op for node in graph.nodes] == ["Relu", "Exp"]

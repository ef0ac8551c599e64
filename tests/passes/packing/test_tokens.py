"""The room ``tokens``: where tensors keep their tokens, and what is asked of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.graph_io import export_graph, import_graph
from passes.manager import PassManager
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap, TokenAxes, blocks, show, token_axes
from passes.packing.tokens.broadcasting import is_liftable, refuse_operand
from passes.packing.tokens.evaluation import evaluate
from passes.packing.tokens.extents import Extents
from passes.packing.tokens.flops import flop_share, node_flops
from passes.packing.tokens.masks import binarise, find_masks
from passes.packing.tokens.positional import Positional, sequence_axes
from passes.packing.tokens.sides import place
from passes.packing.tokens.token_order import forget_disordered
from passes.shapes.symbolic import infer_symbolic_shapes
from tests.numerics import run
from tests.passes.packing.packs import around


def mapped(body: str, **options: Any) -> tuple[gs.Graph, AxisMap]:
    """The graph of ``packs`` around ``body``, and its axes; ``y`` is ``x`` where the body does not make one."""
    model = around(body if " y = " in f" {body}" else f"{body}  y = Relu (x)", **options)
    graph = import_graph(PassManager(["extract_constant_to_initializer"]).run(model))
    graph.toposort(mode="nodes")
    shapes: dict[str, list[int | str]] = {name: [str(BATCH), str(SEQ)] for name in ("ids", "mask")}
    return graph, AxisMap(graph, infer_symbolic_shapes(graph, shapes))


def tensor(graph: gs.Graph, name: str) -> gs.Tensor:
    return graph.tensors()[name]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((BATCH, SEQ, 8), TokenAxes(0, 1)),
        ((SEQ, BATCH, 8), TokenAxes(1, 0)),
        ((BATCH, 4, SEQ), TokenAxes(0, 2)),
        ((BATCH * SEQ, 8), TokenAxes(0, 0)),
        ((BATCH, SEQ, SEQ), None),
        ((BATCH, 8), None),
        ((BATCH, SEQ + 1), None),
        ((4, BATCH * SEQ), None),
        (None, None),
    ],
    ids=str,
)
def test_a_shape_carries_tokens_where_one_axis_is_batch_and_one_sequence(shape: Any, expected: Any) -> None:
    assert token_axes(shape) == expected


def test_blocks_tell_whether_a_token_keeps_its_values() -> None:
    heads = blocks((BATCH, SEQ, 4, 2), TokenAxes(0, 1))
    assert heads == blocks((BATCH, SEQ, 8), TokenAxes(0, 1))
    assert heads != blocks((BATCH, 4, SEQ, 2), TokenAxes(0, 2))
    assert heads != blocks((SEQ, BATCH, 8), TokenAxes(1, 0))


def test_a_shape_is_shown_as_the_user_knows_it() -> None:
    assert show((BATCH, SEQ + 1, 8)) == "[batch, seq + 1, 8]"
    assert show(None) == "of unknown rank"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("o = Add (x, V)", ""),
        ("o = Add (x, column)", ""),
        ("s = Shape <start = 1, end = 2> (ids)  p = Slice (P, zero, s, one)  o = Add (x, p)", ""),
        ("f = ReduceSum (x, one)  o = Add (x, f)", ""),
        ("b = Relu (x)  o = Add (x, b)", "differs from sample to sample or place to place"),
        ("a = Transpose <perm = [1, 0, 2]> (x)  b = Transpose <perm = [1, 0, 2]> (a)  o = Add (x, b)", ""),
    ],
    ids=["vector", "column", "positions", "sample", "in another order", "turned twice"],
)
def test_an_operand_is_read_token_by_token_or_the_reason_is_said(body: str, words: str) -> None:
    graph, axes = mapped(body)
    node = next(node for node in graph.nodes if node.outputs[0].name == "o")
    if words:
        axes.forget(node.inputs[1])
    refusal = refuse_operand(node.inputs[1], node.outputs[0], axes)
    assert (words in str(refusal)) if words else refusal is None


def test_positions_can_be_lifted_and_tokens_cannot() -> None:
    graph, axes = mapped("s = Shape <start = 1, end = 2> (ids)  p = Slice (P, zero, s, one)  y = Add (x, p)")
    assert is_liftable(tensor(graph, "p"), axes, tensor(graph, "x"))
    assert not is_liftable(tensor(graph, "x"), axes, tensor(graph, "y"))
    assert not is_liftable(tensor(graph, "y"), axes, tensor(graph, "p"))


POSITIONS = """
    s = Shape <start = 1, end = 2> (ids)  n = Squeeze (s, zero)  r = Range (scalar_zero, n, scalar_one)
    left = Unsqueeze (r, one)  right = Unsqueeze (r, zero)  far = Sub (left, right)  both = Mul (left, right)
    back = Sub (n, r)  three = Mul (scalar_one, scalar_one)
"""


def test_tensors_of_the_length_alone_are_positional_and_computed() -> None:
    graph, axes = mapped(POSITIONS)
    positional = Positional(graph, axes)
    assert tensor(graph, "far") in positional
    assert tensor(graph, "x") not in positional
    np.testing.assert_array_equal(positional.value(tensor(graph, "r"), 4), [0, 1, 2, 3])
    np.testing.assert_array_equal(positional.value(tensor(graph, "far"), 2), [[0, -1], [1, 0]])


def test_what_depends_on_distance_or_place_alone_is_told_from_what_does_not() -> None:
    graph, axes = mapped(POSITIONS)
    positional = Positional(graph, axes)
    assert positional.is_relative(tensor(graph, "far"), (0, 1), 8)
    assert not positional.is_relative(tensor(graph, "both"), (0, 1), 8)
    table = positional.table(tensor(graph, "r"), 0, 6)
    assert table is not None
    np.testing.assert_array_equal(table, range(6))
    assert positional.table(tensor(graph, "back"), 0, 6) is None
    assert not positional.is_constant(tensor(graph, "n"), 8)
    assert sequence_axes(axes, tensor(graph, "far")) == (0, 1)
    assert sequence_axes(axes, tensor(graph, "V") if "V" in graph.tensors() else tensor(graph, "W")) == ()


def test_a_part_of_a_graph_is_run_from_known_values() -> None:
    graph, _ = mapped("a = Relu (x)  b = Add (a, a)  y = Neg (b)")
    nodes = [node for node in graph.nodes if node.outputs[0].name in ("b", "y")]
    got = evaluate(graph, nodes, "y", onnx.TensorProto.FLOAT, {"a": np.array([1, 2], np.float32)})
    np.testing.assert_array_equal(got, [-2, -4])


def test_extents_are_measured_on_one_tensor_and_made_once() -> None:
    measured = gs.Variable("grid", np.int64, ["b", "s"])
    graph = gs.Graph(inputs=[measured], opset=17)
    extents = Extents(graph, lambda: measured, "e")
    vector = extents.vector([BATCH, 2 * SEQ + 1, 3])
    alike = extents.vector([BATCH, 2 * SEQ + 1, 3])
    scalar = extents.known_scalar(BATCH * SEQ)
    assert vector is alike
    assert extents.known_vector([BATCH - SEQ**2 / 2]) is None
    assert isinstance(extents.vector([4, 5]), gs.Constant)
    assert vector is not None
    assert scalar is not None
    for item in (vector, scalar):
        item.shape = None
    graph.outputs = [vector, scalar]
    graph.cleanup().toposort()
    got = run(export_graph(graph), {"grid": np.zeros((5, 7), np.int64)})
    assert [value.tolist() for value in got.values()] == [[5, 15, 3], 35]


def test_work_is_two_operations_a_multiply_add() -> None:
    graph, axes = mapped(
        "a = MatMul (x, W1)  t = Transpose <perm = [0, 2, 1]> (x)  b = MatMul (x, t)  c = Conv (t, K3)"
        '  e = Einsum <equation = "bsh,hk->bsk"> (x, W1)  r = Relu (x)'
    )
    flops = {node.outputs[0].name: node_flops(node, axes) for node in graph.nodes}
    assert flops["a"] == flops["e"] == 2 * BATCH * SEQ * 8 * 8
    assert flops["b"] == 2 * BATCH * SEQ * SEQ * 8
    assert flops["r"] == 0
    share = flop_share(place(graph, axes), 2, 5)
    assert 0 < share.packed < share.total
    assert share.share == share.packed / share.total


@pytest.mark.parametrize(
    ("body", "explicit", "derived"),
    [
        ("y = Relu (x)", ("mask",), ()),
        ("p = CumSum (mask, scalar_one)  e = Gather (T, p)  y = Add (x, e)", ("mask",), ()),
        (
            "k = Cast <to = 1> (ids)  u = Unsqueeze (k, last)  z = Mul (x, u)  q = ReduceSum (z, one)  y = Add (x, q)",
            ("mask",),
            ("ids",),
        ),
    ],
    ids=["masked sum", "counted into positions", "ids that mask too"],
)
def test_the_mask_is_what_reaches_a_node_that_mixes_tokens(
    body: str, explicit: tuple[str, ...], derived: tuple[str, ...]
) -> None:
    graph, axes = mapped(body)
    masks = find_masks(place(graph, axes), graph.inputs)
    assert (masks.explicit, masks.derived) == (explicit, derived)


@pytest.mark.parametrize(
    ("numbered", "values", "expected"), [(False, [2, -3, 0], [1, 1, 0]), (True, [2, -3, 0], [1, 0, 0])]
)
def test_a_mask_is_brought_to_zero_and_one(numbered: bool, values: list[int], expected: list[int]) -> None:
    mask = gs.Variable("mask", np.int64, ["n"])
    output = gs.Variable("y", np.int64, ["n"])
    graph = gs.Graph([gs.Node("Identity", "reader", {}, [mask], [output])], [mask], [output], opset=17)
    binarise(graph, mask, numbered=numbered)
    graph.toposort()
    assert run(export_graph(graph), {"mask": np.array(values)})["y"].tolist() == expected


def test_a_mask_of_floats_may_say_more_than_yes_and_no() -> None:
    mask = gs.Variable("mask", np.float32, ["n"])
    graph = gs.Graph([gs.Node("Identity", "reader", {}, [mask], [gs.Variable("y", np.float32)])], [mask], opset=17)
    binarise(graph, mask)
    assert [node.op for node in graph.nodes] == ["Identity"]


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ("o = Relu (x)", True),
        ("low = Constant <value_ints = [-9223372036854775808]> ()  o = Slice (x, last, low, one, last)", False),
        ("l = ReduceSum <keepdims = 0> (mask, one)  o = ReverseSequence <batch_axis = 0, time_axis = 1> (x, l)", False),
        ("a = Gather <axis = 2> (x, zero)  o = Mul (a, x)", True),
        ("i = Constant <value_ints = [7, 6, 5, 4, 3, 2, 1, 0]> ()  o = Gather <axis = 2> (x, i)", True),
    ],
    ids=["relu", "turned round", "reversed", "one column", "turned columns"],
)
def test_what_lies_in_another_order_carries_no_tokens(body: str, kept: bool) -> None:
    graph, axes = mapped(f"{body}  y = Neg (o)")
    assert axes.axes(tensor(graph, "y")) == TokenAxes(0, 1)
    forget_disordered(graph, axes)
    assert (axes.axes(tensor(graph, "y")) == TokenAxes(0, 1)) == kept

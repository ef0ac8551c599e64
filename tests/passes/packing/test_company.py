"""Who may share a run, and what is changed so that more is proved: masks applied late, masks made stronger."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.graph_io import export_graph, import_graph
from passes.manager import PassManager
from passes.ops import declare_operators
from passes.packing.isolation.company import ANY, NONE, SAME_LENGTH, Isolation, isolate, mask_application
from passes.packing.isolation.sharpen import Sharpener
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap
from passes.packing.tokens.sides import PlacedGraph, Placement, place
from passes.shapes.symbolic import infer_symbolic_shapes
from tests.numerics import run
from tests.passes.packing.packs import around, assert_each_is_right, packed, run_declared, samples

WIDTH = 9


def prepared(body: str, head: str = "") -> tuple[gs.Graph, AxisMap]:
    graph = import_graph(PassManager(["extract_constant_to_initializer"]).run(around(body, head=head)))
    graph.toposort(mode="nodes")
    symbols: dict[str, list[int | str]] = {name: [str(BATCH), str(SEQ)] for name in ("ids", "mask")}
    return graph, AxisMap(graph, infer_symbolic_shapes(graph, symbols))


def proved(placed: PlacedGraph) -> Isolation:
    return isolate(placed, ["mask"], WIDTH)


@pytest.mark.parametrize(
    ("head", "neighbours", "words"),
    [
        ("m = Mul (x, column)  pooled = ReduceSum <keepdims = 0> (m, one)", ANY, ""),
        ("e = Exp (x)  pooled = ReduceSum <keepdims = 0> (e, one)", SAME_LENGTH, "reduces over padding"),
        ("pooled = local.Pool (x)", NONE, "not known to keep"),
    ],
)
def test_the_neighbours_follow_from_what_is_not_proved(head: str, neighbours: str, words: str) -> None:
    graph, axes = prepared("y = Relu (x)", head)
    isolation = proved(place(graph, axes))
    assert isolation.neighbours == neighbours
    assert words in isolation.explain()


def test_a_mask_that_is_applied_before_the_crossing_moves_behind_it() -> None:
    head = """number = Cast <to = 7> (mask)  hidden = Equal (number, scalar_zero)  drop = Unsqueeze (hidden, last)
        far = Constant <value_float = -1e9> ()  w = Where (drop, far, x)
        pooled = ReduceMax <axes = [1], keepdims = 0> (w)"""
    graph, axes = prepared("y = Relu (x)", head)
    placed = place(graph, axes)
    nodes = {node.outputs[0].name: node for node in graph.nodes}
    placed.placement.packed |= {id(nodes[name]) for name in ("number", "hidden", "drop", "w")}
    applying = mask_application(placed, nodes["pooled"], ["mask"])
    assert id(nodes["w"]) in applying
    assert id(nodes["x"]) not in applying
    assert proved(placed).neighbours == ANY
    assert not placed.runs_packed(nodes["w"])


ATTENTION = """
    t = Transpose <perm = [0, 2, 1]> (x)  raw = MatMul (x, t)  key = Unsqueeze (keep, one)
    on = Constant <value_float = 1.0> ()  off = Sub (on, key)  far = Constant <value_float = -10000.0> ()
    bias = Mul (off, far)  scores = Add (raw, bias)  w = Softmax (scores)  y = MatMul (w, x)
"""


def test_padding_gets_minus_infinity_where_the_model_adds_a_finite_number() -> None:
    graph, axes = prepared(ATTENTION)
    placed = PlacedGraph(graph, axes, Placement())
    isolation = proved(placed)
    ids = next(tensor for tensor in graph.inputs if tensor.name == "ids")
    assert Sharpener(placed, isolation.facts, ids).run() == 1
    added = next(node for node in graph.nodes if node.outputs[0].name == "scores").inputs[1]
    assert added.inputs[0].op == "Where"
    assert np.isneginf(added.inputs[0].inputs[2].values)


def test_a_sharpened_mask_changes_nothing_in_a_run_without_padding() -> None:
    graph, axes = prepared(ATTENTION)
    feeds = {"ids": np.array([[3, 4, 5]]), "mask": np.array([[1, 0, 1]])}
    want = run(export_graph(graph), feeds)["y"]
    placed = PlacedGraph(graph, axes, Placement())
    isolation = proved(placed)
    Sharpener(placed, isolation.facts, graph.inputs[0]).run()
    declare_operators(graph, [])
    np.testing.assert_array_equal(run(export_graph(graph), feeds)["y"], want)


_MASKED = """
    t = Transpose <perm = [0, 2, 1]> (x)  raw = MatMul (x, t)  key = Unsqueeze (keep, one)
    on = Constant <value_float = 1.0> ()  off = Sub (on, key)  far = Constant <value_float = -10000.0> ()
    bias = Mul (off, far)  scores = Add (raw, bias)
"""
#: Where -inf at padding would become NaN: times a zero of padding, or all along a column that a softmax weighs.
FRAGILE = {
    "a factor of zero": "gated = Mul (scores, key)  told = Add (gated, bias)  w = Softmax (told)  y = MatMul (w, x)",
    "a softmax over the other axis": """
        off_rows = Sub (on, column)  row_bias = Mul (off_rows, far)  told = Add (scores, row_bias)
        w = Softmax <axis = 1> (told)  y = MatMul (w, x)
    """,
}


@pytest.mark.parametrize("case", FRAGILE)
def test_minus_infinity_is_left_out_where_it_would_spoil_padding(case: str) -> None:
    model = around(_MASKED + FRAGILE[case])
    assert_each_is_right(run_declared(packed(model), samples()), model, samples())


#: DeBERTa's: a table of 2 L distances, of which a pair of places reads row i - j + L.
_DISTANCES = """
    s = Shape <start = 1, end = 2> (ids)  n = Squeeze (s, zero)  from = Neg (n)
    span = Range (from, n, scalar_one)  half = Constant <value_int = 32> ()  rows = Add (span, half)
    table = Gather (T, rows)  flip = Transpose <perm = [1, 0]> (table)  all = MatMul (x, flip)
    r = Range (scalar_zero, n, scalar_one)  i = Unsqueeze (r, one)  j = Unsqueeze (r, zero)  apart = Sub (i, j)
    index = Add (apart, {offset})  b = Shape <start = 0, end = 1> (ids)  to = Concat <axis = 0> (b, s, s)
    full = Expand (index, to)  picked = GatherElements <axis = 2> (all, full)
    key = Unsqueeze (keep, one)  on = Constant <value_float = 1.0> ()  off = Sub (on, key)
    far = Constant <value_float = -1e9> ()  bias = Mul (off, far)  scores = Add (picked, bias)
    w = Softmax (scores)  y = MatMul (w, x)
"""


@pytest.mark.parametrize(("offset", "alike"), [("n", True), ("scalar_one", False)])
def test_distances_are_read_alike_in_a_run_of_any_length(offset: str, alike: bool) -> None:
    graph, axes = prepared(_DISTANCES.format(offset=offset))
    named = [refusal.node.op for refusal in proved(PlacedGraph(graph, axes, Placement())).refusals if refusal.node]
    assert ("GatherElements" not in named) == alike

"""An open extent may be 1: a comparison decides a branch only where it holds for every extent."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import parser

from passes.graph_io import import_graph
from passes.node_protos import walk_graphs
from passes.shapes.symbolic import infer_symbolic_shapes
from poprt.converter import Converter
from poprt.engine.plain import plain_session

HEADER = '<ir_version: 8, opset_import: ["" : 15]>'
CONSTANTS = (
    "int64[1] ax = {1}, int64[1] m1 = {-1}, int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64 three = {3}, "
    "int64 five = {5}, int64[3] rows = {0, -1, 2}, float fraction = {1.5}, bool go = {1}"
)
#: Takes an axis away where ``c``.
CUT = "then_branch = t () => (float t) { t = ReduceSum <keepdims = 0> (r, ax) }"
KEEP = "else_branch = e () => (float e) { e = Identity (r) }"
CUT_ELSE = "else_branch = e () => (float e) { e = ReduceSum <keepdims = 0> (r, ax) }"
KEEP_THEN = "then_branch = t () => (float t) { t = Identity (r) }"
MEASURED = "r = Relu (x)  s = Shape (r)  g = Gather (s, one)"
BRANCH = f"i = If (c) < {CUT}, {KEEP} >  y = Relu (i)"


def model_of(
    body: str, inputs: str = "float[b, n, 4] x", declared: str = "", output: str = "float y"
) -> onnx.ModelProto:
    """The model of a body. Outputs, and those of branches, declare no shape where ``declared`` says none."""
    text = f"{HEADER} g ({inputs}) => ({output}) <{CONSTANTS}{declared}> {{ {body} }}"
    model = parser.parse_model(text)
    used = {name for graph in walk_graphs(model.graph) for node in graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for graph in walk_graphs(model.graph):
        for value in graph.output:
            if not value.type.tensor_type.shape.dim:
                value.type.tensor_type.ClearField("shape")
    return model


def declared_shapes(model: onnx.ModelProto) -> Iterator[tuple[str, list[int | str]]]:
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        if value.type.tensor_type.HasField("shape"):
            yield value.name, [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


def assert_equal_runs(model: onnx.ModelProto, converted: onnx.ModelProto, *shapes: tuple[int, ...]) -> None:
    sessions = [plain_session(item.SerializeToString(), optimise=False) for item in (model, converted)]
    for middle in shapes:
        names = [value.name for value in model.graph.input]
        feeds = {
            name: np.random.default_rng(0).random((2, n, 4), np.float32) for name, n in zip(names, middle, strict=True)
        }
        expected, got = (session.run(None, feeds)[0] for session in sessions)
        np.testing.assert_array_equal(got, expected)


OPEN = {
    "equal": f"{MEASURED}  c = Equal (g, one)  {BRANCH}",
    "as empty": f"{MEASURED}  c = Equal (g, zero)  {BRANCH}",
    "not": f"{MEASURED}  q = Equal (g, two)  c = Not (q)  {BRANCH}",
    "and": f"{MEASURED}  p = Equal (g, one)  q = Equal (one, one)  c = And (p, q)  {BRANCH}",
    "or": f"{MEASURED}  p = Equal (g, one)  q = Equal (one, two)  c = Or (p, q)  {BRANCH}",
    "less": f"{MEASURED}  c = Less (g, two)  {BRANCH}",
    "less or equal": f"{MEASURED}  c = LessOrEqual (g, one)  {BRANCH}",
    "greater": f"{MEASURED}  c = Greater (two, g)  {BRANCH}",
    "greater or equal": f"{MEASURED}  c = GreaterOrEqual (one, g)  {BRANCH}",
    "number as condition": f"{MEASURED}  d = Sub (g, one)  c = Cast <to = 9> (d)"
    f"  i = If (c) < {KEEP_THEN}, {CUT_ELSE} >  y = Relu (i)",
    "where": f"{MEASURED}  q = Equal (g, one)  w = Where (q, two, one)  c = Equal (w, two)  {BRANCH}",
    "where of a number": f"{MEASURED}  d = Sub (g, one)  q = Cast <to = 9> (d)  w = Where (q, one, two)"
    f"  c = Equal (w, two)  {BRANCH}",
    "condition as number": f"{MEASURED}  q = Equal (g, one)  w = Cast <to = 7> (q)  c = Equal (w, one)  {BRANCH}",
    "rank of the result": f"{MEASURED}  q = Equal (g, one)  j = If (q) < then_branch = p () => (float u) "
    "{ u = ReduceSum <keepdims = 0> (r, ax) }, else_branch = p2 () => (float u2) { u2 = Identity (r) } >"
    f"  js = Shape (j)  k = Size (js)  c = Equal (k, three)  {BRANCH}",
    "nested": f"{MEASURED}  o = Equal (one, one)  y = If (o) < then_branch = p () => (float i) {{ c = Equal (g, one)"
    f"  i = If (c) < {CUT}, {KEEP} > }}, else_branch = q () => (float z) {{ z = Identity (r) }}>",
    "squeeze": "r = Squeeze (x)  y = Relu (r)",
}


@pytest.mark.parametrize("body", OPEN.values(), ids=OPEN)
def test_a_rank_that_an_open_extent_decides_is_not_declared(body: str) -> None:
    model = model_of(body)
    converted = Converter().convert(model)
    declared = dict(declared_shapes(converted))
    assert not {"i", "y", "j", "js"} & set(declared)
    assert_equal_runs(model, converted, (1,), (3,))


def test_a_float_is_not_cut_to_a_whole_number() -> None:
    model = model_of(f"{MEASURED}  f = Cast <to = 1> (g)  c = Equal (f, fraction)  {BRANCH}")
    assert "i" not in dict(declared_shapes(Converter().convert(model)))


def test_extents_that_meet_in_a_broadcast_need_not_be_alike() -> None:
    body = "m = Shape (x)  g = Gather (m, one)  s = Shape (w)  h = Gather (s, one)  r = Add (x, w)  c = Equal (g, h)"
    model = model_of(
        f"{body}  i = If (c) < {KEEP_THEN}, {CUT_ELSE} >  y = Relu (i)", "float[b, n, 4] x, float[b, m, 4] w"
    )
    converted = Converter().convert(model)
    assert not {"i", "y"} & set(dict(declared_shapes(converted)))
    assert_equal_runs(model, converted, (3, 3), (1, 5), (5, 1))


def test_an_end_that_another_input_gives_is_not_that_of_the_axis() -> None:
    body = (
        "sw = Shape (w)  end = Gather (sw, ax)  start = Sub (ax, ax)  cut = Slice (x, start, end, ax)  r = Relu (cut)"
        "  s = Shape (x)  g = Gather (s, one)  m = Shape (cut)  h = Gather (m, one)  c = Equal (g, h)"
    )
    model = model_of(
        f"{body}  i = If (c) < {KEEP_THEN}, {CUT_ELSE} >  y = Relu (i)", "float[b, n, 4] x, float[b, m, 4] w"
    )
    converted = Converter().convert(model)
    declared = dict(declared_shapes(converted))
    assert declared["r"] == ["b", "", 4]
    assert not {"i", "y"} & set(declared)
    assert_equal_runs(model, converted, (5, 3), (3, 3), (3, 5))


def test_a_loop_decides_nothing_by_its_first_round() -> None:
    body = (
        "after = Identity (before)  v2 = Concat <axis = 1> (v, r)  m = Shape (v)  h = Gather (m, one)  c = Equal (h, g)"
        f"  a = If (c) < {KEEP_THEN}, {CUT_ELSE} >  k = Shape (a)"
    )
    signature = "(int64 at, bool before, float[b, n, 4] v) => (bool after, float v2, int64[ranks] k)"
    model = model_of(
        f"{MEASURED}  v, y = Loop (two, go, r) < body = l {signature} {{ {body} }}>", output="int64[rounds, ranks] y"
    )
    assert dict(declared_shapes(Converter().convert(model)))["y"] == ["rounds", "ranks"]


DECIDED = {
    "an extent and itself": f"{MEASURED}  s2 = Shape (x)  g2 = Gather (s2, one)  c = Equal (g, g2)",
    "the number of channels": f"{MEASURED}  h = Gather (s, two)  d = Sub (h, three)  c = Equal (d, one)",
}


@pytest.mark.parametrize("body", DECIDED.values(), ids=DECIDED)
def test_what_holds_for_every_extent_decides(body: str) -> None:
    converted = Converter().convert(model_of(f"{body}  {BRANCH}"))
    assert dict(declared_shapes(converted))["y"] == ["b", 4]


@pytest.mark.parametrize(("measured", "shape"), [("x", ["b", "n", 4]), ("half", ["b", "floor(n/2)", 4])])
def test_targets_of_expand_are_known(measured: str, shape: list[int | str]) -> None:
    """Exporters write Where(target == -1, 1, target): no extent is -1."""
    model = model_of(
        "t = Transpose <perm = [0, 2, 1]> (x)  h = MaxPool <kernel_shape = [2], strides = [2]> (t)"
        f"  half = Transpose <perm = [0, 2, 1]> (h)  s = Shape ({measured})  k = Shape (s)"
        "  ones = ConstantOfShape <value = int64[1] {1}> (k)  q = Equal (s, m1)  w = Where (q, ones, s)"
        "  y = Expand (one_place, w)",
        declared=", float[1, 1, 1] one_place = {1}",
    )
    assert dict(declared_shapes(Converter().convert(model)))["y"] == shape


def test_what_the_model_declares_behind_such_a_branch_is_dropped() -> None:
    branches = (
        f"< {CUT.replace('(float t)', '(float[b, n, 4] t)')}, {KEEP.replace('(float e)', '(float[b, n, 4] e)')} >"
    )
    model = model_of(
        f"{MEASURED}  c = Equal (g, one)  i = If (c) {branches}  js = Shape (i)  y = Size (js)",
        declared=", float[b, n, 4] i, int64[3] js",
        output="int64 y",
    )
    converted = Converter().convert(model)
    assert not {"i", "js"} & set(dict(declared_shapes(converted)))
    assert_equal_runs(model, converted, (1,), (3,))


def test_what_a_list_states_behind_such_a_branch_stays() -> None:
    model = model_of(
        f"{MEASURED}  c = Equal (g, one)  i = If (c) < {CUT}, {KEEP} >  p = Reshape (i, rows)  y = Relu (p)",
        declared=", float[b, n, 4] i, float[b, k, 2] p",
    )
    declared = dict(declared_shapes(Converter().convert(model)))
    assert "i" not in declared
    assert declared["p"] == ["b", "k", 2]


def test_what_rests_on_a_guess_is_no_content() -> None:
    model = model_of(f"{MEASURED}  c = Equal (g, one)  {BRANCH}  js = Shape (i)  k = Size (js)  f = Gather (js, zero)")
    shapes = infer_symbolic_shapes(import_graph(model))
    assert {"i", "js"} <= shapes.guessed
    assert not {"js", "k", "f"} & set(shapes.contents)


def test_texts_are_compared_without_a_stop() -> None:
    """Texts are no numbers; what comes behind them is inferred all the same."""
    graph = import_graph(
        model_of("c = Equal (word, word)  r = Relu (x)  y = Identity (r)", declared=', string[1] word = {"a"}')
    )
    assert len(infer_symbolic_shapes(graph)["r"]) == 3


FIVE = ", float[5, 1] column = {1, 2, 3, 4, 5}, int64[3] target = {1, 5, 4}"
MEETING = {
    "Add": "y = Add (r, column)",
    "Where": "t = Greater (r, r)  y = Where (t, r, column)",
    "Sum": "y = Sum (r, column)",
    "Expand": "y = Expand (r, target)",
    "two names": "y = Add (r, w)",
}


@pytest.mark.parametrize("body", MEETING.values(), ids=MEETING)
def test_an_open_extent_that_meets_another_stays_open(body: str) -> None:
    model = model_of(
        f"r = Relu (x)  {body}  k = Shape (r)", "float[b, n, 4] x, float[b, m, 4] w", FIVE, "float y, int64[3] k"
    )
    shapes = infer_symbolic_shapes(import_graph(model))
    assert [str(extent) for extent in shapes["r"]] == ["b", "n", "4"]
    assert [str(extent) for extent in shapes.contents["k"]] == ["b", "n", "4"]
    converted = Converter().convert(model)
    declared = dict(declared_shapes(converted))
    assert declared["x"] == declared["r"] == ["b", "n", 4]
    assert declared["w"] == ["b", "m", 4]
    assert declared.get("y", [0, 0])[1] in ((5,) if "column" in body or "target" in body else ("", 0))
    assert_equal_runs(model, converted, (1, 5), (5, 1), (5, 5))


def test_an_open_extent_that_meets_another_in_a_branch_stays_open() -> None:
    branch = "z = Relu (r)  p = Add (z, column)"
    then = f"then_branch = t () => (float t) {{ {branch}  t = Identity (z) }}"
    other = "else_branch = e () => (float e) { e = Identity (r) }"
    model = model_of(f"r = Relu (x)  i = If (go) < {then}, {other} >  y = Relu (i)", declared=FIVE)
    converted = Converter().convert(model)
    assert 5 not in dict(declared_shapes(converted)).get("i", [])
    assert_equal_runs(model, converted, (1,), (5,))


def test_what_is_never_one_is_the_extent_of_a_broadcast() -> None:
    model = model_of("d = Concat <axis = 1> (x, x)  y = Add (d, w)", "float[b, n, 4] x, float[b, m, 4] w")
    assert [str(extent) for extent in infer_symbolic_shapes(import_graph(model))["y"]] == ["b", "2*n", "4"]

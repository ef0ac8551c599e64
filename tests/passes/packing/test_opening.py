"""The room ``opening``: which inputs hold tokens, and shape arithmetic that comes to numbers or decides a branch."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.errors import PackingError
from passes.graph_io import export_graph, import_graph
from passes.packing.opening.axis_mapping import map_axes
from passes.packing.opening.branches import resolve_branches
from passes.packing.opening.geometry import Geometry, GeometryFinder
from passes.packing.opening.known_extents import fold_known_extents
from passes.packing.opening.length_bound import LengthBound
from passes.packing.tokens.axes import BATCH, SEQ, TokenAxes
from passes.shapes.input_shapes import InputShapes
from passes.shapes.symbolic import infer_symbolic_shapes
from tests.numerics import run
from tests.passes.packing.packs import around
from tests.passes.rewrites import parse

SYMBOLS: dict[str, list[int | str]] = {name: [str(BATCH), str(SEQ)] for name in ("ids", "mask")}


def inputs(*declared: str) -> gs.Graph:
    return import_graph(parse(f"g ({', '.join(declared)}) => (int64[b] y) {{ y = Identity (unused) }}"))


def found(graph: gs.Graph, **options: Any) -> Geometry:
    shapes = InputShapes.of(options.pop("input_shape", None), options.pop("batch_size", None))
    return GeometryFinder(shapes, **options).find(graph)


def declare(*declared: str) -> gs.Graph:
    graph = inputs(*declared, "int64[b, s] unused")
    graph.inputs = [tensor for tensor in graph.inputs if tensor.name != "unused"]
    return graph


def test_inputs_of_one_batch_and_sequence_hold_tokens() -> None:
    graph = declare("int64[b, s] ids", "int64[b, s] mask", "float[b, s, 4] boxes")
    geometry = found(graph, input_shape={name: [4, 24] for name in ("ids", "mask")} | {"boxes": [4, 24, 4]})
    assert (geometry.names, geometry.rows, geometry.columns) == (["ids", "mask", "boxes"], 4, 24)
    assert geometry.shape_agnostic
    assert geometry.symbolic_shapes()["boxes"] == [str(BATCH), str(SEQ), 4]


def test_fixed_extents_are_read_from_the_model_and_the_batch_size_fills_in() -> None:
    geometry = found(declare("int64[b, 24] ids"), batch_size=4)
    assert (geometry.rows, geometry.columns, geometry.shape_agnostic) == (4, 24, False)
    assert found(declare("int64[b, s] ids")).rows == 0


@pytest.mark.parametrize(
    ("declared", "options", "words"),
    [
        (
            ["int64[b, s] ids", "int64[b, t] target"],
            {},
            r"input 'target' \['b', 't'\] does not have the axes .*'t', which",
        ),
        (["int64[b, s] ids", "float[n] weight"], {}, "axis 0 is 'n', and the batch is 'b'"),
        (["int64[b, s] ids", "float[b, 4, s] heat"], {}, "'heat' .* the sequence 's' on axis 2: export"),
        (["int64[b, s] ids", "float[s] place"], {}, "axis 0 is 's', and the batch is 'b'"),
        (["int64[b, s] ids", "float[4, n] table"], {}, "axis 1 is 'n', which is no number"),
        (["float[b] weight"], {}, "no input has the axes"),
        (["int64[b, s] ids"], {"dynamic_inputs": ["idz"]}, "names 'idz', which is no input"),
    ],
)
def test_other_inputs_are_refused_by_name(declared: list[str], options: dict[str, object], words: str) -> None:
    with pytest.raises(PackingError, match=words):
        found(declare(*declared), **options)


@pytest.mark.parametrize(
    ("ids", "other", "kind"),
    [
        ("b, s", "float[b, 4] x", "sample"),
        ("b, s", "float[b] x", "sample"),
        ("b, s", "int64[b, 2, 3] x", "sample"),
        ("b, s", "float[4] x", "run"),
        ("b, s", "float[1, 4] x", "run"),
        ("b, s", "float[4, 24] x", "run"),
        ("4, 24", "float[4, 8] x", "sample"),
        ("4, 24", "float[4] x", "sample"),
        ("4, 24", "float[3] x", "run"),
        ("1, 24", "float[1] x", "run"),
    ],
)
def test_an_open_batch_or_the_same_number_makes_an_input_a_row_a_sample(ids: str, other: str, kind: str) -> None:
    geometry = found(declare(f"int64[{ids}] ids", other))
    assert geometry.names == ["ids"]
    names = {"sample": [t.name for t in geometry.samples], "run": [t.name for t in geometry.runs]}
    assert names[kind] == ["x"]
    assert sum(map(len, names.values())) == 1


def test_a_scalar_is_a_value_a_run() -> None:
    graph = declare("int64[b, s] ids", "float[4] x")
    graph.inputs[1].shape = []
    assert [tensor.name for tensor in found(graph).runs] == ["x"]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("float[4, 8] x", r"'x' \[4, 8\] .* the batch of 'ids' is fixed to 4: it is read as one row a sample"),
        ("float[1] x", r"'x' \[1\] .* fixed to 1: it is read as one value for all samples"),
    ],
)
def test_a_fixed_input_of_two_readings_is_told_how_it_is_read(other: str, words: str, caplog: Any) -> None:
    rows = other[6]
    with caplog.at_level("WARNING", logger="poprt"):
        found(declare(f"int64[{rows}, 24] ids", other))
    assert re.search(words, caplog.text)


def test_an_open_sequence_tells_the_ids_from_numbers_a_sample() -> None:
    geometry = found(declare("int64[b, 2] size", "float[b, s, 4] boxes", "int64[b, s] ids"))
    assert (geometry.names, [tensor.name for tensor in geometry.samples]) == (["boxes", "ids"], ["size"])


def test_as_many_numbers_a_sample_as_columns_are_no_tokens() -> None:
    shapes = {"ids": [4, 24], "x": [4, 24]}
    geometry = found(declare("int64[b, s] ids", "float[b, 24] x"), input_shape=shapes)
    assert (geometry.names, [tensor.name for tensor in geometry.samples]) == (["ids"], ["x"])


def test_a_row_a_sample_may_get_its_numbers_from_the_user() -> None:
    geometry = found(declare("int64[b, s] ids", "float[n, t] x"), input_shape={"ids": [4, 24], "x": [4, 8]})
    assert [tensor.shape for tensor in geometry.samples] == [["n", 8]]
    assert geometry.symbolic_shapes()["x"] == [str(BATCH), 8]


def test_two_names_are_one_sequence_where_the_user_gives_both_the_same_shape() -> None:
    graph = declare("int64[b, s] ids", "int64[b, t] mask")
    assert found(graph, input_shape={"ids": [4, 24], "mask": [4, 24]}).names == ["ids", "mask"]


def test_extents_that_come_to_numbers_become_constants() -> None:
    body = """s = Shape (x)  h = Gather (s, two)  d = Div (h, two)
        to = Concat <axis = 0> (zero, zero, d, two)  y4 = Reshape (x, to)  back = Constant <value_ints = [0, 0, 8]> ()
        y = Reshape (y4, back)"""
    graph = import_graph(around(body))
    shapes = infer_symbolic_shapes(graph, SYMBOLS)
    fold_known_extents(graph, shapes)
    target = graph.tensors()["y4"].inputs[0].inputs[1]
    assert isinstance(target, gs.Constant)
    assert target.values.tolist() == [0, 0, 4, 2]
    assert not isinstance(graph.tensors()["h"].inputs[0].inputs[0], gs.Constant)  # holds the batch and the sequence


BRANCH = """
    a = Shape <start = 1, end = 2> (ids)  b = Shape <start = {axis}, end = {end}> (mask)  e = Equal (a, b)
    {condition}
    y = If (c) <then_branch = g1 () => (float[d0, d1, d2] p) {{ p = Relu (x) }},
        else_branch = g2 () => (float[d0, d1, d2] q) {{ q = Neg (x) }}>
"""


@pytest.mark.parametrize(
    ("axis", "condition", "left"),
    [
        (1, "c = Squeeze (e, zero)", "Relu"),
        (1, "u = Squeeze (e, zero)  c = Not (u)", "Neg"),
        (1, "t = Constant <value_ints = [-1]> ()  f = Flatten <axis = 0> (e)  c = Squeeze (f)", "Relu"),
        (0, "c = Squeeze (e, zero)", "If"),
    ],
    ids=["same extent", "not the same", "through a Flatten", "batch and sequence"],
)
def test_a_branch_is_taken_where_the_shapes_decide_it(axis: int, condition: str, left: str) -> None:
    model = around(BRANCH.format(axis=axis, end=axis + 1, condition=condition))
    graph = import_graph(model)
    count = resolve_branches(graph, infer_symbolic_shapes(graph, SYMBOLS))
    assert count == (left != "If")
    assert left in {node.op for node in graph.nodes}
    graph.cleanup().toposort()
    feeds = {"ids": np.ones((2, 3), np.int64), "mask": np.ones((2, 3), np.int64)}
    np.testing.assert_array_equal(run(export_graph(graph), feeds)["y"], run(model, feeds)["y"])


def test_axes_are_mapped_behind_a_branch_that_is_decided() -> None:
    graph = import_graph(around(BRANCH.format(axis=1, end=2, condition="c = Squeeze (e, zero)")))
    graph.toposort(mode="nodes")
    geometry = found(graph)
    axes, unbaked = map_axes(graph, geometry, LengthBound(9))
    assert axes.axes(graph.outputs[0]) == TokenAxes(0, 1)
    assert unbaked.changes == 0


def test_an_attention_that_goes_on_from_an_earlier_run_is_refused() -> None:
    model = parse("""g (float[b, s, 8] x, float[b, 2, t, 4] k, float[b, 2, t, 4] v) => (float[b, s, 8] y) {
        y, k1, v1 = com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, x, , , , k, v)
    }""")
    graph = import_graph(model)
    with pytest.raises(PackingError, match="'k'; packing runs whole samples"):
        map_axes(graph, Geometry((graph.inputs[0],), 0, 0), LengthBound(9))

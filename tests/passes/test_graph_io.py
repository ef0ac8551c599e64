"""A model that goes through a graph and back keeps its weights where they were."""

from __future__ import annotations

import numpy as np
import pytest

from passes.errors import RewriteError
from passes.graph_io import export_graph, import_graph
from poprt.converter import Converter
from tests.numerics import run
from tests.passes.rewrites import copy_of, parse


def test_a_weight_that_only_subgraphs_read_stays_in_the_main_graph_once() -> None:
    model = parse("""g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
        y = If (c) <then_branch = t () => (float[2] p) { p = Add (x, w) },
                    else_branch = e () => (float[2] q) <float[2] v = {5, 6}> { r = Mul (x, w)  q = Add (r, v) }> }""")
    again = export_graph(import_graph(copy_of(model)))
    assert [tensor.name for tensor in again.graph.initializer] == ["w"]
    branches = {attribute.name: attribute.g for attribute in again.graph.node[0].attribute}
    assert not branches["then_branch"].initializer
    assert [tensor.name for tensor in branches["else_branch"].initializer] == ["v"]
    for flag in (True, False):
        feeds = {"c": np.array(flag), "x": np.array([3, 4], np.float32)}
        np.testing.assert_array_equal(run(again, feeds)["y"], run(model, feeds)["y"])


def test_a_tensor_with_two_producers_is_named() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Neg (x)  z = Abs (x) }")
    model.graph.node[1].output[0] = "y"
    with pytest.raises(RewriteError, match="tensor 'y' is made by Abs '' and by Neg ''"):
        import_graph(model)


def test_strings_that_were_computed_or_read_stay_strings() -> None:
    model = parse(
        """g (string[2] x, bool c) => (bool[2] y) <string[2] w = {"a", "b"}> {
        v = Identity (w)
        y = If (c) <then_branch = t () => (bool[2] p) { p = Equal (x, v) },
                    else_branch = e () => (bool[2] q) <string[2] u = {"c", "b"}> { n = Identity (u) q = Equal (x, n) }>
        }""",
        opset=19,
    )
    converted = Converter().convert(copy_of(model))
    assert [node.op_type for node in converted.graph.node] == ["If"]
    for flag in (True, False):
        feeds = {"c": np.array(flag), "x": np.array(["a", "c"], object)}
        np.testing.assert_array_equal(run(converted, feeds)["y"], run(model, feeds)["y"])
    graph = import_graph(copy_of(model))
    assert list(graph.tensors()["w"].values) == ["a", "b"]
    assert list(export_graph(graph).graph.initializer[0].string_data) == [b"a", b"b"]

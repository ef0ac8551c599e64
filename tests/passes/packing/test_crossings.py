"""Crossings between the packed and the unpacked side: one a tensor, and the tokens come back where they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.graph_io import export_graph
from passes.ops import declare_operators
from passes.packing.across_rows.crossings import Crossings
from passes.packing.across_rows.rewrite import declared_shape, sample_token_axes
from passes.packing.opening.pack_args import parse_pack_args
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap
from passes.shapes.symbolic import SymbolicShapes
from tests.numerics import run

LENGTHS = [3, 2]
ARGS = {"max_valid_num": 3, "segment_max_size": 4}
GRID = np.arange(1, 7, dtype=np.int64).reshape(2, 3)  # the anchor [R, C]; five places are taken


def crossed(shape: Any, make: Callable[[Crossings, gs.Variable], Any], packed: np.ndarray) -> tuple[gs.Graph, Any]:
    """The graph and the result of what ``make`` builds of a packed tensor ``h`` of this symbolic shape."""
    anchor, info = gs.Variable("grid", np.int64, ["rows", "columns"]), gs.Variable("info", np.int32, [3, 1])
    tensor = gs.Variable("h", np.float32, [f"d{axis}" for axis in range(packed.ndim)])
    graph = gs.Graph(inputs=[anchor, info, tensor], opset=17)
    axes = AxisMap(graph, SymbolicShapes())
    axes.record(anchor, (BATCH, SEQ))
    axes.record(tensor, shape)
    result = make(Crossings(graph, axes, parse_pack_args(ARGS), info, anchor), tensor)
    result.shape = None
    graph.outputs = [result]
    declare_operators(graph, ["Unpack", "Repack"])
    graph.cleanup().toposort()
    feeds = {"grid": GRID, "info": np.array([*LENGTHS, 0], np.int32)[:, None], "h": packed.astype(np.float32)}
    return graph, run(export_graph(graph), feeds)[result.name]


TOKENS = np.arange(1, 13).reshape(2, 3, 2)  # [R, C, 2]
LAYOUTS = [
    pytest.param((BATCH, SEQ, 2), TOKENS, (0, 1, 2), id="batch first"),
    pytest.param((SEQ, BATCH, 2), TOKENS.transpose(1, 0, 2), (1, 0, 2), id="sequence first"),
    pytest.param((BATCH, 2, SEQ), TOKENS.transpose(0, 2, 1), (0, 2, 1), id="channels first"),
]


@pytest.mark.parametrize(("shape", "packed", "back"), LAYOUTS)
def test_an_unpacked_tensor_keeps_its_axes_and_has_a_row_a_sample(shape: Any, packed: Any, back: Any) -> None:
    _, got = crossed(shape, lambda crossings, tensor: crossings.unpacked(tensor), packed)
    rows = got.transpose(back)
    stream = TOKENS.reshape(6, 2)
    np.testing.assert_array_equal(rows[0, :3], stream[:3])
    np.testing.assert_array_equal(rows[1, :2], stream[3:5])
    assert not rows[0, 3:].any()
    assert not rows[1, 2:].any()
    assert not rows[2].any()


@pytest.mark.parametrize(("shape", "packed", "back"), LAYOUTS)
def test_a_tensor_that_goes_there_and_back_is_what_it_was(shape: Any, packed: Any, back: Any) -> None:
    def there_and_back(crossings: Crossings, tensor: gs.Variable) -> Any:
        worked = gs.Variable("worked", np.float32)  # a node of the unpacked side
        crossings._graph.nodes.append(gs.Node("Identity", "work", {}, [crossings.unpacked(tensor)], [worked]))
        crossings._axes.record(worked, shape)
        return crossings.packed(worked)

    _, got = crossed(shape, there_and_back, packed)
    stream = got.transpose(back).reshape(6, 2)
    np.testing.assert_array_equal(stream[:5], TOKENS.reshape(6, 2)[:5])
    assert not stream[5:].any()


def test_tokens_in_one_axis_are_unpacked_through_their_rows() -> None:
    flat = TOKENS.reshape(6, 2)
    _, got = crossed((BATCH * SEQ, 2), lambda crossings, tensor: crossings.unpacked(tensor), flat)
    np.testing.assert_array_equal(got.reshape(3, 4, 2)[1, :2], flat[3:5])


def test_a_tensor_is_unpacked_once_for_all_its_readers() -> None:
    counts = []

    def twice(crossings: Crossings, tensor: gs.Variable) -> Any:
        first = crossings.unpacked(tensor)
        assert crossings.unpacked(tensor) is first
        counts.append(crossings.unpack_count)
        return first

    graph, _ = crossed((BATCH, SEQ, 2), twice, TOKENS)
    assert counts == [1]
    assert [node.op for node in graph.nodes].count("Unpack") == 1


def test_what_each_sample_has_once_is_lifted_to_its_tokens() -> None:
    of_sample = np.array([[[10.0]], [[20.0]], [[30.0]]])

    def lift(crossings: Crossings, tensor: gs.Variable) -> Any:
        token = crossings._axes.axes(crossings._anchor)
        assert token is not None
        return crossings.lifted(tensor, token, 3)

    _, got = crossed((BATCH, 1, 1), lift, of_sample)
    assert got.reshape(6)[:5].tolist() == [10, 10, 10, 20, 20]


def test_outputs_declare_the_samples_and_say_which_axes_grow() -> None:
    args = parse_pack_args(ARGS)
    assert declared_shape((BATCH, SEQ, 2), args) == [3, 4, 2]
    assert declared_shape((BATCH, SEQ + 1), args) == [3, 5]
    graph = gs.Graph(outputs=[gs.Variable("pairs"), gs.Variable("tokens"), gs.Variable("pooled")], opset=17)
    axes = AxisMap(graph, SymbolicShapes())
    for tensor, shape in zip(graph.outputs, [(BATCH, 2, SEQ, SEQ), (BATCH, SEQ, 8), (BATCH, 8)], strict=True):
        axes.record(tensor, shape)
    assert sample_token_axes(graph, axes) == {"pairs": [2, 3]}

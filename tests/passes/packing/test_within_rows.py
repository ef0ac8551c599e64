"""The rewrite of samples that share rows: positions, running sums, masks that repeat the padding, one final Unpack."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.errors import PackingError
from passes.graph_io import export_graph, import_graph
from passes.manager import PassManager
from passes.ops import declare_operators
from passes.packing.opening.pack_args import parse_pack_args
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap
from passes.packing.tokens.positional import Positional
from passes.packing.within_rows.padding_masks import drop_padding_masks
from passes.packing.within_rows.row_analysis import RowAnalysis
from passes.packing.within_rows.row_rewrite import RowRewriter
from passes.packing.within_rows.row_rules import ROW_RULES
from passes.packing.within_rows.unpacked_head import UnpackedHead
from passes.shapes.symbolic import infer_symbolic_shapes
from tests.numerics import run
from tests.passes.packing.packs import around

COLUMNS = 6
#: Samples of 2 and 3 places, one of 4, and empty places.
MASK = np.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 0, 0]])
POSITIONS = np.array([[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 0, 0]])
IDS = np.array([[3, 4, 5, 6, 7, 0], [8, 9, 10, 11, 0, 0]])
FEEDS = {"ids": IDS, "mask": MASK, "position_ids": POSITIONS}


def prepared(body: str) -> tuple[gs.Graph, AxisMap]:
    graph = import_graph(PassManager(["extract_constant_to_initializer"]).run(around(body)))
    graph.toposort(mode="nodes")
    symbols: dict[str, list[int | str]] = {name: [str(BATCH), str(SEQ)] for name in ("ids", "mask")}
    return graph, AxisMap(graph, infer_symbolic_shapes(graph, symbols))


def rewritten(body: str, output: str) -> tuple[gs.Graph, np.ndarray[Any, Any]]:
    """The graph after the rewrite, and what ``output`` holds for samples that share rows."""
    graph, axes = prepared(f"{body}  y = Relu (x)")
    graph.outputs = [graph.tensors()[output]]
    graph.outputs[0].dtype = graph.outputs[0].dtype or np.dtype(np.float32)
    graph.cleanup(remove_unused_graph_inputs=False)
    positional = Positional(graph, axes)
    analysis = RowAnalysis(graph, axes, positional, COLUMNS, ROW_RULES)
    assert not analysis.run()
    mask = next(tensor for tensor in graph.inputs if tensor.name == "mask")
    positions = gs.Variable("position_ids", np.int64, ["batch", "seq"])
    rewriter = RowRewriter(graph, axes, positional, COLUMNS, mask, positions)
    if rewriter.needs_positions(analysis.plan):
        graph.inputs.append(positions)
    rewriter.apply(analysis.plan)
    declare_operators(graph, ["AttentionMask"])
    graph.cleanup(remove_unused_graph_inputs=False).toposort(mode="nodes")
    return graph, run(export_graph(graph), FEEDS)[output]


def test_a_table_of_positions_is_read_by_position() -> None:
    graph, got = rewritten("s = Shape <start = 1, end = 2> (ids)  p = Slice (P, zero, s, one)  o = Add (x, p)", "o")
    table = next(
        node.inputs[0].values for node in graph.nodes if node.op == "Gather" and "table" in node.inputs[0].name
    )
    alone = run(export_graph(prepared("y = Relu (x)  x0 = Identity (x)")[0]), {**FEEDS})
    assert got.shape == (2, COLUMNS, 8)
    assert table.shape == (COLUMNS, 8)
    assert "position_ids" in [tensor.name for tensor in graph.inputs]
    np.testing.assert_allclose(np.maximum(got - table[POSITIONS], 0), alone["y"], atol=1e-5)


def test_a_positional_operand_that_is_the_same_everywhere_needs_no_positions() -> None:
    body = """s = Shape <start = 1, end = 2> (ids)  n = Squeeze (s, zero)  r = Range (scalar_zero, n, scalar_one)
        z = Mul (r, scalar_zero)  f = Cast <to = 1> (z)  u = Unsqueeze (f, last)  o = Add (x, u)"""
    graph, _ = rewritten(body, "o")
    assert "position_ids" not in [tensor.name for tensor in graph.inputs]


@pytest.mark.parametrize(
    ("exclusive", "expected"),
    [
        (0, [[3, 7, 5, 11, 18, 0], [8, 17, 27, 38, 0, 0]]),
        (1, [[0, 3, 0, 5, 11, 0], [0, 8, 17, 27, 0, 0]]),
    ],
)
def test_a_running_sum_starts_anew_at_each_sample(exclusive: int, expected: list[list[int]]) -> None:
    _, got = rewritten(f"c = CumSum <exclusive = {exclusive}> (ids, scalar_one)  o = Cast <to = 1> (c)", "o")
    owned = MASK > 0
    np.testing.assert_array_equal(got[owned], np.array(expected)[owned])


def test_weights_are_zero_between_samples_and_from_empty_places() -> None:
    _, got = rewritten("t = Transpose <perm = [0, 2, 1]> (x)  sc = MatMul (x, t)  o = Softmax (sc)", "o")
    same = MASK[:, :, None] == MASK[:, None, :]
    assert not got[~same].any()
    np.testing.assert_allclose(got.sum(axis=-1), 1, atol=1e-6)


LENGTHS_OF_MASK = "m = Cast <to = 6> (mask)  counts = ReduceSum <keepdims = 0> (m, one)"


@pytest.mark.parametrize(
    ("lines", "dropped"),
    [
        (f"{LENGTHS_OF_MASK}  k = Identity (counts)", 1),
        ("k = Cast <to = 6> (mask)", 1),
        (f"{LENGTHS_OF_MASK}  o = Constant <value_ints = [1]> ()  i = Cast <to = 6> (o)  k = Add (counts, i)", 0),
        ("k = Cast <to = 6> (ids)", 0),
    ],
    ids=["count of the mask", "the mask", "one more", "another input"],
)
def test_a_mask_of_keys_is_dropped_where_it_only_repeats_the_mask(lines: str, dropped: int) -> None:
    graph, axes = prepared(f"{lines}  y = com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, x, , k)")
    mask = next(tensor for tensor in graph.inputs if tensor.name == "mask")
    assert drop_padding_masks(graph, axes, mask, COLUMNS) == dropped
    attention = next(node for node in graph.nodes if node.op == "MultiHeadAttention")
    assert attention.inputs[4].is_empty() == bool(dropped)


def head(read: str) -> UnpackedHead:
    """The head of a graph in which the node that makes ``pooled`` mixes samples."""
    graph, axes = prepared(f"y = Relu (x)  h = {read}  q = ReduceSum <keepdims = 0> (h, one)")
    graph.outputs = [graph.tensors()["y"], graph.tensors()["q"]]
    graph.cleanup(remove_unused_graph_inputs=False)
    mixing = {id(node): "it reduces over the places of a row" for node in graph.nodes if node.outputs[0].name == "q"}
    mask = next(tensor for tensor in graph.inputs if tensor.name == "mask")
    args = parse_pack_args({"max_valid_num": 3, "segment_max_size": 4})
    return UnpackedHead(graph, axes, mixing, mask, args, args.width)


def test_what_a_head_reads_is_unpacked_once_and_the_rest_stays_in_rows() -> None:
    unpacked_head = head("Mul (x, column)")
    assert unpacked_head.cut() == {"y": "packed", "q": "sample"}
    assert unpacked_head.count == 1


def test_a_head_that_reads_no_plain_tokens_is_refused_by_name() -> None:
    with pytest.raises(PackingError, match="reduces over the places of a row; and its input 'h'"):
        head("Transpose <perm = [0, 2, 1]> (x)").cut()

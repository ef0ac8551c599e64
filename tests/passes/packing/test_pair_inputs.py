"""Inputs of pairs of places: which are found, what is refused, and what the packed model says of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper

from passes.errors import PackingError, RewriteError
from passes.graph_io import import_graph
from passes.manager import PassManager
from passes.packed_model import METADATA_KEY, PackedModel
from passes.packing.opening.geometry import Geometry, GeometryFinder
from passes.packing.packed_transformer import PackedTransformer
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap
from passes.packing.tokens.memory import PaddedMemory, padded_memory
from passes.packing.tokens.sides import place
from passes.shapes.input_shapes import InputShapes
from passes.shapes.symbolic import infer_symbolic_shapes
from tests.numerics import Arrays, run
from tests.passes.packing.test_opening import declare
from tests.passes.rewrites import parse, shape_of
from tests.poprt.runtime.pair_models import CASES, COLUMNS, MOST, PACK_ARGS, ROWS, converted, encoder, samples
from tests.poprt.runtime.subsampled_models import encoder as subsampled
from tests.poprt.runtime.test_vector_tokens import alone

IDS = "int64[b, s] ids"


def geometry_of(*declared: str, **shapes: list[int]) -> Geometry:
    return GeometryFinder(InputShapes.of(shapes)).find(declare(*declared))


@pytest.mark.parametrize(
    ("pairs", "axes"),
    [("b, s, s", (1, 2)), ("b, 4, s, s", (2, 3)), ("b, s, s, 3", (1, 2)), ("b, s, 3, s", (1, 3)), ("n, s, s", None)],
)
@pytest.mark.parametrize("first", [True, False])
def test_the_sequence_on_two_axes_makes_an_input_one_of_pairs(
    pairs: str, axes: tuple[int, ...] | None, first: bool
) -> None:
    declared = [f"float[{pairs}] x", IDS] if first else [IDS, f"float[{pairs}] x"]
    if axes is None:
        with pytest.raises(PackingError, match=r"'x' \['n', 's', 's'\] .* axis 0 is 'n', and the batch is 'b'"):
            geometry_of(*declared)
        return
    geometry = geometry_of(*declared)
    assert (geometry.names, geometry.samples, geometry.runs) == (["ids"], (), ())
    assert [(pair.tensor.name, pair.axes) for pair in geometry.pairs] == [("x", axes)]
    symbols = geometry.symbolic_shapes()["x"]
    assert [axis for axis, extent in enumerate(symbols) if extent == str(SEQ)] == list(axes)
    assert symbols[0] == str(BATCH)


def test_tokens_that_are_arrays_are_no_first_input_where_they_are_pairs() -> None:
    geometry = geometry_of("float[b, s, s] x", "float[b, s, 4] features")
    assert (geometry.names, [pair.tensor.name for pair in geometry.pairs]) == (["features"], ["x"])


def test_of_extents_without_a_name_the_user_says_which_are_the_sequence() -> None:
    graph = declare(IDS, "float[b, s, s] x")
    graph.inputs[1].shape = ["b", None, None]
    shapes = {"ids": [4, 24], "x": [4, 24, 24]}
    assert [pair.axes for pair in GeometryFinder(InputShapes.of(shapes)).find(graph).pairs] == [(1, 2)]
    graph.inputs[1].shape = ["b", None, None]
    assert not GeometryFinder(InputShapes.of({**shapes, "x": [4, 24, 8]})).find(graph).pairs


def test_another_open_extent_gets_its_number_from_the_user() -> None:
    with pytest.raises(PackingError, match=r"axis 1 is open \('h'\) and not the sequence; give a number with --input"):
        geometry_of(IDS, "float[b, h, s, s] x")
    geometry = geometry_of(IDS, "float[b, h, s, s] x", ids=[4, 24], x=[4, 2, 24, 24])
    assert geometry.symbolic_shapes()["x"] == [str(BATCH), 2, str(SEQ), str(SEQ)]


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ([IDS, "float[b, s, s, s] x"], r"'x' .* it has the sequence on 3 axes, \[1, 2, 3\], and packing takes pairs"),
        ([IDS, "float[s, s] x"], r"'x' \['s', 's'\] .* axis 0 is 's', and the batch is 'b': samples of a run would"),
        ([IDS, "float[1, s, s] x"], r"'x' \[1, 's', 's'\] .* axis 0 is 1, and the batch is 'b'"),
        (["float[b, s, s] x"], "no input has the axes .* 'x' has one extent on two axes: a value for each pair"),
        ([IDS, "float[b, s, s] x", "float[b, 4, s] heat"], "'heat' .* the sequence 's' on axis 2: export"),
    ],
)
def test_what_cannot_be_packed_is_refused_by_name(declared: list[str], words: str) -> None:
    with pytest.raises(PackingError, match=words):
        geometry_of(*declared)


def test_several_segments_are_refused_by_the_input() -> None:
    with pytest.raises(PackingError, match=r"'pairs' .* several segments .* one segment_max_size, 12 for all"):
        converted("a bias", pack_args={"max_valid_num": 4, "segment_max_size": [4, 8]})


@pytest.mark.parametrize("pack_args", [None, PACK_ARGS])
def test_within_rows_it_is_refused_by_name_with_the_other_layout(pack_args: dict[str, int] | None) -> None:
    words = r"input 'pairs' .* a value for each pair of places, .* give --pack_args alone"
    with pytest.raises(PackingError, match=words):
        converted("a bias", used_passes=["insert_attention_mask"], pack_args=pack_args)


@pytest.mark.parametrize("name", CASES)
def test_the_packed_model_says_where_the_pairs_are_and_stock_onnxruntime_runs_it(name: str) -> None:
    packed, case = converted(name), CASES[name]
    onnx.checker.check_model(packed, full_check=True)
    packing = PackedModel.read(packed)
    assert packing is not None
    assert (packing.pair_inputs, packing.dynamic_inputs) == ({"pairs": case.axes}, ("ids", "mask"))
    assert (packing.neighbours, bool(packing.isolation)) == (case.neighbours, case.neighbours != "any")
    declared = next(shape_of(value) for value in packed.graph.input if value.name == "pairs")
    assert declared == [MOST, *case.shape(COLUMNS)]
    batch = samples(name, [COLUMNS] * 3 if case.neighbours != "any" else [9, 17, 2, 30])
    got = run(packed, feeds(name, batch))
    for row, want in enumerate(alone(encoder(name), batch)):
        length = len(want["hidden"])
        np.testing.assert_allclose(got["hidden"][row][:length], want["hidden"], atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(got["pooled"][row], want["pooled"], atol=1e-5, rtol=1e-5)


def feeds(name: str, batch: list[Arrays]) -> Arrays:
    """The samples end to end, pairs in rows of their own with zeros behind."""
    taken: Arrays = {"unpack_info": np.zeros((MOST, 1), np.int32)}
    for key in ("ids", "mask"):
        stream = np.concatenate([sample[key] for sample in batch])
        taken[key] = np.pad(stream, (0, ROWS * COLUMNS - len(stream))).reshape(ROWS, COLUMNS)
    taken["unpack_info"][: len(batch), 0] = [len(sample["ids"]) for sample in batch]
    taken["pairs"] = np.zeros((MOST, *CASES[name].shape(COLUMNS)), batch[0]["pairs"].dtype)
    for row, sample in zip(taken["pairs"], batch, strict=False):
        row[tuple(map(slice, sample["pairs"].shape))] = sample["pairs"]
    return {key: array.astype(np.int32) if array.dtype.kind == "i" else array for key, array in taken.items()}


def test_the_mean_over_keys_is_named_as_the_reason() -> None:
    packing = PackedModel.read(converted("a mean over keys"))
    assert packing is not None
    assert "averages over padding" in packing.isolation


def test_pairs_alone_that_are_summed_to_tokens_meet_them_repacked() -> None:
    """What pairs come to for each token, [batch, seq], crosses to the packed side as any such tensor does."""
    packed = converted("places summed by pairs")
    crossing = [node for node in packed.graph.node if node.op_type == "Repack" and "beside" in node.input[0]]
    assert len(crossing) == 1
    assert not any("pairs" in node.input for node in packed.graph.node if node.op_type in ("Unpack", "Repack"))


def test_pairs_take_memory_throughout_the_run() -> None:
    """Two products of 4 bytes a pair come after the one node that reads the pairs: 4 more are held meanwhile."""
    text = """
        g (int64[b, s] ids, float[b, s, s] pairs) => (float y) {
            h = Gather (T, ids)  x = MatMul (h, W)  t = Transpose <perm = [0, 2, 1]> (x)
            early = ReduceSum (pairs)
            p1 = MatMul (x, t)  p2 = Relu (p1)  y = ReduceSum <keepdims = 0> (p2)
        }
    """

    def memory(text: str) -> PaddedMemory:
        model = parse(text)
        for name, shape in (("T", (64, 8)), ("W", (8, 8))):
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
        graph: gs.Graph = import_graph(model)
        shapes: dict[str, Any] = {"ids": [str(BATCH), str(SEQ)], "pairs": [str(BATCH), str(SEQ), str(SEQ)]}
        declared = {tensor.name: shapes[tensor.name] for tensor in graph.inputs}
        return padded_memory(place(graph, AxisMap(graph, infer_symbolic_shapes(graph, declared))), 32)

    without = memory(text.replace(", float[b, s, s] pairs", "").replace("early = ReduceSum (pairs)", ""))
    assert memory(text).pair_bytes == without.pair_bytes + 4


@pytest.mark.parametrize("said", [{"pairs": [1]}, {"pairs": [2, 1]}, {"pairs": [0, 1]}, {"pairs": "1, 2"}, ["pairs"]])
def test_damaged_metadata_are_refused_by_the_field(said: Any) -> None:
    model = converted("a bias")
    entry = next(item for item in model.metadata_props if item.key == METADATA_KEY)
    entry.value = json.dumps({**json.loads(entry.value), "pair_inputs": said})
    with pytest.raises(RewriteError, match=r"pair_inputs is .*, expected names of inputs with two axes each"):
        PackedModel.read(model)


def test_metadata_that_name_no_input_are_refused() -> None:
    model = converted("a bias a head")
    entry = next(item for item in model.metadata_props if item.key == METADATA_KEY)
    entry.value = json.dumps({**json.loads(entry.value), "pair_inputs": {"others": [1, 2]}})
    with pytest.raises(RewriteError, match="names 'others', which is no input"):
        PackedModel.read(model)


@pytest.mark.parametrize("side", ["before the front end", "behind it"])
def test_pairs_beside_a_front_end_that_changes_the_length_are_refused_by_name(side: str) -> None:
    model = subsampled("strides, sum of the mask")
    model.graph.input.append(helper.make_tensor_value_info("pairs", TensorProto.FLOAT, ["batch", "time", "time"]))
    if side == "behind it":  # what pairs come to for a sample
        next(node for node in model.graph.node if node.output[0] == "pooled").output[0] = "pooled_alone"
        reduced = helper.make_node("ReduceSum", ["pairs", "pair_axes"], ["of_pairs"], name="of_pairs", keepdims=1)
        squeezed = helper.make_node("Squeeze", ["of_pairs", "last"], ["sums"], name="sums")
        joined = helper.make_node("Mul", ["pooled_alone", "sums"], ["pooled"], name="joined")
        model.graph.node.extend([reduced, squeezed, joined])
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 2]), "pair_axes"))
    else:
        reduced = helper.make_node("ReduceSum", ["pairs", "last"], ["of_pairs"], name="of_pairs", keepdims=1)
        added = helper.make_node("Add", ["features", "of_pairs"], ["with_pairs"], name="with_pairs")
        for node in model.graph.node:
            node.input[:] = ["with_pairs" if name == "features" else name for name in node.input]
        model.graph.node.insert(0, added)
        model.graph.node.insert(0, reduced)
    with pytest.raises(PackingError, match=r"input 'pairs' .* the front end of this model leaves its encoder other"):
        PassManager([PackedTransformer(PACK_ARGS)]).run(model)

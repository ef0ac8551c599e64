"""Lowering a packed model: the engine's graph takes the real tokens, and what it makes fits the longest sample."""

from functools import cache

import numpy as np
import onnx
import pytest

from models.bert import SIZES, BertConfig, build_bert
from passes.graph_io import export_graph, import_graph
from passes.ops import DOMAIN
from poprt.compiler.packing_spec import read_packing
from poprt.compiler.ragged import LowerPacking
from poprt.converter import Converter
from tests.numerics import one_by_one, random_samples, run

ROWS, COLUMNS, MOST = 3, 16, 8


@cache
def original(head: str) -> onnx.ModelProto:
    return build_bert(BertConfig(**{**SIZES["tiny"], "layers": 1}, head=head, dialect="new-torch"))


def converted(head="hidden", **pack_args):
    model = onnx.ModelProto.FromString(original(head).SerializeToString())
    shapes = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    sizes = {"max_valid_num": MOST, "segment_max_size": COLUMNS, **pack_args}
    return Converter(input_shape=shapes, pack_args=sizes, disable_progress_bar=True).convert(model)


def lower_packing(model):
    packing = read_packing(model)
    return LowerPacking(packing).run(model), packing


def extents(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("lengths", [[5, 9, 1], [16], [1], [2] * 12, [3, 3]])
@pytest.mark.parametrize("head", ["hidden", "mean", "qa"])
def test_real_tokens_alone_give_one_row_a_sample_as_long_as_the_longest(head, lengths):
    model, packing = lower_packing(converted(head))
    assert packing.ragged
    samples = random_samples(lengths)
    feeds = {name: np.concatenate([s[name] for s in samples])[None].astype(np.int32) for name in samples[0]}
    feeds["unpack_info"] = np.array(lengths, np.int32)[:, None]
    for name, result in run(model, feeds).items():
        assert len(result) == len(lengths)
        if packing.outputs[name] == "tokens":
            assert result.shape[1] == max(lengths)
        for row, want in zip(result, one_by_one(original(head), samples), strict=True):
            np.testing.assert_allclose(row[tuple(map(slice, want[name].shape))], want[name], atol=1e-5)


def test_the_lowered_graph_is_written_in_standard_operators_alone():
    model, _ = lower_packing(converted())
    assert not [node for node in model.graph.node if node.domain == DOMAIN]
    assert not model.functions
    onnx.checker.check_model(model)


def test_index_tensors_are_computed_once_however_many_crossings_there_are():
    packed = converted()
    assert sum(node.op_type == "Unpack" for node in packed.graph.node) > 3
    model, _ = lower_packing(packed)
    assert sum(node.op_type == "NonZero" for node in model.graph.node) == 1


def test_declared_extents_are_open_and_the_row_is_one():
    model, _ = lower_packing(converted())
    assert {value.name: extents(value) for value in model.graph.input} == {
        "input_ids": [1, "columns"],
        "attention_mask": [1, "columns"],
        "token_type_ids": [1, "columns"],
        "unpack_info": ["samples", 1],
    }
    assert extents(model.graph.output[0]) == ["samples", "longest", 64]


@pytest.mark.parametrize("sizes", ["5+11", [4, 4, 8]])
def test_samples_of_several_segments_keep_the_declared_shapes(sizes):
    packed = converted(segment_max_size=sizes)
    before = export_graph(import_graph(packed)).SerializeToString()
    model, packing = lower_packing(packed)
    assert not packing.ragged
    assert model.SerializeToString() == before


def test_a_model_that_is_not_packed_is_left_as_it_is():
    model = onnx.ModelProto.FromString(original("hidden").SerializeToString())
    assert read_packing(model) is None
    graph = import_graph(model)
    assert not LowerPacking(None).apply(graph).modified
    assert export_graph(graph).SerializeToString() == export_graph(import_graph(model)).SerializeToString()


def test_a_second_run_changes_nothing():
    packed = converted()
    graph = import_graph(packed)
    step = LowerPacking(read_packing(packed))
    assert step.apply(graph).counts["Unpacks lowered"] > 3
    once = export_graph(graph).SerializeToString()
    assert not step.apply(graph).modified
    assert export_graph(graph).SerializeToString() == once

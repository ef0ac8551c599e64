"""A model to which padding shows is refused; of all others no result depends on the neighbours in the pack."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper

from models.bert import SIZES, BertConfig, build_bert
from passes.errors import PackingError
from passes.manager import PassManager, PassRecord
from passes.packing.packed_transformer import PackedTransformer
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.runtime.declared import DeclaredSession
from tests import numerics
from tests.passes.packing.packs import around, metadata, packed

WIDTH = 16
#: Head on last_hidden_state -> whether padding shows in its result.
HEADS = {
    "mean of all places": ([("ReduceMean", ["last_hidden_state"], {"axes": [1], "keepdims": 0})], True),
    "largest of all places": ([("ReduceMax", ["last_hidden_state"], {"axes": [1], "keepdims": 0})], True),
    "last place": ([("Gather", ["last_hidden_state", "minus_one"], {"axis": 1})], True),
    "third place": ([("Gather", ["last_hidden_state", "two"], {"axis": 1})], False),
    "first place": ([("Gather", ["last_hidden_state", "zero"], {"axis": 1})], False),
    "sum of all places": ([("ReduceSum", ["last_hidden_state", "sequence_axis"], {"keepdims": 0})], False),
}


def _with_head(head: str) -> onnx.ModelProto:
    model = build_bert(BertConfig(**SIZES["tiny"], head="hidden", dialect="new-torch"), seed=0)
    numbers = {"minus_one": np.array(-1), "zero": np.array(0), "two": np.array(2), "sequence_axis": np.array([1])}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in numbers.items())
    nodes, _ = HEADS[head]
    for op, inputs, attrs in nodes:
        model.graph.node.append(helper.make_node(op, inputs, ["pooled"], name="head", **attrs))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("pooled", onnx.TensorProto.FLOAT, ["batch", 64]))
    return model


def _pack(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassRecord]:
    shapes = {value.name: [4, WIDTH] for value in model.graph.input}
    manager = PassManager([PackedTransformer({"max_valid_num": 8, "segment_max_size": WIDTH}, shapes)])
    return manager.run(model), manager.records[-1]


@pytest.mark.parametrize("head", [name for name, (_, shows) in HEADS.items() if shows])
def test_a_head_to_which_padding_shows_is_refused_by_name(head: str) -> None:
    with pytest.raises(PackingError, match=r"padding shows in this model's results.*'head': it "):
        _pack(_with_head(head))


def test_a_place_that_may_be_padding_keeps_the_declared_extents() -> None:
    packed, record = _pack(_with_head("third place"))
    metadata = json.loads({item.key: item.value for item in packed.metadata_props}["poprt.packing"])
    assert metadata["shape_agnostic"] is False
    named = [refusal for refusal in record.result.refusals if "every run pads to 16" in refusal.reason]
    assert [refusal.node for refusal in named] == ["Gather 'head'"]


@pytest.mark.parametrize("head", [name for name, (_, shows) in HEADS.items() if not shows])
def test_a_result_does_not_depend_on_the_neighbours(head: str) -> None:
    model = _with_head(head)
    shapes = {value.name: [4, WIDTH] for value in model.graph.input}
    converted = Converter(input_shape=shapes, pack_args={"max_valid_num": 8, "segment_max_size": WIDTH}).convert(model)
    session = DeclaredSession(Compiler.compile(converted, None))
    sample, short, long = numerics.random_samples([5, 3, WIDTH])
    expected = numerics.one_by_one(model, [sample])[0]["pooled"]
    for neighbour in (short, long):
        np.testing.assert_allclose(_run(session, [sample, neighbour])[0], expected, atol=1e-5)


def _run(session: DeclaredSession, samples: list[numerics.Arrays]) -> np.ndarray:
    feeds: dict[str, np.ndarray] = {"unpack_info": np.zeros((8, 1), np.int32)}
    for name in samples[0]:
        stream = np.concatenate([sample[name] for sample in samples])
        feeds[name] = np.pad(stream, (0, 4 * WIDTH - len(stream))).reshape(4, WIDTH).astype(np.int32)
    feeds["unpack_info"][: len(samples), 0] = [len(sample["input_ids"]) for sample in samples]
    result: np.ndarray = session.run(feeds, ["pooled"])[0]
    return result


def test_a_reduction_over_the_samples_of_a_batch_is_refused_by_name() -> None:
    body = "m = Mul (x, column)  mean = ReduceMean <axes = [0]> (m)  y = Sub (x, mean)"
    with pytest.raises(PackingError, match=r"ReduceMean 'mean': it reduces over the samples of a batch"):
        packed(around(body))


def test_tokens_divided_by_the_length_of_the_row_keep_the_declared_extents() -> None:
    model = around("s = Shape <start = 1, end = 2> (ids)  n = Cast <to = 1> (s)  d = Div (x, n)  y = MatMul (d, W1)")
    assert metadata(packed(model))["shape_agnostic"] is False


def test_one_scale_for_all_samples_of_a_run_is_refused_by_name() -> None:
    body = "q, scale, zero_point = DynamicQuantizeLinear (x)  y = DequantizeLinear (q, scale, zero_point)"
    with pytest.raises(PackingError, match=r"DynamicQuantizeLinear.*one scale from all samples"):
        packed(around(body))

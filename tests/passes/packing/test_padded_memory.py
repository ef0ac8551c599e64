"""What the unpacked side holds at once: bytes a place, and bytes a pair of places of one sample."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from models.bert import BertConfig, build_bert
from passes.packed_model import PackedModel
from poprt.converter import Converter

SMALL = {"vocab": 100, "layers": 2, "hidden": 32, "intermediate": 64, "head": "qa"}


def packed(model: onnx.ModelProto, columns: int = 64) -> PackedModel:
    converted = Converter(
        input_shape={value.name: [4, columns] for value in model.graph.input},
        pack_args={"max_valid_num": 8, "segment_max_size": columns},
        disable_progress_bar=True,
    ).convert(model)
    record = PackedModel.read(converted)
    assert record is not None
    return record


@pytest.mark.parametrize("heads", [2, 4, 8])
def test_scores_are_held_twice_while_a_softmax_reads_them(heads: int) -> None:
    record = packed(build_bert(BertConfig(**SMALL, heads=heads)), columns=512)
    assert record.pair_bytes == 2 * heads * 4
    assert record.cell_bytes > 0


def test_a_model_that_only_pools_holds_no_pairs() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["hidden"]),
        helper.make_node("ReduceSum", ["hidden", "axis"], ["pooled"], keepdims=0),
    ]
    table = helper.make_tensor("table", TensorProto.FLOAT, [100, 32], [0.5] * 3200)
    weight = helper.make_tensor("w", TensorProto.FLOAT, [32, 16], [0.25] * 512)
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["x"]), *nodes],
        "pool",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "seq"])],
        [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["batch", 16])],
        [table, weight, axis],
    )
    record = packed(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert record.pair_bytes == 0
    assert record.cell_bytes == 16 * 4

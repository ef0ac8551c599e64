"""The shapes that inputs are fixed to: one object for const_input_shape and the packing passes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from models.bert import SIZES, BertConfig, build_bert
from passes import PassManager
from passes.errors import RewriteError
from passes.packed_model import PackedModel
from passes.packing.packed_transformer import PackedTransformer
from passes.shapes.const_input_shape import ConstInputShape
from passes.shapes.convert_opset import ConvertOpset
from passes.shapes.input_shapes import InputShapes
from tests.passes.rewrites import declared


def tensor(*shape: object) -> gs.Variable:
    return gs.Variable("x", np.int64, list(shape))


def encoder() -> onnx.ModelProto:
    return ConvertOpset(17).run(build_bert(BertConfig(**SIZES["tiny"], head="hidden")))


@pytest.mark.parametrize(
    ("shapes", "shape", "expected"),
    [
        (InputShapes({"x": [2, 8]}), ["b", None], [2, 8]),
        (InputShapes({"y": [2, 8]}), ["b", None], ["b", None]),
        (InputShapes({}, 3), ["b", "s"], [3, "s"]),
        (InputShapes({}, 3, -1), ["b", "s"], ["b", 3]),
        (InputShapes({"x": [2, 8]}, 3), ["b", "s"], [2, 8]),
        (InputShapes({}, 3), [], []),
    ],
    ids=str,
)
def test_what_an_input_is_fixed_to(shapes: InputShapes, shape: list[object], expected: list[object]) -> None:
    assert shapes.fixed(tensor(*shape)) == expected


def test_an_input_without_a_rank_that_nobody_names_has_none() -> None:
    assert InputShapes().fixed(gs.Variable("x", np.int64)) is None


@pytest.mark.parametrize(("shapes", "to_fix"), [(InputShapes(), False), (InputShapes({}, 1), True)], ids=str)
def test_whether_anything_is_to_be_fixed(shapes: InputShapes, to_fix: bool) -> None:
    assert bool(shapes) == to_fix


def test_a_packing_pass_goes_by_what_const_input_shape_declares() -> None:
    model = encoder()
    shapes = InputShapes({}, 4)
    packed = PackedTransformer({"max_valid_num": 8, "segment_max_size": 16}, shapes)
    converted = PassManager([packed, ConstInputShape(shapes)]).run(model)
    record = PackedModel.read(converted)
    assert record is not None
    assert (record.rows, record.columns) == (4, 0)
    assert declared(converted)["input_ids"] == [4, "columns"]


def test_a_shape_that_contradicts_the_model_is_refused_by_the_packing_pass_too() -> None:
    model = encoder()
    fixed = ConstInputShape({value.name: [4, 16] for value in model.graph.input}).run(model)
    step = PackedTransformer({"max_valid_num": 8, "segment_max_size": 16}, {"input_ids": [2, 16]})
    with pytest.raises(RewriteError, match=r"'input_ids', axis 0: the model fixes it to 4, it cannot become 2"):
        step.run(fixed)

"""What insert_attention_mask asks of a model and its options: each error says what to give, and giving it works."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

from passes import get_pass
from passes.errors import PackingError
from passes.manager import PassManager
from passes.packing.insert_attention_mask import InsertAttentionMask
from poprt.converter import Converter
from tests.passes.packing.packs import COLUMNS, ROWS, around, packed
from tests.passes.rewrites import copy_of

BEFORE = ("extract_constant_to_initializer", "constant_folding", "eliminate_identity")
PACK_ARGS = {"max_valid_num": 6, "segment_max_size": COLUMNS}
_ADDED = """
    keys = Unsqueeze ({mask}, one)  numbers = Cast <to = 1> (keys)  on = Constant <value_float = 1.0> ()
    off = Constant <value_float = -1e9> ()  free = Sub (on, numbers)  {added} = Mul (free, off)
"""
_SCORES = "xt = Transpose <perm = [0, 2, 1]> (x)  sc = MatMul (x, xt)"
ATTENTION = f"{_SCORES} {_ADDED.format(mask='mask', added='a')} m = Add (sc, a)  w = Softmax (m)  y = MatMul (w, x)"


def rows(model: onnx.ModelProto, shapes: dict[str, list[int]] | None = None, **pack_args: Any) -> onnx.ModelProto:
    fixed = {value.name: [ROWS, COLUMNS] for value in model.graph.input} if shapes is None else shapes
    step = InsertAttentionMask(fixed, {**PACK_ARGS, **pack_args})
    return PassManager([*BEFORE, step]).run(copy_of(model))


def test_rows_of_unknown_length_are_told_the_option() -> None:
    model = around(ATTENTION)
    with pytest.raises(PackingError, match="give --input_shape, for example --input_shape ids=16,256"):
        rows(model, {})
    assert rows(model, {"ids": [16, 256], "mask": [16, 256]}, segment_max_size=256)


def test_segments_of_several_sizes_are_too_many() -> None:
    model = around(ATTENTION)
    with pytest.raises(PackingError, match="have one segment each; give one segment_max_size"):
        rows(model, segment_max_size=[4, 8])
    assert rows(model, segment_max_size=8)


def test_an_old_opset_is_told_which_one_is_needed() -> None:
    model = around(ATTENTION.replace("w = Softmax (m)", "w = Softmax <axis = 2> (m)"), opset=13)
    with pytest.raises(PackingError, match="opset 15 or newer, the model has 13; run convert_opset before it"):
        rows(model)
    raised = PassManager([BEFORE[0], get_pass("convert_opset", target=17)]).run(copy_of(model))
    assert rows(raised)


def test_a_table_of_pairs_that_comes_out_is_told_how_to_leave_it_out() -> None:
    model = around(ATTENTION)
    model.graph.output.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, None))
    with pytest.raises(PackingError, match=r"output 'w' relates all places of a row.* --remove_outputs"):
        rows(model)
    options: dict[str, Any] = {"input_shape": {"ids": [ROWS, COLUMNS], "mask": [ROWS, COLUMNS]}, "pack_args": PACK_ARGS}
    assert Converter(remove_outputs=["w"], used_passes=["insert_attention_mask"], **options).convert(model)


def test_two_masks_are_one_too_many() -> None:
    second = _ADDED.replace("keys", "keys2").replace("numbers", "numbers2").replace("free", "free2")
    second = second.replace("on =", "on2 =").replace("off =", "off2 =").replace("(on,", "(on2,")
    second = second.replace(", off)", ", off2)").format(mask="other", added="a2")
    body = ATTENTION.replace("w = Softmax (m)", f"{second} m2 = Add (m, a2)  w = Softmax (m2)")
    model = around(body)
    model.graph.input.append(copy_of(model).graph.input[1])
    model.graph.input[2].name = "other"
    with pytest.raises(PackingError, match=r"'mask', 'other' both mask attention; .* leave out insert_attention_mask"):
        rows(model)
    assert packed(model)

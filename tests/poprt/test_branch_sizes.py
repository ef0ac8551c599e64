"""The check tries both ways of a comparison of extents, and looks at the shapes that the converted model declares."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import helper, parser

from poprt.branch_sizes import named_extents, sizes_for_other_branches
from poprt.converter import Converter
from poprt.errors import PoprtError
from poprt.sample_data import InputInfo, model_inputs
from poprt.verify import verify
from poprt.verify_packed import pack_samples
from poprt_format.packing import ACROSS_ROWS, Packing

HEADER = '<ir_version: 8, opset_import: ["" : 15]>'
CUT = "then_branch = t () => (float t) { t = ReduceSum <keepdims = 0> (r, ax) }"


def branching(condition: str, other: str = "Identity", shape: str = "b, n, 4", behind: str = "") -> onnx.ModelProto:
    """Goes another way where ``condition`` holds for the extent ``g`` of axis 1."""
    model = parser.parse_model(
        f"{HEADER} g (float[{shape}] x) => (float y) <int64[1] ax = {{1}}, int64 one = {{1}}, int64 few = {{40}}> {{"
        f"r = Relu (x)  s = Shape (r)  g = Gather (s, one)  {condition}"
        f"  i = If (c) < {CUT}, else_branch = e () => (float e) {{ e = {other} (r) }}>  {behind}  y = Relu (i) }}"
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                attribute.g.output[0].type.tensor_type.ClearField("shape")
    return model


def tries(model: onnx.ModelProto) -> list[list[dict[str, int]]]:
    return sizes_for_other_branches(model, named_extents(model_inputs(model)))


@pytest.mark.parametrize(
    ("condition", "first"),
    [
        ("c = Equal (g, one)", 1),
        ("c = Less (few, g)", 41),
        ("d = Div (g, few)  c = Greater (d, one)", 80),
        ("d = Sub (g, one)  q = Cast <to = 9> (d)  v = Equal (d, few)  c = And (q, v)", 41),
    ],
)
def test_a_size_for_the_other_way_is_found(condition: str, first: int) -> None:
    assert tries(branching(condition))[0][0] == {"n": first}


def test_an_extent_without_a_name_is_tried_too() -> None:
    assert tries(branching("c = Equal (g, one)", shape="b, ?, 4"))[0][0] == {"x_d1": 1}


@pytest.mark.parametrize("shape", ["b, 7, 4", "2, 1, 4"])
def test_nothing_is_tried_where_nothing_is_open(shape: str) -> None:
    assert tries(branching("c = Equal (g, one)", shape=shape)) == []


def test_a_fault_in_the_way_that_is_seldom_taken_fails() -> None:
    model, spoilt = branching("c = Less (few, g)"), branching("c = Less (few, g)")
    node = next(node for node in spoilt.graph.node if node.op_type == "If").attribute[0].g.node[0]
    node.op_type = "ReduceMin"
    del node.input[1:]
    node.attribute.append(helper.make_attribute("axes", [1]))
    assert verify(model, model).passed
    assert not verify(model, spoilt).passed


def test_sizes_that_the_original_does_not_take_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    model = branching("c = Equal (g, one)", behind="three = Transpose <perm = [0, 2, 1]> (i)")
    with caplog.at_level(logging.DEBUG, "poprt"):
        assert verify(model, model).passed
    assert "does not run with other sizes" in caplog.text


def test_sizes_that_would_not_fit_in_memory_are_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("poprt.sample_data._MOST_ELEMENTS", 200)
    model = branching("c = Less (few, g)")
    with caplog.at_level(logging.DEBUG, "poprt"):
        assert verify(model, model).runs == 2
    assert "leaves {'n': 41} out" in caplog.text


@pytest.mark.parametrize(("limit", "number"), [(2000, 1), (3000, 0)])
def test_very_large_sizes_are_not_tried(limit: int, number: int) -> None:
    model = branching("c = Less (few, g)")
    next(item for item in model.graph.initializer if item.name == "few").int64_data[:] = [limit]
    assert len(tries(model)) == number


def test_a_declared_shape_that_a_run_contradicts_fails_by_name() -> None:
    model = branching("c = Equal (g, one)")
    lying = onnx.ModelProto()
    lying.CopyFrom(model)
    lying.graph.value_info.append(helper.make_tensor_value_info("i", onnx.TensorProto.FLOAT, ["b", "n", 4]))
    with pytest.raises(PoprtError, match=r"tensor 'i' .* declares the shape \[b, n, 4\], and a run gives \[2, 4\]"):
        verify(model, lying)


def test_a_converted_model_with_such_a_branch_passes() -> None:
    converter = Converter(check=True)
    converter.convert(branching("c = Equal (g, one)"))
    assert converter.verification is not None
    assert converter.verification.passed
    assert converter.verification.runs == 2


def test_samples_of_a_pack_can_all_have_one_length() -> None:
    packing = Packing(
        layout=ACROSS_ROWS,
        rows=3,
        columns=8,
        max_valid_num=5,
        segment_max_size=(8,),
        unpack_info="unpack_info",
        dynamic_inputs=("ids",),
        mask="",
        position_ids="",
        outputs={"y": "tokens"},
    )
    ids = InputInfo("ids", np.dtype(np.int64), ("B", "S"), "ids", rows=50)
    info = InputInfo("unpack_info", np.dtype(np.int32), (5, 1), "numbers")
    case = pack_samples(packing, [ids], [ids, info], np.random.default_rng(0), length=2)
    assert {feeds["ids"].shape for feeds in case.original_feeds} == {(1, 2)}
    np.testing.assert_array_equal(case.converted_feeds["unpack_info"], [[2]] * 5)

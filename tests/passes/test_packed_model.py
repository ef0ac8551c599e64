"""The record of a packed model: what is written is read again, in both forms of a model."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import pytest

from passes import packed_model
from passes.errors import RewriteError
from passes.graph_io import export_graph, import_graph
from passes.packed_model import METADATA_KEY, PackedModel, is_packed
from poprt.compiler import Compiler
from poprt.compiler.packing_spec import read_packing
from poprt.errors import CompileError
from poprt.manifest import PackingSpec
from poprt_format.packing import ACROSS_ROWS, ANY, SAME_LENGTH, WITHIN_ROWS, Packing
from tests.passes.rewrites import parse

RECORD = PackedModel(
    layout=ACROSS_ROWS,
    rows=2,
    columns=8,
    max_valid_num=3,
    segment_max_size=(8,),
    unpack_info="info",
    dynamic_inputs=("x",),
    mask="",
    position_ids="",
    outputs={"y": "sample"},
    neighbours=SAME_LENGTH,
    isolation="node n sees padding",
    token_axes={"y": (1, 2)},
    shape_agnostic=True,
    packed_flops=3,
    total_flops=2**40,
)


def model() -> onnx.ModelProto:
    return parse("g (int64[2,8] x, int32[3,1] info) => (int64[2,8] y) { y = Neg (x) }")


def in_metadata(fields: dict[str, Any]) -> onnx.ModelProto:
    stated = model()
    onnx.helper.set_model_props(stated, {"other": "kept", METADATA_KEY: json.dumps(fields)})
    return stated


def test_what_is_written_is_read_again_from_a_model_and_from_a_graph() -> None:
    stated = in_metadata({})
    RECORD.write(stated)
    graph = import_graph(stated)
    assert PackedModel.read(stated) == PackedModel.read(graph) == RECORD
    later = dataclasses.replace(RECORD, rows=4)
    later.write(graph)
    assert PackedModel.read(export_graph(graph)) == later
    later.write(stated)
    assert [item.key for item in stated.metadata_props] == ["other", METADATA_KEY]
    assert PackedModel.read(stated) == later


@pytest.mark.parametrize("form", [lambda model: model, import_graph], ids=["model", "graph"])
def test_a_model_that_says_nothing_is_not_packed(form: Any) -> None:
    plain, packed = form(model()), form(model())
    RECORD.write(packed)
    assert PackedModel.read(plain) is None
    assert (is_packed(plain), is_packed(packed)) == (False, True)


def test_a_model_of_an_earlier_version_lacks_the_later_fields() -> None:
    later = ("neighbours", "isolation", "token_axes", "packed_flops", "total_flops")
    fields = {name: value for name, value in dataclasses.asdict(RECORD).items() if name not in later}
    record = PackedModel.read(in_metadata(fields))
    assert record is not None
    assert (record.neighbours, record.isolation, record.token_axes, record.total_flops) == (ANY, "", {}, 0)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(PackedModel)])
def test_a_damaged_field_is_named(name: str) -> None:
    fields = {**dataclasses.asdict(RECORD), name: [{}]}
    for stated in (in_metadata(fields), import_graph(in_metadata(fields))):
        with pytest.raises(RewriteError, match=rf"'poprt.packing' are damaged: {name} is \[{{}}\], expected"):
            PackedModel.read(stated)


@pytest.mark.parametrize(("text", "said"), [("{", "they are no JSON: "), ("[]", "they are no JSON object")])
def test_metadata_that_are_no_record_are_damaged(text: str, said: str) -> None:
    stated = model()
    onnx.helper.set_model_props(stated, {METADATA_KEY: text})
    with pytest.raises(RewriteError, match=f"'poprt.packing' are damaged: {said}"):
        PackedModel.read(stated)
    with pytest.raises(CompileError, match=f"'poprt.packing' are damaged: {said}"):
        Compiler.compile(stated)


def test_a_name_that_is_no_input_is_an_error_that_lists_the_inputs() -> None:
    stated = in_metadata({**dataclasses.asdict(RECORD), "dynamic_inputs": ["z"]})
    with pytest.raises(RewriteError, match=r"names 'z', which is no input of the model; its inputs are .'x', 'info'"):
        PackedModel.read(stated)


def test_each_field_has_a_check() -> None:
    assert set(packed_model._CHECKS) == {field.name for field in dataclasses.fields(PackedModel)}


def test_the_executable_stores_what_the_model_says() -> None:
    stated = model()
    RECORD.write(stated)
    spec = read_packing(stated)
    assert isinstance(spec, PackingSpec)
    for field in dataclasses.fields(Packing):
        assert getattr(spec, field.name) == getattr(RECORD, field.name)


@pytest.mark.parametrize(
    ("changes", "ragged", "unpacks_inside"),
    [
        ({}, True, True),
        ({"shape_agnostic": False}, False, True),
        ({"segment_max_size": (3, 5)}, False, True),
        ({"layout": WITHIN_ROWS}, False, True),
        ({"layout": WITHIN_ROWS, "unpack_info": ""}, False, False),
    ],
    ids=str,
)
def test_what_follows_from_the_fields(changes: dict[str, Any], ragged: bool, unpacks_inside: bool) -> None:
    record = dataclasses.replace(RECORD, **changes)
    assert (record.ragged, record.unpacks_inside) == (ragged, unpacks_inside)


def test_a_graph_built_in_code_can_be_packed() -> None:
    graph = gs.Graph(inputs=[gs.Variable("x"), gs.Variable("info")])
    RECORD.write(graph)
    assert PackedModel.read(graph) == RECORD

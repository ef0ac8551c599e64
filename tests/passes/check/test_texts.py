"""Texts that are no UTF-8, in each field of a model that can hold one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import pytest
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import helper

from passes.errors import RewriteError
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.errors import CompileError

TEXT = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
g (float[N,8] x, bool c) => (float[N,8] y) <float[2,8] w = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}> {
  a = Add (x, w)  v = local.f <al: float = 1.0> (a)
  z = If (c) <
    then_branch = t () => (float[N,8] u) { u = Neg (v) },
    else_branch = e () => (float[N,8] q) { q = Abs (v) }>
  y = Add (z, v)
}
<domain: "local", opset_import: ["" : 17]> f <al> (i) => (o) { o = LeakyRelu <alpha: float = @al> (i) }"""


def full_model() -> onnx.ModelProto:
    """A valid model with most fields that hold a text."""
    model = onnx.parser.parse_model(TEXT)
    model.producer_name, model.producer_version, model.domain = "p", "v", "d"
    graph, function = model.graph, model.functions[0]
    for number, node in enumerate(graph.node):
        node.name = f"node{number}"
    for holder in (model, graph, graph.node[0], graph.input[0], graph.initializer[0], function, function.node[0]):
        holder.doc_string = "doc"
        holder.metadata_props.add(key="k", value="v")
    graph.node[2].attribute[0].doc_string = "doc"
    graph.input[0].type.denotation = "d"
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "d"
    note = graph.quantization_annotation.add(tensor_name="a")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    function.value_info.append(helper.make_tensor_value_info("i", 1, ["M", 8]))
    return model


def texts(message: Any, place: str = "") -> Iterator[tuple[str, Any, str, int | None]]:
    """Each text: where it stands, what holds it, its field, its index."""
    for field, value in message.ListFields():
        several = not isinstance(value, (str, bytes, int, float, Message))
        for index, item in enumerate(value if several else [value]):
            name = f"{place}{field.name}[{index}]" if several else f"{place}{field.name}"
            if field.type == field.TYPE_STRING:
                yield name, message, field.name, index if several else None
            elif field.type == field.TYPE_MESSAGE:
                yield from texts(item, f"{name}.")


def spoiled(number: int) -> tuple[str, bytes]:
    """The model with text ``number`` made no UTF-8, and where that text stands."""
    model = full_model()
    place, holder, field, index = list(texts(model))[number]
    if index is None:
        setattr(holder, field, "spoiled_text")
    else:
        getattr(holder, field)[index] = "spoiled_text"
    return place, model.SerializeToString().replace(b"spoiled_text", b"\xff" * 12)


def is_comment(place: str) -> bool:
    """A comment on a node, a tensor, a value or an attribute."""
    return place.endswith("doc_string") and place not in ("doc_string", "graph.doc_string", "functions[0].doc_string")


def test_a_text_that_is_no_utf8_is_refused_by_its_place() -> None:
    cases = [spoiled(number) for number in range(len(list(texts(full_model()))))]
    assert len(cases) > 80
    for place, content in cases:
        if is_comment(place):
            continue
        with pytest.raises(RewriteError) as refused:
            Converter(disable_progress_bar=True).convert(onnx.load_model_from_string(content))
        assert f"{place} is no UTF-8: b'\\xff" in str(refused.value)
        with pytest.raises(CompileError) as error:
            Compiler.compile(content)
        assert str(error.value) == str(refused.value)


def test_comments_may_be_in_any_encoding() -> None:
    cases = [spoiled(number) for number in range(len(list(texts(full_model()))))]
    comments = [content for place, content in cases if is_comment(place)]
    assert len(comments) >= 4
    for content in comments:
        model = onnx.load_model_from_string(content)
        converted = Converter(disable_progress_bar=True).convert(model)
        assert Compiler.compile(converted).manifest.outputs[0].name == "y"
        assert Compiler.compile(content).manifest.outputs[0].name == "y"

"""What a custom operator gives is not guessed: it follows from who reads it, or stays unknown."""

from __future__ import annotations

import numpy as np
import onnx

from passes.graph_io import import_graph
from passes.shapes.dtypes import infer_dtypes
from poprt.converter import Converter
from tests.passes.rewrites import copy_of, parse


def _dtypes(model: onnx.ModelProto) -> dict[str, object]:
    graph = import_graph(copy_of(model))
    infer_dtypes(graph)
    return {name: tensor.dtype for name, tensor in graph.tensors().items()}


def test_readers_say_what_a_custom_operator_gives() -> None:
    model = parse("""g (float[2] x, int64[2] n) => (float[2] y, int64[2] z, bool[2] flags) {
        a, b, c = own.Mystery (x)  h = Neg (b)  y = Add (a, h)  z = Add (c, n)  flags = Identity (d)
        e = own.Mystery (x)  d = Not (e) }""")
    model.graph.node.insert(4, model.graph.node.pop())
    model.graph.node.insert(4, model.graph.node.pop())
    dtypes = _dtypes(model)
    assert [dtypes[name] for name in "abcde"] == [np.float32, np.float32, np.int64, np.bool_, np.bool_]


def test_a_tokenizer_does_not_give_strings_because_it_takes_them() -> None:
    model = parse(
        "g (string[n] text) => (int64[m] y) { ids, rows = own.Tokenizer (text)  y = own.Mystery (ids, rows) }"
    )
    dtypes = _dtypes(model)
    assert dtypes["ids"] is None
    assert dtypes["rows"] is None
    converted = Converter().convert(model)
    assert not [item.name for item in converted.graph.value_info if item.name in ("ids", "rows")]


def test_half_precision_stops_at_a_custom_operator_with_several_results() -> None:
    model = parse("g (float[2] x) => (float[2] y) { h = Neg (x)  p, n = own.Mystery (h)  y = Sub (p, n) }")
    converted = Converter(precision="fp16").convert(model)
    mystery = next(node for node in converted.graph.node if node.op_type == "Mystery")
    casts = [node for node in converted.graph.node if node.op_type == "Cast"]
    assert set(mystery.output) <= {name for node in casts for name in node.input}

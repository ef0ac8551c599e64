"""Values that are no tensors: optional values, sequences and maps go in, through subgraphs and out as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from poprt.converter import Converter
from poprt.engine.plain import plain_session
from poprt_cli.main import cli
from tests.passes.rewrites import copy_of, parse

_PAIR = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
_ROW = np.array([1, -2], np.float32)


def _ran(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    results: list[Any] = plain_session(model.SerializeToString(), optimise=False).run(None, feeds)
    return results


def _declares(value: onnx.ValueInfoProto) -> bytes:
    return value.type.SerializeToString(deterministic=True)


def _optional_sum() -> onnx.ModelProto:
    model = parse("g (float[2] o, float[2] x) => (float[2] y) { h = OptionalGetElement (o)  y = Add (h, x) }", opset=18)
    model.graph.input[0].type.CopyFrom(helper.make_optional_type_proto(_PAIR))
    return model


def _optional_out() -> onnx.ModelProto:
    model = parse("g (float[2] x) => (float[2] y) { h = Neg (x)  y = Optional (h) }", opset=18)
    model.graph.output[0].type.CopyFrom(helper.make_optional_type_proto(_PAIR))
    return model


def _optional_in_a_branch() -> onnx.ModelProto:
    """Both branches read the optional input; one of them hands on an optional of its own."""
    model = parse(
        """g (bool c, float[2] o, float[2] x) => (float[2] y) {
        y = If (c) <then_branch = t () => (float[2] p) { p = OptionalGetElement (o) },
                    else_branch = e () => (float[2] q) { r = Optional (x)  q = OptionalGetElement (r) }> }""",
        opset=18,
    )
    model.graph.input[1].type.CopyFrom(helper.make_optional_type_proto(_PAIR))
    inner = helper.make_tensor_value_info("r", TensorProto.FLOAT, [2])
    inner.type.CopyFrom(helper.make_optional_type_proto(_PAIR))
    model.graph.node[0].attribute[1].g.value_info.append(inner)
    return model


def _sequence_from_an_if() -> onnx.ModelProto:
    """The result of an If is a sequence that nothing declares."""
    return parse(
        """g (bool c, float[2] x) => (float[2] y) {
        s = If (c) <then_branch = t () => (seq(float[2]) p) { p = SequenceConstruct (x, x) },
                    else_branch = e () => (seq(float[2]) q) { q = SequenceConstruct (x) }>
        zero = Constant <value_int = 0> ()
        y = SequenceAt (s, zero) }"""
    )


def _untyped(model: onnx.ModelProto) -> onnx.ModelProto:
    for attribute in model.graph.node[0].attribute:
        attribute.g.output[0].ClearField("type")
    return model


_MODELS = {
    "optional input": (_optional_sum, {"o": _ROW, "x": _ROW}),
    "optional output": (_optional_out, {"x": _ROW}),
    "optional in a branch": (_optional_in_a_branch, {"c": np.array(False), "o": _ROW, "x": _ROW}),
    "sequence from an If": (lambda: _untyped(_sequence_from_an_if()), {"c": np.array(True), "x": _ROW}),
}


@pytest.mark.parametrize("name", list(_MODELS))
def test_the_converted_model_gives_the_same(name: str) -> None:
    make, feeds = _MODELS[name]
    model = make()
    converted = Converter().convert(copy_of(model))
    np.testing.assert_array_equal(_ran(converted, feeds)[0], _ran(model, feeds)[0])
    assert [_declares(value) for value in converted.graph.input] == [_declares(value) for value in model.graph.input]
    assert [_declares(value) for value in converted.graph.output] == [_declares(value) for value in model.graph.output]


def _classifier() -> onnx.ModelProto:
    """The end of a classifier as scikit-learn's converter writes it: probabilities as maps of labels."""
    zip_map = helper.make_node("ZipMap", ["p"], ["y"], domain="ai.onnx.ml", classlabels_strings=["a", "b"])
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["p"]), zip_map],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
    )
    value = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(value))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)])


def test_a_sequence_of_maps_comes_out_of_the_command(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(_classifier(), str(path))
    result = CliRunner().invoke(cli, ["-i", str(path), "--output_dir", str(tmp_path)])
    assert result.exit_code == 0, result.output
    feeds = {"x": np.stack([_ROW, 2 * _ROW])}
    assert _ran(onnx.load(str(tmp_path / "m.optimized.onnx")), feeds) == _ran(_classifier(), feeds)

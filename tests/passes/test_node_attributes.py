"""Attributes that graphsurgeon drops or cannot read come through import and export bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from onnx import AttributeProto, NodeProto, TensorProto, helper

from passes.errors import RewriteError
from passes.graph_io import export_graph, import_graph
from poprt.converter import Converter
from poprt_cli.main import cli
from tests.passes.rewrites import copy_of, parse

_BINARY = b"\xff\xfe\x00model"


def _odd(source: str, result: str) -> NodeProto:
    """A custom operator with an attribute of every kind that graphsurgeon does not carry, and some that it does."""
    node: NodeProto = helper.make_node(
        "Odd",
        [source],
        [result],
        domain="own",
        model=_BINARY,
        parts=[_BINARY, b"text"],
        text="caf\u00e9",
        texts=["a", "b"],
        kind=helper.make_tensor_type_proto(TensorProto.FLOAT, [2]),
        tensors=[helper.make_tensor("t", TensorProto.FLOAT, [1], [2.0])],
    )
    for name, kind in (("none", AttributeProto.STRINGS), ("zero", AttributeProto.FLOATS), ("no", AttributeProto.INTS)):
        node.attribute.append(AttributeProto(name=name, type=kind))
    return node


def _attributes(node: NodeProto) -> dict[str, bytes]:
    return {attribute.name: attribute.SerializeToString() for attribute in node.attribute}


def _custom_model() -> onnx.ModelProto:
    """The operator in the main graph, in both branches of an If, and in a local function."""
    model = parse("""g (bool c, float[2] x) => (float[2] y, float[2] z) {
        h = Neg (x)
        y = If (c) <then_branch = t () => (float[2] p) { p = Neg (x) },
                    else_branch = e () => (float[2] q) { q = Neg (x) }>
        z = own.F (h) }""")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model.functions.append(helper.make_function("own", "F", ["a"], ["b"], [_odd("a", "b")], opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[0].CopyFrom(_odd("x", "h"))
    for attribute, result in zip(model.graph.node[1].attribute, ("p", "q"), strict=True):
        attribute.g.node[0].CopyFrom(_odd("x", result))
    return model


def _places(model: onnx.ModelProto) -> list[NodeProto]:
    branches = next(node for node in model.graph.node if node.op_type == "If").attribute
    first = next(node for node in model.graph.node if node.op_type == "Odd")
    return [first, *(attribute.g.node[0] for attribute in branches), model.functions[0].node[0]]


@pytest.mark.parametrize(
    "rewrite",
    [lambda model: export_graph(import_graph(model)), lambda model: Converter().convert(model)],
    ids=["import and export", "conversion"],
)
def test_they_stay_in_the_main_graph_in_subgraphs_and_in_functions(
    rewrite: Callable[[onnx.ModelProto], onnx.ModelProto],
) -> None:
    model = _custom_model()
    before = model.SerializeToString()
    again = rewrite(copy_of(model))
    for node, original in zip(_places(again), _places(model), strict=True):
        assert _attributes(node) == _attributes(original)
    assert model.SerializeToString() == before


def test_the_imported_model_is_as_it_was() -> None:
    model = _custom_model()
    before = model.SerializeToString(deterministic=True)
    import_graph(model)
    assert model.SerializeToString(deterministic=True) == before


def test_a_functions_default_stays() -> None:
    model = _custom_model()
    model.functions[0].attribute_proto.append(helper.make_attribute("model", _BINARY))
    again = export_graph(import_graph(copy_of(model)))
    assert again.functions[0].attribute_proto[0].s == _BINARY


def test_a_function_passes_its_own_type_on() -> None:
    model = _custom_model()
    function = model.functions[0]
    function.attribute.append("outer")
    reference = AttributeProto(name="kind", type=AttributeProto.TYPE_PROTO, ref_attr_name="outer")
    next(item for item in function.node[0].attribute if item.name == "kind").CopyFrom(reference)
    again = export_graph(import_graph(copy_of(model)))
    assert _attributes(again.functions[0].node[0]) == _attributes(function.node[0])


def test_a_list_of_graphs_is_refused() -> None:
    model = _custom_model()
    graphs = helper.make_attribute("bodies", [helper.make_graph([], "empty", [], [])])
    model.graph.node[0].attribute.append(graphs)
    with pytest.raises(RewriteError, match="attribute 'bodies' holds a list of graphs"):
        import_graph(model)


def test_the_command_converts_around_it(tmp_path: Path) -> None:
    onnx.save(_custom_model(), str(tmp_path / "m.onnx"))
    result = CliRunner().invoke(cli, ["-i", str(tmp_path / "m.onnx"), "--output_dir", str(tmp_path)])
    assert result.exit_code == 0, result.output
    again = onnx.load(str(tmp_path / "m.optimized.onnx"))
    assert [_attributes(node) for node in _places(again)] == [_attributes(node) for node in _places(_custom_model())]


def test_a_constant_of_binary_strings_stays_a_node() -> None:
    words = helper.make_node("Constant", [], ["w"], value_strings=[_BINARY, b"b"])
    model = parse("g (string[2] x) => (bool[2] y) { v = Identity (w)  y = Equal (x, v) }", opset=19)
    model.graph.node.insert(0, words)
    converted = Converter().convert(model)
    assert _attributes(converted.graph.node[0]) == _attributes(words)

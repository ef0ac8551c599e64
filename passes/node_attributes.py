"""Attributes that graphsurgeon drops or cannot read, carried on its nodes; and nodes written with all they have.

graphsurgeon takes strings for UTF-8, skips types, sparse tensors and lists of tensors, and cannot write an empty list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.util import misc

from passes.errors import RewriteError
from passes.node_protos import walk_nodes

_KIND = onnx.AttributeProto
#: Which field of an attribute holds its value.
_FIELDS = {
    _KIND.STRING: "s",
    _KIND.SPARSE_TENSOR: "sparse_tensor",
    _KIND.TYPE_PROTO: "tp",
    _KIND.FLOATS: "floats",
    _KIND.INTS: "ints",
    _KIND.STRINGS: "strings",
    _KIND.TENSORS: "tensors",
    _KIND.SPARSE_TENSORS: "sparse_tensors",
    _KIND.TYPE_PROTOS: "type_protos",
}
#: What graphsurgeon reads whatever it holds.
_READABLE = frozenset({_KIND.FLOAT, _KIND.INT, _KIND.TENSOR, _KIND.GRAPH})


class EmptyList(list[Any]):
    """A list attribute without elements. ``kind`` says of what type they would be, as an ``AttributeType``."""

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.kind = kind


def import_model(model: onnx.ModelProto) -> gs.Graph:
    """graphsurgeon's graph of ``model``, with every attribute. Strings that are no UTF-8 are bytes there.

    Raises:
        RewriteError: an attribute holds several graphs.
    """
    odd = [attribute for attribute in _attributes(model) if not _is_plain(attribute)]
    for attribute in odd:
        if attribute.type == _KIND.GRAPHS:
            raise RewriteError(
                f"attribute {attribute.name!r} holds a list of graphs, which no rewrite can carry; "
                "export the model with one graph an attribute"
            )
    with _hidden(odd):
        graph = gs.import_onnx(model)
    if odd:
        _carry(model, graph)
    return graph


def export_node(node: gs.Node) -> onnx.NodeProto:
    """The node with its subgraphs, as ONNX."""
    with _typed_lists([node]) as typed:
        exported: onnx.NodeProto = OnnxExporter.export_node(node)
    if typed:
        _name_no_reference([exported])
    return exported


def export_function(function: gs.Function) -> onnx.FunctionProto:
    """The local function, as ONNX."""
    with _typed_lists(function.nodes, function.attrs) as typed:
        exported: onnx.FunctionProto = OnnxExporter.export_function(function)
    if typed:
        _name_no_reference(exported.node, exported.attribute_proto)
    return exported


def _attributes(model: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    yield from (attribute for body in bodies for node in walk_nodes(body) for attribute in node.attribute)
    yield from (attribute for function in model.functions for attribute in function.attribute_proto)


def _is_plain(attribute: onnx.AttributeProto) -> bool:
    """Whether graphsurgeon reads it, and writes the same again."""
    if attribute.type in _READABLE:
        return True
    if attribute.type not in (_KIND.STRING, _KIND.STRINGS, _KIND.FLOATS, _KIND.INTS):
        return False
    if attribute.ref_attr_name:
        return True
    value = getattr(attribute, _FIELDS[attribute.type])
    texts = {_KIND.STRING: [attribute.s], _KIND.STRINGS: attribute.strings}.get(attribute.type, ())
    return all(_is_text(text) for text in texts) and (attribute.type == _KIND.STRING or len(value) > 0)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def _hidden(attributes: Sequence[onnx.AttributeProto]) -> Iterator[None]:
    """Show a number in the place of each attribute meanwhile; the objects stay the same."""
    kept = []
    for attribute in attributes:
        kept.append(onnx.AttributeProto())
        kept[-1].CopyFrom(attribute)
        attribute.CopyFrom(onnx.AttributeProto(name=attribute.name, type=_KIND.INT))
    try:
        yield
    finally:
        for attribute, original in zip(attributes, kept, strict=True):
            attribute.CopyFrom(original)


def _carry(model: onnx.ModelProto, graph: gs.Graph) -> None:
    _carry_nodes(model.graph.node, graph.nodes)
    for proto, function in zip(model.functions, graph.functions, strict=True):
        _carry_nodes(proto.node, function.nodes)
        _carry_values(proto.attribute_proto, function.attrs)


def _carry_nodes(protos: Iterable[onnx.NodeProto], nodes: Iterable[gs.Node]) -> None:
    """graphsurgeon keeps the order of the nodes."""
    for proto, node in zip(protos, nodes, strict=True):
        _carry_values(proto.attribute, node.attrs)
        for attribute in proto.attribute:
            if attribute.type == _KIND.GRAPH and not attribute.ref_attr_name:
                _carry_nodes(attribute.g.node, node.attrs[attribute.name].nodes)


def _carry_values(attributes: Iterable[onnx.AttributeProto], values: dict[str, Any]) -> None:
    for attribute in attributes:
        if not _is_plain(attribute):
            values[attribute.name] = _value(attribute)


def _value(attribute: onnx.AttributeProto) -> Any:
    """What onnx makes the same attribute of again."""
    kind = attribute.type
    if attribute.ref_attr_name:
        return gs.Node.AttributeRef(attribute.ref_attr_name, misc.convert_from_onnx_attr_type(kind))
    value = getattr(attribute, _FIELDS[kind])
    if isinstance(value, bytes):
        return value
    if kind in (_KIND.SPARSE_TENSOR, _KIND.TYPE_PROTO):
        return _copied(value)
    values = [item if isinstance(item, (bytes, int, float)) else _copied(item) for item in value]
    return values or EmptyList(kind)


def _copied(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


@contextmanager
def _typed_lists(nodes: Iterable[gs.Node], values: dict[str, Any] | None = None) -> Iterator[bool]:
    """Stand a reference to no attribute in for each empty list meanwhile: graphsurgeon writes these with their type."""
    holders = [node.attrs for node in _with_nested(nodes)] + ([values] if values is not None else [])
    empty = [
        (attrs, name, value)
        for attrs in holders
        for name, value in attrs.items()
        if isinstance(value, list) and not value
    ]
    for attrs, name, value in empty:
        kind = value.kind if isinstance(value, EmptyList) else _KIND.INTS
        attrs[name] = gs.Node.AttributeRef("", misc.convert_from_onnx_attr_type(kind))
    try:
        yield bool(empty)
    finally:
        for attrs, name, value in empty:
            attrs[name] = value


def _with_nested(nodes: Iterable[gs.Node]) -> Iterator[gs.Node]:
    for node in nodes:
        yield node
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                yield from _with_nested(value.nodes)


def _name_no_reference(nodes: Iterable[onnx.NodeProto], values: Iterable[onnx.AttributeProto] = ()) -> None:
    written = [attribute for node in walk_nodes(nodes) for attribute in node.attribute]
    for attribute in [*written, *values]:
        if not attribute.ref_attr_name:
            attribute.ClearField("ref_attr_name")

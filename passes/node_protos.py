"""Ask a model in protobuf form: its nodes and graphs, its opset. :mod:`passes.base` walks graphs under rewrite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes (If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def walk_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """``graph`` and every graph inside its nodes, each before those inside it."""
    yield graph
    for node in graph.node:
        for nested in subgraphs(node):
            yield from walk_graphs(nested)


def walk_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """``nodes`` and every node in the graphs that they hold."""
    for node in nodes:
        yield node
        for nested in subgraphs(node):
            yield from walk_nodes(nested.node)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of onnx's own operators that ``model`` imports; 1 where it imports none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)

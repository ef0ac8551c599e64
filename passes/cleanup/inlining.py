"""Put the nodes of a subgraph or a local function in the place of the node that holds or calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_graphsurgeon as gs

from passes.building import add_node
from passes.cleanup.rewiring import replace_uses
from passes.precision.names import unique_name


def inline_branch(graph: gs.Graph, node: gs.Node, branch: gs.Graph) -> None:
    """Put the nodes of ``branch`` at the end of ``graph``, in the place of ``node``, which is an If of ``graph``."""
    taken = set(graph.tensors())
    inner = {id(tensor): tensor for item in branch.nodes for tensor in item.outputs}
    for tensor in inner.values():
        if tensor.name in taken:
            tensor.name = f"{node.name or node.outputs[0].name}_{tensor.name}"
    for item in branch.nodes:
        item.name = f"{node.name or node.outputs[0].name}_{item.name or item.outputs[0].name}"
    graph.nodes.extend(branch.nodes)
    for outer, result in zip(list(node.outputs), branch.outputs, strict=True):
        if any(outer is tensor for tensor in graph.outputs):
            node.outputs.remove(outer)
            add_node(graph.nodes, "Identity", f"{outer.name}_branch", [result], into=outer)
        replace_uses(outer, result)
    node.inputs.clear()
    node.outputs.clear()
    graph.nodes.remove(node)


def inline_function(graph: gs.Graph, node: gs.Node, function: gs.Function, names: set[str]) -> None:
    """Put the nodes of ``function``, which hold no graphs, in the place of ``node``, which calls it.

    Args:
        graph: the graph of ``node``.
        node: the call.
        function: the body, which stays as it is.
        names: those of all tensors; new ones are added.
    """
    outside = dict(zip((t.name for t in function.inputs), node.inputs, strict=False))
    outside.update(zip((t.name for t in function.outputs), list(node.outputs), strict=False))
    prefix, index = node.name or node.outputs[0].name, next(i for i, item in enumerate(graph.nodes) if item is node)
    settings = {**function.attrs, **node.attrs}
    node.outputs.clear()

    def tensor(inner: gs.Tensor) -> gs.Tensor:
        if inner.name and inner.name not in outside:
            outside[inner.name] = gs.Variable(unique_name(f"{prefix}_{inner.name}", names))
        return outside.get(inner.name, gs.Variable.empty())

    body = []
    for item in function.nodes:
        attrs = {name: _setting(value, settings) for name, value in item.attrs.items()}
        inputs, outputs = [tensor(t) for t in item.inputs], [tensor(t) for t in item.outputs]
        own_attrs = {name: value for name, value in attrs.items() if value is not None}
        body.append(gs.Node(item.op, f"{prefix}_{item.outputs[0].name}", own_attrs, inputs, outputs, item.domain))
    node.inputs.clear()
    graph.nodes[index : index + 1] = body


def _setting(value: Any, settings: Mapping[str, Any]) -> Any:
    """An attribute of a body; where it names one of the call, that."""
    return settings.get(value.name) if isinstance(value, gs.Node.AttributeRef) else value

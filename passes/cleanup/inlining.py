"""Put the nodes of a subgraph in the place of the node that holds it."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.building import add_node
from passes.cleanup.rewiring import replace_uses


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

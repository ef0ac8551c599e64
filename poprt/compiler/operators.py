"""Give the nodes of domain ``ai.graphcore`` their bodies."""

from __future__ import annotations

import logging

import onnx
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.building import import_domain
from passes.ops import DOMAIN, MINIMUM_OPSET, VERSION, declare_operators
from passes.shapes.convert_opset import ConvertOpset

logger = logging.getLogger("poprt")


class AttachBodies(GraphPass):
    """Puts a function behind each bare node of our domain, in the main graph and its subgraphs.

    The model's opset is raised where the bodies need that. Does nothing where every operator has its body.
    """

    name = "attach_bodies"

    def apply(self, graph: gs.Graph) -> PassResult:
        """Attach the bodies.

        Raises:
            RewriteError: an operator of the domain is not known, or onnx cannot raise the model's opset.
        """
        result = PassResult()
        used = _operators(graph)
        if not used:
            return result
        import_domain(graph, DOMAIN, VERSION)
        bare = used - {function.name for function in graph.functions if function.domain == DOMAIN}
        if bare and graph.opset < MINIMUM_OPSET:
            ConvertOpset(MINIMUM_OPSET).apply(graph)
            logger.info("the model's opset is raised to %d for the operators of %s", MINIMUM_OPSET, DOMAIN)
        result.count("element types written out", sum(map(_complete, _nodes(graph))))
        declare_operators(graph, sorted(bare))
        result.count("bodies attached", len(bare))
        return result


def _nodes(graph: gs.Graph) -> list[gs.Node]:
    return [node for scope in walk_graphs(graph, functions=False) for node in scope.nodes if node.domain == DOMAIN]


def _operators(graph: gs.Graph) -> set[str]:
    return {node.op for node in _nodes(graph)}


def _complete(node: gs.Node) -> bool:
    """Write out the element type that the body of AttentionMask casts to."""
    if node.op != "AttentionMask" or "to" in node.attrs:
        return False
    node.attrs["to"] = onnx.TensorProto.DataType.Value(node.attrs.get("dataType", "FLOAT"))
    return True

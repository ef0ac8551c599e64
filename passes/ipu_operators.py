"""Give the nodes of domain ``ai.graphcore`` their bodies, and put the bodies of PopRT's own in their places."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.building import import_domain
from passes.cleanup.inlining import inline_function
from passes.cleanup.rewiring import onnx_dtype
from passes.errors import RewriteError
from passes.ops import DOMAIN, FOREIGN, VERSION, declare_operators, known_operators, least_opset
from passes.precision.names import tensor_names
from passes.registry import register
from passes.shapes.convert_opset import ConvertOpset
from passes.shapes.dtypes import infer_dtypes

logger = logging.getLogger("poprt")


@register("attach_bodies")
class AttachBodies(GraphPass):
    """Puts a function of standard operators behind each bare node of our domain, in the main graph and its subgraphs.

    Unpack of [R, C, H] and [N, 1] -> the same node, and a function Unpack. The model's opset is raised where the bodies
    need that. Does nothing where every operator has its body.

    Args:
        known_only: leave an operator of the domain that is not known to a library that may bring it.
    """

    def __init__(self, known_only: bool = False) -> None:
        super().__init__()
        self.known_only = known_only

    def apply(self, graph: gs.Graph) -> PassResult:
        """Attach the bodies.

        Raises:
            RewriteError: an operator of the domain is not known, or onnx cannot raise the model's opset.
        """
        result = PassResult()
        used = {node.op for node in _nodes(graph)}
        if self.known_only:
            used = set(known_operators(used))
        if not used:
            return result
        import_domain(graph, DOMAIN, VERSION)
        bare = used - {function.name for function in graph.functions if function.domain == DOMAIN}
        least = least_opset(bare)
        if graph.opset < least:
            ConvertOpset(least).apply(graph)
            logger.info("the model's opset is raised to %d for the operators of %s", least, DOMAIN)
        if any(node.op == "NotZero" and "to" not in node.attrs for node in _nodes(graph)):
            infer_dtypes(graph)
        result.count("element types written out", sum(map(_complete, _nodes(graph))))
        for node in _nodes(graph):
            _declare_type(node)
        declare_operators(graph, sorted(bare))
        result.count("bodies attached", len(bare))
        return result


@register("inline_ipu_operators")
class InlineIpuOperators(GraphPass):
    """Puts the bodies of PopRT's own operators in their places, so that passes see standard operators.

    FastNorm of [B, S, H] -> LayerNormalization of [B, S, H]. Those that pack (AttentionMask, Repack, Unpack) stay.
    Works in the main graph and its subgraphs, on operators that have their bodies (``attach_bodies``).
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Inline the bodies.

        Raises:
            RewriteError: a node asks for a result that the body does not compute.
        """
        result = PassResult()
        bodies = {f.name: f for f in graph.functions if f.domain == DOMAIN and f.name in FOREIGN}
        names = tensor_names(graph) if bodies else set()
        for scope in walk_graphs(graph, functions=False):
            for node in [node for node in scope.nodes if node.domain == DOMAIN and node.op in bodies]:
                body = bodies[node.op]
                if any(tensor.name for tensor in node.outputs[len(body.outputs) :]):
                    raise RewriteError(
                        f"{DOMAIN}.{node.op} {node.name!r} gives {len(node.outputs)} results; only the first "
                        f"{len(body.outputs)} can be computed here: leave out what reads the others"
                    )
                inline_function(scope, node, body, names)
                result.count("operators inlined")
        if bodies:
            graph.functions = [function for function in graph.functions if function.name not in bodies]
        return result


def _nodes(graph: gs.Graph) -> list[gs.Node]:
    return [node for scope in walk_graphs(graph, functions=False) for node in scope.nodes if node.domain == DOMAIN]


def _declare_type(node: gs.Node) -> None:
    """Set the type of a result that is not that of what is read; inference would take it for that."""
    if node.op == "IsInfV2":
        node.outputs[0].dtype = np.dtype(np.bool_)
    elif node.op == "NotZero":
        node.outputs[0].dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(node.attrs["to"]))


def _complete(node: gs.Node) -> bool:
    """Write out the element type that a body casts to."""
    if node.op not in ("AttentionMask", "NotZero") or "to" in node.attrs:
        return False
    if node.op == "AttentionMask":
        node.attrs["to"] = onnx.TensorProto.DataType.Value(node.attrs.get("dataType", "FLOAT"))
    else:
        node.attrs["to"] = onnx_dtype(node.outputs[0]) or onnx_dtype(node.inputs[0]) or onnx.TensorProto.FLOAT
    return True

"""GELU in its erf form, however an exporter spelled it, as one node."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.building import import_domain
from passes.node_values import constant
from passes.operators import CONTRIB, lookup
from passes.registry import register

_TOLERANCE = 1e-3  # relative; constants that were rounded to float16 are still meant


@register("erf_gelu_pattern")
class ErfGeluPattern(GraphPass):
    """Replaces x * (1 + erf(x / sqrt(2))) / 2 by Gelu, in every association and order of its factors.

    Matches an Erf whose operand is x divided by sqrt(2) (or multiplied by its inverse), to which 1 is added, and whose
    sum is multiplied by x and by 1/2 (or divided by 2). The standard operator Gelu is used where the model's opset has
    it, com.microsoft's elsewhere. Does nothing where an intermediate result is read by anything else. Works on the main
    graph and its subgraphs; functions are left alone.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Fuse; see the class."""
        result = PassResult()
        for each in walk_graphs(graph, functions=False):
            kept = {id(tensor) for tensor in each.outputs}
            for node in [node for node in each.nodes if node.op == "Erf"]:
                parts = _match(node, kept)
                if parts is None:
                    result.refuse(node, "it is not part of x * (1 + erf(x / sqrt(2))) / 2")
                    continue
                _replace(each, *parts, standard=graph.opset >= lookup("Gelu").since)
                result.count("GELUs fused")
        if result.counts and graph.opset < lookup("Gelu").since:
            import_domain(graph, CONTRIB, 1)
        if result.counts:
            graph.cleanup(remove_unused_graph_inputs=False)
        return result


def _match(erf: gs.Node, kept: set[int]) -> tuple[gs.Tensor, gs.Node] | None:
    """x and the last node of the pattern around ``erf``."""
    scaled = erf.inputs[0].inputs[0] if erf.inputs[0].inputs else None
    argument = _scaled(scaled, 1 / math.sqrt(2)) if scaled is not None else None
    plus_one = _only_reader(erf, kept)
    if argument is None or plus_one is None or plus_one.op != "Add" or _other_value(plus_one, erf.outputs[0]) != 1:
        return None
    halves = 0
    factors: list[gs.Tensor] = []
    last = plus_one
    while len(factors) + halves < 2:
        reader = _only_reader(last, kept)
        if reader is None or reader.op not in ("Mul", "Div"):
            return None
        value = _other_value(reader, last.outputs[0])
        if value is not None:
            if not _is(value, 0.5 if reader.op == "Mul" else 2.0):
                return None
            halves += 1
        elif reader.op == "Mul":
            other = next(tensor for tensor in reader.inputs if tensor is not last.outputs[0])
            half = _scaled(other.inputs[0], 0.5) if other is not argument and other.inputs else None
            halves += half is not None
            factors.append(half if half is not None else other)
        else:
            return None
        last = reader
    return (argument, last) if halves == 1 and len(factors) == 1 and factors[0] is argument else None


def _scaled(node: gs.Node, factor: float) -> gs.Tensor | None:
    """x, where ``node`` computes x * factor."""
    if node.op == "Div" and len(node.inputs) == 2:
        value = _scalar(node.inputs[1])
        return node.inputs[0] if value is not None and _is(value, 1 / factor) else None
    if node.op == "Mul" and len(node.inputs) == 2:
        for tensor, other in (node.inputs, reversed(node.inputs)):
            value = _scalar(other)
            if value is not None and _is(value, factor):
                return tensor
    return None


def _only_reader(node: gs.Node, kept: set[int]) -> gs.Node | None:
    tensor = node.outputs[0]
    return tensor.outputs[0] if len(tensor.outputs) == 1 and id(tensor) not in kept else None


def _other_value(node: gs.Node, tensor: gs.Tensor) -> float | None:
    """The constant that ``node`` combines ``tensor`` with; for Div only as the divisor."""
    if node.op == "Div":
        return _scalar(node.inputs[1]) if node.inputs[0] is tensor else None
    others = [other for other in node.inputs if other is not tensor]
    return _scalar(others[0]) if len(others) == 1 else None


def _scalar(tensor: gs.Tensor) -> float | None:
    value = constant(tensor) if not isinstance(tensor, gs.Constant) or np.prod(tensor.shape) == 1 else None
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def _is(value: float, constant: float) -> bool:
    return math.isclose(value, constant, rel_tol=_TOLERANCE)


def _replace(graph: gs.Graph, argument: gs.Tensor, last: gs.Node, *, standard: bool) -> None:
    output = last.outputs[0]
    last.outputs.clear()
    node = gs.Node("Gelu", f"{output.name}_gelu", {}, [argument], [output], domain=None if standard else CONTRIB)
    graph.nodes.insert(next(i for i, item in enumerate(graph.nodes) if item is last), node)

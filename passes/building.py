"""Add nodes to a graph.

``gs.Graph.layer`` does as much, and reads the names of all tensors of the graph before each node that it adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import onnx_graphsurgeon as gs


def add_node(
    nodes: list[gs.Node],
    op: str,
    name: str,
    inputs: Sequence[gs.Tensor],
    dtype: Any = None,
    *,
    into: gs.Tensor | None = None,
    domain: str | None = None,
    **attrs: Any,
) -> gs.Tensor:
    """Append a node of one output to ``nodes``.

    Args:
        nodes: ``graph.nodes``, or a list that goes there later.
        op, domain, attrs: the operator.
        name: of the node, and of its result where that is new. It must be free.
        inputs: what it reads.
        dtype: numpy type of a new result.
        into: the result, where it exists already.

    Returns:
        The result.
    """
    output = into if into is not None else gs.Variable(name, dtype)
    nodes.append(gs.Node(op, name, attrs, list(inputs), [output], domain=domain))
    return output


def import_domain(graph: gs.Graph, domain: str, version: int) -> None:
    """Let ``graph`` use the operators of ``domain``; where it imports them already, the version stays."""
    if all(opset.domain != domain for opset in graph.import_domains or ()):
        graph.import_domains = [*(graph.import_domains or ()), onnx.helper.make_opsetid(domain, version)]

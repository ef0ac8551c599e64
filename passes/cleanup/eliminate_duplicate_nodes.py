"""Compute common subexpressions once."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult, walk_graphs
from passes.cleanup.determinism import is_deterministic
from passes.cleanup.rewiring import drop_nodes, rename_output, replace_uses
from passes.registry import register

_LARGEST_COMPARED_ATTRIBUTE = 1 << 16  # bytes of a tensor attribute


@register("eliminate_duplicate_nodes")
class EliminateDuplicateNodes(GraphPass):
    """Drops a node that computes what an earlier one of the same graph computes: same operator, attributes and inputs.

    Only deterministic standard operators without subgraphs count. Both stay where both give a graph output. It works
    in the main graph, subgraphs and local functions.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Merge until nothing is left to merge, so that the order of the nodes does not matter."""
        result = PassResult()
        for scope in walk_graphs(graph):
            merged = -1
            while merged:
                refused = PassResult()
                merged = _merge_once(scope, refused)
                result.count("nodes merged", merged)
            result.refusals.extend(refused.refusals)
        return result


def _merge_once(scope: gs.Graph, result: PassResult) -> int:
    first_of: dict[Hashable, gs.Node] = {}
    duplicates = []
    for node in scope.nodes:
        if not is_deterministic(node):
            continue
        first = first_of.setdefault(_key(node), node)
        if first is node:
            continue
        if _take_over(scope, first, node):
            duplicates.append(node)
        else:
            result.refuse(node, f"it and its duplicate {first.name!r} both give graph outputs")
    drop_nodes(scope, duplicates)
    return len(duplicates)


def _take_over(scope: gs.Graph, first: gs.Node, duplicate: gs.Node) -> bool:
    """Let ``first`` serve the readers of ``duplicate``, under the duplicate's names where these are graph outputs."""
    pairs = [(mine, other) for mine, other in zip(first.outputs, duplicate.outputs, strict=True) if not mine.is_empty()]
    if any(mine in scope.outputs and other in scope.outputs for mine, other in pairs):
        return False
    for mine, other in pairs:
        if other in scope.outputs:
            other.inputs.clear()
            rename_output(first, mine, other)
        else:
            replace_uses(other, mine)
    return True


def _key(node: gs.Node) -> Hashable:
    return (
        node.op,
        tuple(sorted((name, _frozen(value)) for name, value in node.attrs.items())),
        tuple(0 if tensor.is_empty() else id(tensor) for tensor in node.inputs),
        tuple(tensor.is_empty() for tensor in node.outputs),
    )


def _frozen(value: Any) -> str:
    """A text that is equal for equal attribute values, and for no others."""
    if isinstance(value, gs.Constant):
        if isinstance(value.dtype, int) or value._values.nbytes > _LARGEST_COMPARED_ATTRIBUTE:
            return f"tensor object {id(value)}"
        return f"tensor {value.dtype} {list(value.shape)} {value.values.tobytes().hex()}"
    return f"{type(value).__name__} {value!r}"

"""Take the branch of an If whose condition the shapes decide.

Exporters write an If where a model asks whether two lengths are equal. Where symbolic inference knows both to be the
same extent, only one branch can run; the other hides shapes from everything behind it.
"""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs
import sympy

from passes.cleanup.inlining import inline_branch
from passes.node_values import constant
from passes.operators import KEEPS_VALUES
from passes.shapes.symbolic import SymbolicShapes


def resolve_branches(graph: gs.Graph, shapes: SymbolicShapes) -> int:
    """Inline the branch of each If of the main graph whose condition is known; returns how many were inlined."""
    resolved = 0
    for node in list(graph.nodes):
        if node.op != "If":
            continue
        truth = _truth(node.inputs[0], shapes)
        if truth is not None:
            inline_branch(graph, node, node.attrs["then_branch" if truth else "else_branch"])
            resolved += 1
    return resolved


def _truth(tensor: gs.Tensor, shapes: SymbolicShapes) -> bool | None:
    value = constant(tensor)
    if value is not None:
        return bool(value.reshape(-1)[0]) if value.size == 1 else None
    if not tensor.inputs:
        return None
    node = tensor.inputs[0]
    if node.op in KEEPS_VALUES:
        return _truth(node.inputs[0], shapes)
    if node.op == "Not":
        inner = _truth(node.inputs[0], shapes)
        return None if inner is None else not inner
    if node.op == "Equal":
        return _equal(_contents(node.inputs[0], shapes), _contents(node.inputs[1], shapes))
    return None


def _contents(tensor: gs.Tensor, shapes: SymbolicShapes) -> Any:
    value = constant(tensor)
    if value is not None:
        return value.reshape(-1).tolist()
    contents = shapes.contents.get(tensor.name)
    return contents if isinstance(contents, (list, tuple)) or contents is None else [contents]


def _equal(left: Any, right: Any) -> bool | None:
    """Whether two lists of extents are equal for every batch size and length; None where that depends on them."""
    if left is None or right is None or len(left) != 1 or len(right) != 1:
        return None
    difference = sympy.simplify(sympy.sympify(left[0]) - sympy.sympify(right[0]))
    if difference.is_number:
        return bool(difference == 0)
    return None

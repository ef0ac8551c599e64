"""Which nodes of a graph stay float32 as a group, so that no Cast stands between them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import walk_graphs
from passes.operators import ELEMENTWISE, MOVES, Family, members
from passes.precision.half_rules import FLOAT_OPS, OVERFLOW_OPS
from passes.shapes.dtypes import as_dtype, has_dtype

#: They pass on what their bodies make, so they have no precision of their own.
CONTROL_FLOW = frozenset(["If", "Loop", "Scan", "SequenceMap"])

_BRIDGES = members(Family.ARITHMETIC, Family.CLAMP, Family.SIGN) | {"Identity"}
_INDEX_OPS = ELEMENTWISE | MOVES
#: An angle of some hundred radians has a step of a quarter in float16.
_ANGLE_READERS = frozenset(["Cos", "Sin"])
_ANGLE_OPS = _INDEX_OPS | (members(Family.PRODUCT) - {"Conv"})
_SCORE_OPS = members(Family.ARITHMETIC, Family.ORDER, Family.AXES) | {"Where"}


def float_nodes(graph: gs.Graph, skip_op_types: Collection[str], *, avoid_overflow: bool) -> set[int]:
    """The ids of the nodes of ``graph`` and its subgraphs that stay float32.

    They are: those of ``skip_op_types``; :data:`FLOAT_OPS`; and float arithmetic on indices that becomes integer
    again, or an angle. With ``avoid_overflow`` also wide sums, exponentials, squares, and attention scores from MatMul
    to Softmax. :func:`add_bridges` adds what lies between them.
    """
    nodes = all_nodes(graph)
    plain = [node for node in nodes if node.op not in CONTROL_FLOW]
    kept = {id(node) for node in plain if node.op in skip_op_types or (not node.domain and node.op in FLOAT_OPS)}
    for node in nodes:
        if _casts_float_to_int(node):
            kept |= _index_arithmetic(node, _INDEX_OPS)
        elif node.op in _ANGLE_READERS and (angle := _index_arithmetic(node, _ANGLE_OPS)):
            kept |= {id(node), *angle}
    if avoid_overflow:
        kept |= {id(node) for node in nodes if node.op in OVERFLOW_OPS or _is_square(node)}
        for node in nodes:
            if node.op in ("Softmax", "LogSoftmax"):
                kept |= _scores(node)
    return kept


def all_nodes(graph: gs.Graph) -> list[gs.Node]:
    """The nodes of ``graph`` and its subgraphs."""
    return [node for scope in walk_graphs(graph, functions=False) for node in scope.nodes]


def add_bridges(nodes: list[gs.Node], kept: set[int]) -> None:
    """Grow ``kept`` by the arithmetic from one kept node to the next, and by divisions by a kept result.

    So the epsilon of a normalisation cannot become 0.
    """
    grown = True
    while grown:
        grown = False
        for node in nodes:
            if id(node) not in kept and node.op in _BRIDGES and _is_bridge(node, kept):
                kept.add(id(node))
                grown = True


def _is_bridge(node: gs.Node, kept: set[int]) -> bool:
    if node.op == "Div" and any(id(producer) in kept for producer in node.inputs[1].inputs):
        return True
    above = any(id(producer) in kept for producer in _producers(node))
    return above and any(id(consumer) in kept for tensor in node.outputs for consumer in tensor.outputs)


def _producers(node: gs.Node) -> Iterator[gs.Node]:
    for tensor in node.inputs:
        yield from tensor.inputs


def _casts_float_to_int(node: gs.Node) -> bool:
    if node.op != "Cast" or not has_dtype(node.inputs[0], np.float32):
        return False
    to = as_dtype(node.attrs.get("to"))
    return isinstance(to, np.dtype) and np.issubdtype(to, np.integer)


def _index_arithmetic(reader: gs.Node, ops: Collection[str]) -> set[int]:
    """The float nodes above ``reader`` where all of them are ``ops`` that lead back to integers or constants."""
    index_nodes: set[int] = set()
    stack = list(_producers(reader))
    while stack:
        node = stack.pop()
        if id(node) in index_nodes or node.op in ("Cast", "Constant", "ConstantOfShape", "Shape"):
            continue
        if node.op not in ops and node.op not in FLOAT_OPS:
            return set()
        floats = [tensor for tensor in node.inputs if has_dtype(tensor, np.float32)]
        if any(isinstance(tensor, gs.Variable) and not tensor.inputs for tensor in floats):
            return set()  # comes from a float input of the graph: data, not an index
        index_nodes.add(id(node))
        stack.extend(producer for tensor in floats for producer in tensor.inputs)
    return index_nodes


def _is_square(node: gs.Node) -> bool:
    return node.op == "Mul" and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]


def _scores(softmax: gs.Node) -> set[int]:
    """The nodes between ``softmax`` and the MatMuls above it, with those MatMuls."""
    score_nodes: set[int] = set()
    stack = list(_producers(softmax))
    while stack:
        node = stack.pop()
        if id(node) in score_nodes:
            continue
        if node.op == "MatMul":
            score_nodes.add(id(node))
        elif node.op in _SCORE_OPS and any(has_dtype(tensor, np.float32) for tensor in node.outputs):
            score_nodes.add(id(node))
            stack.extend(_producers(node))
    return score_nodes

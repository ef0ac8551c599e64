"""The longest of the samples' lengths is the extent of the sequence: Range(0, ReduceMax(lengths)) counts its places.

In a pack of declared extents the rows of the unpacked side are longer than the longest sample, so what is counted up to
the largest length would not meet them. It is read from the tokens instead.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.building import add_node
from passes.cleanup.rewiring import is_op
from passes.node_values import axes_argument
from passes.operators import KEEPS_VALUES

_SAME_VALUE = KEEPS_VALUES | {"Squeeze", "Unsqueeze", "Reshape"}


def read_longest_from_tokens(graph: gs.Graph, rows: tuple[gs.Variable, ...], tokens: gs.Variable) -> tuple[str, ...]:
    """Replace the largest of an input [batch] up to which the graph counts by the extent of the sequence.

    Args:
        graph: changed in place; its order of nodes is kept.
        rows: the inputs that hold a row a sample.
        tokens: an input [batch, seq, ...].

    Returns:
        The names of those inputs: only where they hold the lengths does the graph compute what it did.
    """
    counted = []
    for tensor in rows:
        largest = [node for node in _largest(tensor, len(tensor.shape) == 1) if _limits_a_range(node.outputs[0])]
        for node in largest:
            _measure(graph, node, tokens)
        if largest:
            counted.append(tensor.name)
    if counted:
        graph.toposort(mode="nodes")
    return tuple(counted)


def _largest(tensor: gs.Tensor, plain: bool = True) -> Iterator[gs.Node]:
    """The nodes that take the largest of all that ``tensor`` holds, [] or [1]; ``plain`` where it is [batch]."""
    for node in tensor.outputs:
        if is_op(node, "ReduceMax"):
            axes, kept = axes_argument(node), bool(node.attrs.get("keepdims", 1))
            if (axes == [] and (plain or not kept)) or (plain and axes in ([0], [-1])):
                yield node
        elif node.op in _SAME_VALUE and node.inputs[0] is tensor:
            yield from _largest(node.outputs[0], plain and node.op in ("Cast", "Identity"))


def _limits_a_range(tensor: gs.Tensor) -> bool:
    for node in tensor.outputs:
        if is_op(node, "Range") and node.inputs[1] is tensor:
            return True
        if node.op in _SAME_VALUE and node.inputs[0] is tensor and _limits_a_range(node.outputs[0]):
            return True
    return False


def _measure(graph: gs.Graph, node: gs.Node, tokens: gs.Variable) -> None:
    """Let ``node``'s result be the extent of the sequence, [] or [1] as it was."""
    result, name = node.outputs[0], f"{node.outputs[0].name}_longest"
    whole = node.inputs[0].dtype if node.inputs[0].dtype is not None else np.int64
    kept = bool(node.attrs.get("keepdims", 1))
    node.outputs.clear()
    node.inputs.clear()
    graph.nodes.remove(node)
    extent = add_node(graph.nodes, "Shape", name, [tokens], np.int64, start=1, end=2)
    if not kept:
        extent = add_node(graph.nodes, "Squeeze", f"{name}_number", [extent], np.int64)
    to = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(whole))
    add_node(graph.nodes, "Cast", f"{name}_cast", [extent], into=result, to=to)

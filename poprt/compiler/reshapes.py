"""What a graph says of its reshapes, and of who makes and reads a tensor."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from passes.node_values import constant

#: An entry of a reshape's target: a number, or the name of the computed tensor that gives it.
Entry = int | str

_MOST_AXES = 8  # a larger constant is no shape, and its values may not be in the graph


def entries(target: gs.Tensor) -> list[Entry]:
    """The entries of a target shape; a computed tensor counts as one entry, however many it gives."""
    values = _ints(target)
    if values is not None:
        return [*values]
    if not target.inputs or target.inputs[0].op != "Concat":
        return [target.name]
    parts = [(part.name, _ints(part)) for part in target.inputs[0].inputs]
    return [entry for name, ints in parts for entry in ([name] if ints is None else ints)]


def _ints(tensor: gs.Tensor) -> list[int] | None:
    if isinstance(tensor, gs.Constant) and (tensor.dtype != np.int64 or math.prod(tensor.shape) > _MOST_AXES):
        return None
    values = constant(tensor)
    return None if values is None else [int(value) for value in values.reshape(-1)]


def maker(node: gs.Node | None) -> gs.Node | None:
    """What makes the first input of ``node``."""
    return node.inputs[0].inputs[0] if node is not None and node.inputs and node.inputs[0].inputs else None


def only_reader(node: gs.Node, graph: gs.Graph) -> gs.Node | None:
    """What reads the output of ``node``, where that is one node and the output is not the graph's."""
    tensor = node.outputs[0]
    kept = any(tensor is output for output in graph.outputs)
    return tensor.outputs[0] if len(tensor.outputs) == 1 and not kept else None

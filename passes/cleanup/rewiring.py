"""Moving the readers of a tensor to another one, and taking nodes out, without losing a graph output's name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.refusal import Refusal, because


def is_op(node: gs.Node, *operators: str) -> bool:
    """Whether ``node`` is one of these operators of the standard domain."""
    return node.op in operators and (node.domain or "") in ("", "ai.onnx")


def onnx_dtype(tensor: gs.Tensor) -> int | None:
    """The tensor's ``TensorProto.DataType``, or None where the graph does not say it."""
    if tensor.dtype is None:
        return None
    if isinstance(tensor.dtype, int):
        return tensor.dtype
    return cast(int, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)))


def replace_uses(old: gs.Tensor, new: gs.Tensor) -> None:
    """Make every node that reads ``old``, in nested graphs too, read ``new``."""
    for consumer in {id(node): node for node in old.outputs}.values():
        for index, tensor in enumerate(consumer.inputs):
            if tensor is old:
                consumer.inputs[index] = new


def drop_nodes(graph: gs.Graph, nodes: Iterable[gs.Node]) -> None:
    """Take ``nodes`` out of ``graph`` and disconnect them."""
    dropped = {id(node): node for node in nodes}
    read = {id(tensor): tensor for node in dropped.values() for tensor in node.inputs if not tensor.is_empty()}
    for tensor in read.values():  # in one go: graphsurgeon compares each node with all readers before it
        readers = [node for node in tensor.outputs if id(node) not in dropped]
        list.clear(tensor.outputs)
        list.extend(tensor.outputs, readers)
    for node in dropped.values():
        list.clear(node.inputs)
        node.outputs.clear()
    if dropped:
        graph.nodes = [node for node in graph.nodes if id(node) not in dropped]


def bypass(graph: gs.Graph, node: gs.Node, index: int = 0) -> Refusal | None:
    """Connect the readers of ``node``'s first output to its input ``index``. The caller drops the node afterwards.

    Where the output is a graph output, the producer of the input takes over the output's name.

    Returns:
        None when it is done, else why the node has to stay.
    """
    source, target = node.inputs[index], node.outputs[0]
    if target not in graph.outputs:
        _keep_type(source, target)
        replace_uses(target, source)
        return None
    if source in graph.outputs:
        return because(f"it connects two graph outputs, {source.name!r} and {target.name!r}")
    producer = local_producer(graph, source)
    if producer is None:
        return because(f"graph output {target.name!r} comes straight from an input, a constant or an outer graph")
    node.outputs.clear()
    rename_output(producer, source, target)
    return None


def rename_output(producer: gs.Node, old: gs.Tensor, new: gs.Tensor) -> None:
    """Let ``producer`` produce ``new`` in the place of ``old``, and move the readers along."""
    _keep_type(new, old)
    index = next(place for place, tensor in enumerate(producer.outputs) if tensor is old)
    producer.outputs[index] = new
    replace_uses(old, new)


def local_producer(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node | None:
    """The node of this very graph that produces ``tensor``."""
    if len(tensor.inputs) != 1:
        return None
    producer = tensor.inputs[0]
    return producer if any(node is producer for node in graph.nodes) else None


def _keep_type(kept: gs.Tensor, lost: gs.Tensor) -> None:
    """Do not lose what was known of a tensor that goes away."""
    if isinstance(kept, gs.Variable):
        if kept.dtype is None:
            kept.dtype = lost.dtype
        if kept.shape is None:
            kept.shape = lost.shape

"""``within_rows``: why no attention of a model could be masked."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from passes.base import node_label
from passes.errors import PackingError
from passes.packing.tokens.axes import AxisMap
from passes.packing.tokens.positional import sequence_axes
from passes.refusal import Cause, Refusal

_FUSED = ("Attention", "MultiHeadAttention")


def no_attention(graph: gs.Graph, axes: AxisMap, refused: Mapping[int, Refusal]) -> PackingError:
    """The error for a model none of whose attentions can be masked: the first cause where there is an attention.

    Args:
        graph: in topological order.
        axes: shapes of its tensors.
        refused: ``id(node)`` -> why, of the nodes that mix the samples of a row, and of what reads their results.
    """
    for node in graph.nodes:
        if id(node) in refused and _is_attention(node, axes):
            cause = _first_cause(graph, node, refused)
            before = "" if cause is refused[id(node)] else f", and the attention {node_label(node)} reads its result"
            return PackingError(f"samples cannot share a row of this model: {cause}{before}", [cause])
    return PackingError("no softmax over pairs of places was found: there is no attention to mask")


def _is_attention(node: gs.Node, axes: AxisMap) -> bool:
    """Whether a node weighs pairs of places, or may do so: where a cause lies before it, its shape may be unknown."""
    if node.op in _FUSED:
        return True
    if node.op != "Softmax":
        return False
    own = sequence_axes(axes, node.inputs[0])
    shape = axes.shape(node.inputs[0])
    if own is None or shape is None:
        return True
    return len(own) == 2 and int(node.attrs.get("axis", -1)) % len(shape) in own


def _first_cause(graph: gs.Graph, node: gs.Node, refused: Mapping[int, Refusal]) -> Refusal:
    """The first refusal, in the order of the graph, that ``node`` follows; its own where it follows none."""
    before, todo = {id(node)}, [node]
    while todo:
        producers = [producer for tensor in todo.pop().inputs for producer in tensor.inputs]
        fresh = [item for item in producers if id(item) in refused and id(item) not in before]
        before.update(map(id, fresh))
        todo += fresh
    refusals = [refused[id(item)] for item in graph.nodes if id(item) in before]
    return next(refusal for refusal in refusals if refusal.cause is not Cause.FOLLOWS)

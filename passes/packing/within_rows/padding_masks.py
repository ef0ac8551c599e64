"""``within_rows``: fused attention operators need not leave out padding, for the AttentionMask does.

The number of tokens of a sample, which they take, would be that of a whole row. It is dropped where it is shown to say
no more than the mask input does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.fusion.attention_ops import attention_inputs, input_at
from passes.packing.tokens.axes import AxisMap
from passes.packing.tokens.evaluation import evaluate


def drop_padding_masks(graph: gs.Graph, axes: AxisMap, mask: gs.Variable, columns: int) -> int:
    """Take from fused attention operators what only repeats ``mask``; returns how many inputs were dropped.

    Args:
        graph: in topological order; nodes that nothing needs any more are removed.
        axes: types of its tensors.
        mask: the input that is 1 where a token is.
        columns: places in a row.
    """
    repeats: dict[str, bool] = {}
    dropped = 0
    for node in graph.nodes:
        slots = attention_inputs(node)
        for index in (slots.padding, slots.lengths) if slots else ():
            tensor = input_at(node, index)
            if tensor is None or index is None:
                continue
            if tensor.name not in repeats:
                repeats[tensor.name] = _repeats(graph, axes, tensor, mask, columns)
            if repeats[tensor.name]:
                node.inputs[index] = gs.Variable.empty()
                dropped += 1
    if dropped:
        graph.cleanup(remove_unused_graph_inputs=False)
    return dropped


def _repeats(graph: gs.Graph, axes: AxisMap, tensor: gs.Tensor, mask: gs.Variable, columns: int) -> bool:
    """Whether ``tensor`` is computed from ``mask`` alone and holds its sum, or is positive where it is 1."""
    if tensor is mask:
        return True
    nodes = _between(graph, mask, tensor)
    element = axes.shapes.dtypes.get(tensor.name)
    if nodes is None or element is None:
        return False
    for length in sorted({1, (columns + 1) // 2, columns}):
        sample_mask: np.ndarray[Any, Any] = (np.arange(columns) < length).astype(mask.dtype)[None]
        result = evaluate(graph, nodes, tensor.name, element, {mask.name: sample_mask})
        expected = [length] if result.ndim == 1 else sample_mask > 0
        if not np.array_equal(result if result.ndim == 1 else result > 0, expected):
            return False
    return True


def _between(graph: gs.Graph, start: gs.Tensor, end: gs.Tensor) -> list[gs.Node] | None:
    """The nodes that make ``end`` of ``start`` and constants; None where another input has a part in it."""
    needed, makers = {end.name}, []
    for node in reversed(graph.nodes):
        if any(output.name in needed for output in node.outputs if output.name):
            makers.append(node)
            needed.update(tensor.name for tensor in node.inputs if not isinstance(tensor, gs.Constant))
    others = {tensor.name for tensor in graph.inputs} - {start.name}
    return None if needed & others else makers[::-1]

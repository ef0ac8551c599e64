"""Hides padding from a softmax whose scores are quantised after the mask was applied.

A model that was calibrated on samples without padding cuts -10000 to the least score that it saw: to attention, padding
is a token like others then. On the unpacked side, padding gets the lowest number right before the softmax:

    scores [n, h, L, L]  ->  Where(is a token [n, 1, 1, L], scores, lowest)

In a run without padding nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.building import add_node
from passes.operators import ELEMENTWISE, QUANTISATION, Family, members
from passes.packing.tokens.axes import BATCH, SEQ
from passes.packing.tokens.sides import PlacedGraph

#: Through these a mask stays one. Not among them: what multiplies matrices, looks up or reduces.
_PASSING = ELEMENTWISE | QUANTISATION | members(Family.ORDER, Family.AXES, Family.CUT, Family.REPEAT)


def hide_quantised_padding(placed: PlacedGraph, masks: Iterable[str], anchor: gs.Tensor) -> int:
    """Change the graph; returns how many softmax nodes read other scores now.

    Args:
        placed: the graph before it is rewritten; it gets the nodes.
        masks: the inputs that mask.
        anchor: an input [batch, seq].
    """
    cut = _quantised_masks(placed, masks)
    weighing = [node for node in placed.graph.nodes if _weighs_places(node, placed) and _reads(node, cut)]
    if not weighing:
        return 0
    token = _tokens(placed, anchor)
    for node in weighing:
        node.inputs[0] = _hidden(placed, node.inputs[0], token)
    placed.graph.toposort(mode="nodes")
    return len(weighing)


def _quantised_masks(placed: PlacedGraph, masks: Iterable[str]) -> set[str]:
    """Names of the tensors that hold a mask, alone or applied to scores, and have been quantised since."""
    applied, cut = set(masks), set[str]()
    for node in placed.graph.nodes:
        if node.op not in _PASSING:
            continue
        read = {tensor.name for tensor in node.inputs}
        if read & applied:
            applied.update(tensor.name for tensor in node.outputs)
        if read & cut or (read & applied and node.op == "QuantizeLinear"):
            cut.update(tensor.name for tensor in node.outputs)
    return cut


def _weighs_places(node: gs.Node, placed: PlacedGraph) -> bool:
    """Whether a node is a softmax over the places of a sample, of scores of which one axis is the batch."""
    if node.op != "Softmax" or placed.runs_packed(node):
        return False
    shape = placed.axes.shape(node.inputs[0]) or ()
    axis = int(node.attrs.get("axis", -1)) % max(len(shape), 1)
    return bool(shape) and axis == len(shape) - 1 and shape[-1] == SEQ and shape.count(BATCH) == 1


def _reads(node: gs.Node, names: set[str]) -> bool:
    return node.inputs[0].name in names


def _tokens(placed: PlacedGraph, anchor: gs.Tensor) -> gs.Tensor:
    """bool [batch, seq]: true everywhere on the packed side, false where Unpack fills."""
    always = _node(placed, "Equal", "real_place", [anchor, anchor], np.bool_, (BATCH, SEQ), packed=True)
    integer, truth = onnx.TensorProto.INT32, onnx.TensorProto.BOOL
    number = _node(placed, "Cast", "real_place_number", [always], np.int32, (BATCH, SEQ), packed=True, to=integer)
    return _node(placed, "Cast", "real_place_unpacked", [number], np.bool_, (BATCH, SEQ), to=truth)


def _hidden(placed: PlacedGraph, scores: gs.Tensor, token: gs.Tensor) -> gs.Tensor:
    shape = placed.axes.require_shape(scores)
    rank, batch = len(shape), shape.index(BATCH)
    dtype = np.dtype(scores.dtype if scores.dtype is not None else np.float32)
    axes = [axis for axis in range(rank) if axis not in (batch, rank - 1)]
    name = f"real_place_{rank}_{batch}"
    laid = next((tensor for node in token.outputs for tensor in node.outputs if tensor.name == name), None)
    if laid is None:
        spread = tuple(extent if axis in (batch, rank - 1) else 1 for axis, extent in enumerate(shape))
        index = gs.Constant(f"{name}_axes", np.array(axes, np.int64))
        placed.axes.shapes[index.name] = (len(axes),)
        laid = _node(placed, "Unsqueeze", name, [token, index], np.bool_, spread) if axes else token
    # Finite: a row without a sample is lowest throughout, and its softmax a number.
    lowest = gs.Constant(f"{scores.name}_lowest", np.array(np.finfo(dtype).min, dtype))
    placed.axes.shapes[lowest.name] = ()
    return _node(placed, "Where", f"{scores.name}_of_tokens", [laid, scores, lowest], dtype, shape)


def _node(
    placed: PlacedGraph,
    op: str,
    name: str,
    inputs: list[gs.Tensor],
    dtype: type | np.dtype[Any],
    shape: tuple[Any, ...],
    packed: bool = False,
    **attrs: Any,
) -> gs.Tensor:
    output = add_node(placed.graph.nodes, op, name, inputs, np.dtype(dtype), **attrs)
    placed.axes.record(output, shape)
    placed.axes.shapes.dtypes[output.name] = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    if packed:
        placed.placement.packed.add(id(output.inputs[0]))
    return output

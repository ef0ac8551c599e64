"""Rules of what computes each place, or along axes of a sample: activations, norms, reductions."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.batch.batch_axes import Answer, BatchAxes, BatchAxis
from passes.batch.table import apart_from, broadcast, meet, must_not_depend, normalised, rule, without
from passes.node_values import axes_argument, constant
from passes.operators import CONTRIB, CONTRIB_ELEMENTWISE, ELEMENTWISE, FIRST_ALONE, Family, default_axis, members
from passes.refusal import refused


# [B, S, H] + [B, S, H], + [H], + [1, S, 1] -> [B, S, H].
@rule(*ELEMENTWISE - FIRST_ALONE)
def _elementwise(node: gs.Node, batch: BatchAxes) -> Answer:
    return broadcast(node, batch, range(len(node.inputs)))


# [B, S, H] + [H] -> [B, S, H].
@rule(*CONTRIB_ELEMENTWISE, domain=CONTRIB)
def _with_bias(node: gs.Node, batch: BatchAxes) -> Answer:
    must_not_depend(node.inputs[1:], batch)
    return apart_from(node, batch, [-1] if len(node.inputs) > 1 else [])


# Clip [B, S], [], [] -> [B, S].
@rule(*FIRST_ALONE)
def _by_first(node: gs.Node, batch: BatchAxes) -> Answer:
    must_not_depend(node.inputs[1:], batch)
    return batch.require(node.inputs[0])


# [B, S, H] -> [B, S, H], [B, S, H]: outside training it does nothing.
@rule("Dropout")
def _dropout(node: gs.Node, batch: BatchAxes) -> Answer:
    training = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
    values = constant(training) if training is not None else None
    if training is not None and (values is None or bool(values.reshape(-1)[0])):
        raise refused("it may be in training mode")
    return batch.require(node.inputs[0])


# [B, C, H, W] -> [B, C, H, W], with the statistics of training.
@rule("BatchNormalization")
def _batch_normalisation(node: gs.Node, batch: BatchAxes) -> Answer:
    if node.attrs.get("training_mode", 0) or len(node.outputs) > 1:
        raise refused("takes the statistics of the batch")
    must_not_depend(node.inputs[1:], batch)
    return apart_from(node, batch, [1])


# [B, S, H] along axis 2 -> [B, S, H].
@rule("Softmax", "LogSoftmax", "Hardmax")
def _softmax(node: gs.Node, batch: BatchAxes) -> Answer:
    rank = len(batch.shape(node.inputs[0]))
    axis = normalised([node.attrs.get("axis", default_axis(node.op, batch.opset))], rank)[0]
    return apart_from(node, batch, [axis] if batch.opset >= 13 else range(axis, rank))


# [B, S, H] over its last axes -> [B, S, H], [B, S, 1].
@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def _normalisation(node: gs.Node, batch: BatchAxes) -> Answer:
    must_not_depend(node.inputs[1:], batch)
    rank = len(batch.shape(node.inputs[0]))
    place = apart_from(node, batch, range(normalised([node.attrs.get("axis", -1)], rank)[0], rank))
    for index, tensor in enumerate(node.inputs[1:], 1):
        if not tensor.is_empty() and (axis := place.axis - rank + len(batch.shape(tensor))) >= 0:
            meet(node, batch, index, axis, place.inner)
    return place


# [B, S, H], [B, S, H], [H] -> [B, S, H].
@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=CONTRIB)
def _skip_normalisation(node: gs.Node, batch: BatchAxes) -> Answer:
    must_not_depend(node.inputs[2:], batch)
    places = {batch.require(tensor) for tensor in node.inputs[:2]}
    if places != {BatchAxis(0)} or len({batch.shape(tensor) for tensor in node.inputs[:2]}) > 1:
        raise refused("keeps its samples in other axes than the first")
    return [BatchAxis(0), None, None, BatchAxis(0)][: len(node.outputs)]


# TopK [B, S, H] along axis 2 -> [B, S, k].
@rule("ArgMax", "ArgMin", "CumSum", "LpNormalization", "TopK")
def _along_one_axis(node: gs.Node, batch: BatchAxes) -> Answer:
    must_not_depend(node.inputs[1:], batch)
    rank = len(batch.shape(node.inputs[0]))
    if node.op == "CumSum":
        values = batch.values(node.inputs[1])
        axis = None if values is None else int(values.reshape(-1)[0])
    else:
        axis = node.attrs.get("axis", default_axis(node.op, batch.opset))
    if axis is None:
        raise refused("its axis is not a constant")
    place = apart_from(node, batch, [axis])
    dropped = node.op in ("ArgMax", "ArgMin") and not node.attrs.get("keepdims", 1)
    return without(place, normalised([axis], rank)) if dropped else place


# [B, S, H] over axis 1 -> [B, 1, H], or [B, H] without keepdims.
@rule(*members(Family.REDUCTION))
def _reduce(node: gs.Node, batch: BatchAxes) -> Answer:
    rank, axes = len(batch.shape(node.inputs[0])), axes_argument(node)
    if axes is None:
        raise refused("its axes are not constant")
    if not axes and node.attrs.get("noop_with_empty_axes", 0):
        return batch.require(node.inputs[0])
    if not axes:
        raise refused("reduces over all axes")
    place = apart_from(node, batch, axes)
    return place if node.attrs.get("keepdims", 1) else without(place, normalised(axes, rank))


# [B, S, H] with one scale -> [B, S, H].
@rule("QuantizeLinear", "DequantizeLinear")
def _quantise(node: gs.Node, batch: BatchAxes) -> Answer:
    must_not_depend(node.inputs[1:], batch)
    by_axis = bool(batch.shape(node.inputs[1]))
    if node.attrs.get("block_size", 0) or len(batch.shape(node.inputs[1])) > 1:
        raise refused("has its scales in blocks")
    return apart_from(node, batch, [node.attrs.get("axis", 1)] if by_axis else [])

"""Rules of what moves, picks and repeats values."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from passes.batch.batch_axes import Answer, BatchAxes, BatchAxis
from passes.batch.table import apart_from, must_not_depend, normalised, rule, without
from passes.node_values import axes_argument
from passes.refusal import refused


# [B, C, H, W] by scales [1, 1, 2, 2] -> [B, C, 2 * H, 2 * W].
@rule("Resize", "Upsample")
def _resize(node: gs.Node, batch: BatchAxes) -> Answer:
    must_not_depend(node.inputs[1:], batch)
    place, shape = batch.require(node.inputs[0]), batch.shape(node.inputs[0])
    index = 2 if node.op == "Resize" and batch.opset > 10 else 1
    scales = node.inputs[index] if len(node.inputs) > index else None
    values = batch.values(scales) if scales is not None and not scales.is_empty() else None
    axes = normalised(node.attrs.get("axes", range(len(shape))), len(shape))
    if place.axis not in axes:
        return place
    if values is None or values.size != len(axes) or float(values[axes.index(place.axis)]) != 1.0:
        raise refused("is told the size of the batch")
    return place


# [B, S, H], [B, 1, H] along axis 1 -> [B, S + 1, H]. A token of the model's own is repeated for each sample.
@rule("Concat")
def _concat(node: gs.Node, batch: BatchAxes) -> Answer:
    places = {batch.of(tensor) for tensor in node.inputs} - {None}
    rank = len(batch.shape(node.outputs[0]))
    place = places.pop()
    if places or place is None:
        raise refused("its operands keep their samples in other axes")
    if place.axis in normalised([node.attrs["axis"]], rank):
        raise refused("lays samples behind samples")
    for index, tensor in enumerate(node.inputs):
        if batch.of(tensor) is None:
            if place.inner != 1:
                raise refused(f"reads {tensor.name!r}, which does not depend on the batch")
            batch.settle(node, index, place.axis, grow=True)
    return place


# [B, S, 2 * H] along axis 2 -> [B, S, H], [B, S, H].
@rule("Split")
def _split(node: gs.Node, batch: BatchAxes) -> Answer:
    must_not_depend(node.inputs[1:], batch)
    return apart_from(node, batch, [node.attrs.get("axis", 0)])


# [B, S, H] along axis 1 -> [B, 1, H].
@rule("Slice")
def _slice(node: gs.Node, batch: BatchAxes) -> Answer:
    must_not_depend(node.inputs[1:], batch)
    rank = len(batch.shape(node.inputs[0]))
    if batch.opset < 10:
        return apart_from(node, batch, node.attrs.get("axes", range(len(node.attrs["starts"]))))
    named = node.inputs[3] if len(node.inputs) > 3 and not node.inputs[3].is_empty() else None
    axes = batch.values(named) if named is not None else np.arange(rank)
    if axes is None:
        raise refused("its axes are not constant")
    return apart_from(node, batch, axes.reshape(-1).tolist())


# [B, S, H] -> [B, S + 1, H].
@rule("Pad")
def _pad(node: gs.Node, batch: BatchAxes) -> Answer:
    must_not_depend(node.inputs[1:], batch)
    rank = len(batch.shape(node.inputs[0]))
    pads = batch.values(node.inputs[1]) if batch.opset >= 11 else np.asarray(node.attrs["pads"])
    axes = batch.values(node.inputs[3]) if len(node.inputs) > 3 and not node.inputs[3].is_empty() else np.arange(rank)
    if pads is None or axes is None or len(pads) != 2 * len(axes):
        raise refused("its pads are not constant")
    touched = [int(axis) for axis, *both in zip(axes, *pads.reshape(2, -1), strict=True) if any(both)]
    return apart_from(node, batch, touched)


# A table [V, H] at [B, S] -> [B, S, H]; [B, S, H] at [] along axis 1 -> [B, H].
@rule("Gather")
def _gather(node: gs.Node, batch: BatchAxes) -> Answer:
    data, indices = node.inputs
    rank = len(batch.shape(data))
    axis = normalised([node.attrs.get("axis", 0)], rank)[0]
    place = batch.of(indices)
    if place is not None:
        must_not_depend([data], batch)
        return BatchAxis(axis + place.axis, place.inner)
    place = apart_from(node, batch, [axis])
    added = len(batch.shape(indices)) - 1
    return place if place.axis < axis else BatchAxis(place.axis + added, place.inner)


# [B, S, H] at [B, S, k] along axis 2 -> [B, S, k].
@rule("GatherElements")
def _gather_elements(node: gs.Node, batch: BatchAxes) -> Answer:
    if batch.of(node.inputs[0]) != batch.of(node.inputs[1]):
        raise refused("data and indices keep their samples in other axes")
    return apart_from(node, batch, [node.attrs.get("axis", 0)])


# [B, S, H] at [B, n, 1], with batch_dims 1 -> [B, n, H].
@rule("GatherND")
def _gather_nd(node: gs.Node, batch: BatchAxes) -> Answer:
    data, indices = (batch.require(tensor) for tensor in node.inputs)
    if data != indices or data.axis >= int(node.attrs.get("batch_dims", 0)):
        raise refused("its indices name samples")
    return data


# [B, S] -> [B, S, depth].
@rule("OneHot")
def _one_hot(node: gs.Node, batch: BatchAxes) -> Answer:
    must_not_depend(node.inputs[1:], batch)
    if node.attrs.get("axis", -1) not in (-1, len(batch.shape(node.inputs[0]))):
        raise refused("it does not add the last axis")
    return batch.require(node.inputs[0])


# [B, S, N, D] -> [B, N, S, D].
@rule("Transpose")
def _transpose(node: gs.Node, batch: BatchAxes) -> Answer:
    place, rank = batch.require(node.inputs[0]), len(batch.shape(node.inputs[0]))
    order = node.attrs.get("perm", list(reversed(range(rank))))
    return BatchAxis(list(order).index(place.axis), place.inner)


# [B, 1, S] without axis 1 -> [B, S].
@rule("Squeeze")
def _squeeze(node: gs.Node, batch: BatchAxes) -> Answer:
    axes = axes_argument(node)
    if not axes:
        raise refused("its axes are not constant, or left out: that may take the batch away")
    place = apart_from(node, batch, axes)
    return without(place, normalised(axes, len(batch.shape(node.inputs[0]))))


# [B, S] with axis 1 -> [B, 1, S].
@rule("Unsqueeze")
def _unsqueeze(node: gs.Node, batch: BatchAxes) -> Answer:
    axes, rank = axes_argument(node), len(batch.shape(node.outputs[0]))
    if axes is None:
        raise refused("its axes are not constant")
    place = batch.require(node.inputs[0])
    kept = [axis for axis in range(rank) if axis not in normalised(axes, rank)]
    return BatchAxis(kept[place.axis], place.inner)


# [B, S, N * D] -> [B, S, N, D]; [B, S, H] -> [B * S, H].
@rule("Reshape")
def _reshape(node: gs.Node, batch: BatchAxes) -> Answer:
    if len(node.inputs) < 2:
        raise refused("has its target in an attribute")
    must_not_depend(node.inputs[1:], batch)
    place, target = batch.reshaped(node.inputs[0], node.outputs[0]), list(batch.shape(node.outputs[0]))
    target[place.axis] = -1
    if 0 in target:
        raise refused("has an empty axis")
    batch.targets[node.outputs[0].name] = target
    return place


# [B, S, H] from axis 2 on -> [B * S, H].
@rule("Flatten")
def _flatten(node: gs.Node, batch: BatchAxes) -> Answer:
    place, shape = batch.require(node.inputs[0]), batch.shape(node.inputs[0])
    axis = normalised([node.attrs.get("axis", 1)], len(shape))[0]
    if axis == 0:
        raise refused("lays all samples into one row")
    own = 0 if place.axis < axis else 1  # of the two axes that it gives
    if math.prod(shape[axis * own : place.axis]) != 1:
        raise refused(f"divides the samples of {node.inputs[0].name!r} {list(shape)}")
    return BatchAxis(own, batch.shape(node.outputs[0])[own] // batch.size)


# [B, 1, 1, S] to [B, 1, S, S] -> [B, 1, S, S].
@rule("Expand")
def _expand(node: gs.Node, batch: BatchAxes) -> Answer:
    must_not_depend(node.inputs[1:], batch)
    place, target = batch.require(node.inputs[0]), list(batch.shape(node.outputs[0]))
    axis = place.axis + len(target) - len(batch.shape(node.inputs[0]))
    target[axis] = 1  # keeps what is there
    batch.targets[node.outputs[0].name] = target
    return BatchAxis(axis, place.inner)


# [B, 1, H], repeated [1, 4, 1] times -> [B, 4, H].
@rule("Tile")
def _tile(node: gs.Node, batch: BatchAxes) -> Answer:
    place, repeats = batch.require(node.inputs[0]), batch.values(node.inputs[1])
    if repeats is None or int(repeats[place.axis]) != 1:
        raise refused("repeats samples")
    return place


# [B, S, H] from axis 1 on -> holds [S, H].
@rule("Shape")
def _shape(node: gs.Node, batch: BatchAxes) -> Answer:
    rank = len(batch.shape(node.inputs[0]))
    read = range(rank)[slice(node.attrs.get("start", 0), node.attrs.get("end", rank))]
    if batch.require(node.inputs[0]).axis in read:
        raise refused("computes with the size of the batch")
    return [None]

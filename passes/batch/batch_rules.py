"""Where each operator leads the batch. A rule proves that a sample's result is made of that sample alone.

A rule takes the node and what is known, and gives the batch axis of all outputs, or one for each, None where an output
has none. The comments show shapes in and out, for a batch of B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.batch.batch_axes import Answer, BatchAxes, BatchAxis, Rule
from passes.node_values import axes_argument, constant
from passes.operators import (
    CONTRIB,
    CONTRIB_ELEMENTWISE,
    ELEMENTWISE,
    FIRST_ALONE,
    Family,
    default_axis,
    members,
)
from passes.refusal import refused

_RULES: dict[tuple[str, str], Rule] = {}


def find_rule(node: gs.Node) -> Rule:
    """The rule of a node's operator.

    Raises:
        RefusedError: there is none.
    """
    domain = "" if node.domain in (None, "ai.onnx") else node.domain
    rule = _RULES.get((domain, node.op))
    if rule is None:
        raise refused("it may look along the batch")
    return rule


def _rule(*ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    def note(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(((domain, op) for op in ops), rule))
        return rule

    return note


# [B, S, H] + [B, S, H], + [H], + [1, S, 1] -> [B, S, H].
@_rule(*ELEMENTWISE - FIRST_ALONE)
@_rule(*CONTRIB_ELEMENTWISE, domain=CONTRIB)
def _elementwise(node: gs.Node, batch: BatchAxes) -> Answer:
    return _broadcast(node, batch, range(len(node.inputs)))


# Clip [B, S], [], [] -> [B, S].
@_rule(*FIRST_ALONE)
def _by_first(node: gs.Node, batch: BatchAxes) -> Answer:
    _must_not_depend(node.inputs[1:], batch)
    return batch.require(node.inputs[0])


# [B, S, H] -> [B, S, H], [B, S, H]: outside training it does nothing.
@_rule("Dropout")
def _dropout(node: gs.Node, batch: BatchAxes) -> Answer:
    training = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
    values = constant(training) if training is not None else None
    if training is not None and (values is None or bool(values.reshape(-1)[0])):
        raise refused("it may be in training mode")
    return batch.require(node.inputs[0])


# [B, S, H] @ [H, K] -> [B, S, K]; [B, N, S, D] @ [B, N, D, S] -> [B, N, S, S].
@_rule("MatMul", "MatMulInteger")
def _matmul(node: gs.Node, batch: BatchAxes) -> Answer:
    _must_not_depend(node.inputs[2:], batch)
    left, right = node.inputs[:2]
    ranks = [len(batch.shape(left)), len(batch.shape(right))]
    if min(ranks) < 2:
        return _vector_product(node, batch)
    places = []
    for tensor, rank, contracted in ((left, ranks[0], -1), (right, ranks[1], -2)):
        place = batch.of(tensor)
        if place is None:
            continue
        from_end = place.axis - rank
        if from_end == contracted:
            raise refused(f"sums along the batch of {tensor.name!r}")
        places.append(BatchAxis(from_end, place.inner))
    if any(place != places[0] for place in places) or (len(places) > 1 and places[0].axis > -3):
        raise refused("its operands keep their samples in other axes")
    place = places[0]
    if place.axis <= -3:
        for index, tensor in enumerate((left, right)):
            if batch.of(tensor) is None and ranks[index] + place.axis >= 0:
                _meet(node, batch, index, ranks[index] + place.axis, place.inner)
    return BatchAxis(max(ranks) + place.axis, place.inner)


# [B, S, H] @ [H] -> [B, S].
def _vector_product(node: gs.Node, batch: BatchAxes) -> BatchAxis:
    right = node.inputs[1]
    if batch.of(right) is not None or len(batch.shape(right)) != 1:
        raise refused("multiplies by a vector on the left")
    return _apart_from(node, batch, [-1])


# [B, H] @ [H, K] + [K] -> [B, K].
@_rule("Gemm")
def _gemm(node: gs.Node, batch: BatchAxes) -> Answer:
    place = batch.require(node.inputs[0])
    if place.axis != 0 or node.attrs.get("transA", 0):
        raise refused("its rows are not samples")
    _must_not_depend(node.inputs[1:2], batch)
    if len(node.inputs) > 2 and not node.inputs[2].is_empty():
        bias = node.inputs[2]
        if batch.of(bias) is not None and batch.of(bias) != place:
            raise refused(f"{bias.name!r} keeps its samples in another axis")
        if batch.of(bias) is None and len(batch.shape(bias)) == 2:
            _meet(node, batch, 2, 0, place.inner)
    return place


# Convolutions, pools and what else has samples first: [B, C, H, W] -> [B, K, H, W].
@_rule(
    "AveragePool", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace", "GlobalAveragePool", "GlobalLpPool",
    "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool", "SpaceToDepth",
)  # fmt: skip
def _samples_first(node: gs.Node, batch: BatchAxes) -> Answer:
    _must_not_depend(node.inputs[1:], batch)
    place = batch.require(node.inputs[0])
    if place.axis != 0:
        raise refused(f"keeps its samples in axis {place.axis}")
    if node.op == "MaxPool" and len(node.outputs) > 1:
        raise refused("gives places of its maxima, which count through the whole batch")
    return place


# [B, C, H, W] -> [B, C, H, W], with the statistics of training.
@_rule("BatchNormalization")
def _batch_normalisation(node: gs.Node, batch: BatchAxes) -> Answer:
    if node.attrs.get("training_mode", 0) or len(node.outputs) > 1:
        raise refused("takes the statistics of the batch")
    _must_not_depend(node.inputs[1:], batch)
    return _apart_from(node, batch, [1])


# [B, C, H, W] by scales [1, 1, 2, 2] -> [B, C, 2 * H, 2 * W].
@_rule("Resize", "Upsample")
def _resize(node: gs.Node, batch: BatchAxes) -> Answer:
    _must_not_depend(node.inputs[1:], batch)
    place, shape = batch.require(node.inputs[0]), batch.shape(node.inputs[0])
    scales = node.inputs[2 if node.op == "Resize" else 1] if len(node.inputs) > 1 else None
    values = batch.values(scales) if scales is not None and not scales.is_empty() else None
    axes = [int(axis) for axis in node.attrs.get("axes", range(len(shape)))]
    if place.axis not in _normalised(axes, len(shape)):
        return place
    if values is None or values.size != len(axes) or float(values[axes.index(place.axis)]) != 1.0:
        raise refused("is told the size of the batch")
    return place


# [B, S, H] along axis 2 -> [B, S, H].
@_rule("Softmax", "LogSoftmax", "Hardmax")
def _softmax(node: gs.Node, batch: BatchAxes) -> Answer:
    rank = len(batch.shape(node.inputs[0]))
    axis = _normalised([node.attrs.get("axis", default_axis(node.op, batch.opset))], rank)[0]
    return _apart_from(node, batch, [axis] if batch.opset >= 13 else range(axis, rank))


# [B, S, H] over its last axes -> [B, S, H], [B, S, 1].
@_rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def _normalisation(node: gs.Node, batch: BatchAxes) -> Answer:
    _must_not_depend(node.inputs[1:], batch)
    rank = len(batch.shape(node.inputs[0]))
    return _apart_from(node, batch, range(_normalised([node.attrs.get("axis", -1)], rank)[0], rank))


# [B, S, H], [B, S, H], [H] -> [B, S, H].
@_rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=CONTRIB)
def _skip_normalisation(node: gs.Node, batch: BatchAxes) -> Answer:
    _must_not_depend(node.inputs[2:], batch)
    places = {batch.require(tensor) for tensor in node.inputs[:2]}
    if places != {BatchAxis(0)}:
        raise refused("keeps its samples in other axes than the first")
    return [BatchAxis(0), None, None, BatchAxis(0)][: len(node.outputs)]


# TopK [B, S, H] along axis 2 -> [B, S, k].
@_rule("ArgMax", "ArgMin", "CumSum", "LpNormalization", "TopK")
def _along_one_axis(node: gs.Node, batch: BatchAxes) -> Answer:
    _must_not_depend(node.inputs[1:], batch)
    rank = len(batch.shape(node.inputs[0]))
    if node.op == "CumSum":
        values = batch.values(node.inputs[1])
        axis = None if values is None else int(values.reshape(-1)[0])
    else:
        axis = node.attrs.get("axis", default_axis(node.op, batch.opset))
    if axis is None:
        raise refused("its axis is not a constant")
    place = _apart_from(node, batch, [axis])
    dropped = node.op in ("ArgMax", "ArgMin") and not node.attrs.get("keepdims", 1)
    return _without(place, _normalised([axis], rank)) if dropped else place


# [B, S, H] over axis 1 -> [B, 1, H], or [B, H] without keepdims.
@_rule(*members(Family.REDUCTION))
def _reduce(node: gs.Node, batch: BatchAxes) -> Answer:
    rank, axes = len(batch.shape(node.inputs[0])), axes_argument(node)
    if axes is None:
        raise refused("its axes are not constant")
    if not axes and node.attrs.get("noop_with_empty_axes", 0):
        return batch.require(node.inputs[0])
    if not axes:
        raise refused("reduces over all axes")
    place = _apart_from(node, batch, axes)
    return place if node.attrs.get("keepdims", 1) else _without(place, _normalised(axes, rank))


# [B, S, H], [B, 1, H] along axis 1 -> [B, S + 1, H]. A token of the model's own is repeated for each sample.
@_rule("Concat")
def _concat(node: gs.Node, batch: BatchAxes) -> Answer:
    places = {batch.of(tensor) for tensor in node.inputs} - {None}
    rank = len(batch.shape(node.outputs[0]))
    place = places.pop()
    if places or place is None:
        raise refused("its operands keep their samples in other axes")
    if place.axis in _normalised([node.attrs["axis"]], rank):
        raise refused("lays samples behind samples")
    for index, tensor in enumerate(node.inputs):
        if batch.of(tensor) is None:
            if place.inner != 1:
                raise refused(f"reads {tensor.name!r}, which does not depend on the batch")
            batch.settle(node, index, place.axis, grow=True)
    return place


# [B, S, 2 * H] along axis 2 -> [B, S, H], [B, S, H].
@_rule("Split")
def _split(node: gs.Node, batch: BatchAxes) -> Answer:
    _must_not_depend(node.inputs[1:], batch)
    return _apart_from(node, batch, [node.attrs.get("axis", 0)])


# [B, S, H] along axis 1 -> [B, 1, H].
@_rule("Slice")
def _slice(node: gs.Node, batch: BatchAxes) -> Answer:
    _must_not_depend(node.inputs[1:], batch)
    rank = len(batch.shape(node.inputs[0]))
    if batch.opset < 10:
        return _apart_from(node, batch, node.attrs.get("axes", range(len(node.attrs["starts"]))))
    named = node.inputs[3] if len(node.inputs) > 3 and not node.inputs[3].is_empty() else None
    axes = batch.values(named) if named is not None else np.arange(rank)
    if axes is None:
        raise refused("its axes are not constant")
    return _apart_from(node, batch, axes.reshape(-1).tolist())


# [B, S, H] -> [B, S + 1, H].
@_rule("Pad")
def _pad(node: gs.Node, batch: BatchAxes) -> Answer:
    _must_not_depend(node.inputs[1:], batch)
    rank = len(batch.shape(node.inputs[0]))
    pads = batch.values(node.inputs[1]) if batch.opset >= 11 else np.asarray(node.attrs["pads"])
    axes = batch.values(node.inputs[3]) if len(node.inputs) > 3 and not node.inputs[3].is_empty() else np.arange(rank)
    if pads is None or axes is None or len(pads) != 2 * len(axes):
        raise refused("its pads are not constant")
    touched = [int(axis) for axis, *both in zip(axes, *pads.reshape(2, -1), strict=True) if any(both)]
    return _apart_from(node, batch, touched)


# A table [V, H] at [B, S] -> [B, S, H]; [B, S, H] at [] along axis 1 -> [B, H].
@_rule("Gather")
def _gather(node: gs.Node, batch: BatchAxes) -> Answer:
    data, indices = node.inputs
    rank = len(batch.shape(data))
    axis = _normalised([node.attrs.get("axis", 0)], rank)[0]
    place = batch.of(indices)
    if place is not None:
        _must_not_depend([data], batch)
        return BatchAxis(axis + place.axis, place.inner)
    place = _apart_from(node, batch, [axis])
    added = len(batch.shape(indices)) - 1
    return place if place.axis < axis else BatchAxis(place.axis + added, place.inner)


# [B, S, H] at [B, S, k] along axis 2 -> [B, S, k].
@_rule("GatherElements")
def _gather_elements(node: gs.Node, batch: BatchAxes) -> Answer:
    if batch.of(node.inputs[0]) != batch.of(node.inputs[1]):
        raise refused("data and indices keep their samples in other axes")
    return _apart_from(node, batch, [node.attrs.get("axis", 0)])


# [B, S, H] at [B, n, 1], with batch_dims 1 -> [B, n, H].
@_rule("GatherND")
def _gather_nd(node: gs.Node, batch: BatchAxes) -> Answer:
    data, indices = (batch.require(tensor) for tensor in node.inputs)
    if data != indices or data.axis >= int(node.attrs.get("batch_dims", 0)):
        raise refused("its indices name samples")
    return data


# [B, S] -> [B, S, depth].
@_rule("OneHot")
def _one_hot(node: gs.Node, batch: BatchAxes) -> Answer:
    _must_not_depend(node.inputs[1:], batch)
    if node.attrs.get("axis", -1) not in (-1, len(batch.shape(node.inputs[0]))):
        raise refused("it does not add the last axis")
    return batch.require(node.inputs[0])


# [B, S, N, D] -> [B, N, S, D].
@_rule("Transpose")
def _transpose(node: gs.Node, batch: BatchAxes) -> Answer:
    place, rank = batch.require(node.inputs[0]), len(batch.shape(node.inputs[0]))
    order = node.attrs.get("perm", list(reversed(range(rank))))
    return BatchAxis(list(order).index(place.axis), place.inner)


# [B, 1, S] without axis 1 -> [B, S].
@_rule("Squeeze")
def _squeeze(node: gs.Node, batch: BatchAxes) -> Answer:
    axes = axes_argument(node)
    if not axes:
        raise refused("its axes are not constant, or left out: that may take the batch away")
    place = _apart_from(node, batch, axes)
    return _without(place, _normalised(axes, len(batch.shape(node.inputs[0]))))


# [B, S] with axis 1 -> [B, 1, S].
@_rule("Unsqueeze")
def _unsqueeze(node: gs.Node, batch: BatchAxes) -> Answer:
    axes, rank = axes_argument(node), len(batch.shape(node.outputs[0]))
    if axes is None:
        raise refused("its axes are not constant")
    place = batch.require(node.inputs[0])
    kept = [axis for axis in range(rank) if axis not in _normalised(axes, rank)]
    return BatchAxis(kept[place.axis], place.inner)


# [B, S, N * D] -> [B, S, N, D]; [B, S, H] -> [B * S, H].
@_rule("Reshape")
def _reshape(node: gs.Node, batch: BatchAxes) -> Answer:
    _must_not_depend(node.inputs[1:], batch)
    place, target = batch.reshaped(node.inputs[0], node.outputs[0]), list(batch.shape(node.outputs[0]))
    target[place.axis] = -1
    if 0 in target:
        raise refused("has an empty axis")
    batch.targets[node.outputs[0].name] = target
    return place


# [B, S, H] from axis 2 on -> [B * S, H].
@_rule("Flatten")
def _flatten(node: gs.Node, batch: BatchAxes) -> Answer:
    if node.attrs.get("axis", 1) == 0:
        raise refused("lays all samples into one row")
    return batch.reshaped(node.inputs[0], node.outputs[0])


# [B, 1, 1, S] to [B, 1, S, S] -> [B, 1, S, S].
@_rule("Expand")
def _expand(node: gs.Node, batch: BatchAxes) -> Answer:
    _must_not_depend(node.inputs[1:], batch)
    place, target = batch.require(node.inputs[0]), list(batch.shape(node.outputs[0]))
    axis = place.axis + len(target) - len(batch.shape(node.inputs[0]))
    target[axis] = 1  # keeps what is there
    batch.targets[node.outputs[0].name] = target
    return BatchAxis(axis, place.inner)


# [B, 1, H], repeated [1, 4, 1] times -> [B, 4, H].
@_rule("Tile")
def _tile(node: gs.Node, batch: BatchAxes) -> Answer:
    place, repeats = batch.require(node.inputs[0]), batch.values(node.inputs[1])
    if repeats is None or int(repeats[place.axis]) != 1:
        raise refused("repeats samples")
    return place


# bsh,hk->bsk of [B, S, H], [H, K] -> [B, S, K].
@_rule("Einsum")
def _einsum(node: gs.Node, batch: BatchAxes) -> Answer:
    equation = str(node.attrs["equation"]).replace(" ", "")
    if "." in equation or "->" not in equation:
        raise refused(f"its equation {equation!r} does not name all axes")
    terms, result = equation.split("->")
    labels = {
        (term[place.axis], place.inner)
        for term, tensor in zip(terms.split(","), node.inputs, strict=True)
        if (place := batch.of(tensor)) is not None
    }
    label, inner = labels.pop()
    if labels or label not in result:
        raise refused(f"mixes samples in {equation!r}")
    for term, tensor in zip(terms.split(","), node.inputs, strict=True):
        if batch.of(tensor) is None and label in term:
            raise refused(f"reads {tensor.name!r}, which does not depend on the batch, in {equation!r}")
    return BatchAxis(result.index(label), inner)


# [B, S, H] with one scale -> [B, S, H].
@_rule("QuantizeLinear", "DequantizeLinear")
def _quantise(node: gs.Node, batch: BatchAxes) -> Answer:
    _must_not_depend(node.inputs[1:], batch)
    by_axis = bool(batch.shape(node.inputs[1]))
    return _apart_from(node, batch, [node.attrs.get("axis", 1)] if by_axis else [])


# Queries, keys and values [B, N, S, D] or [B, S, H], a mask [S, S] or [B, 1, S, S] -> [B, N, S, D].
@_rule("Attention")
def _attention(node: gs.Node, batch: BatchAxes) -> Answer:
    if any(not tensor.is_empty() for tensor in node.inputs[4:]) or len(node.outputs) > 1:
        raise refused("continues from an earlier run")
    if {batch.of(tensor) for tensor in node.inputs[:3]} != {BatchAxis(0)}:
        raise refused("keeps its samples in other axes than the first")
    if len(node.inputs) > 3 and not node.inputs[3].is_empty():
        mask = node.inputs[3]
        place, rank = batch.of(mask), len(batch.shape(mask))
        if place is not None and (rank != 4 or place != BatchAxis(0)):
            raise refused(f"{mask.name!r} keeps its samples in another axis than the first")
        if place is None and rank == 4:
            _meet(node, batch, 3, 0, 1)
    return BatchAxis(0)


# [S, B, I] -> [S, D, B, H], [D, B, H].
@_rule("LSTM", "GRU", "RNN")
def _recurrent(node: gs.Node, batch: BatchAxes) -> Answer:
    if node.attrs.get("layout", 0):
        raise refused("has samples first")
    if batch.of(node.inputs[0]) != BatchAxis(1):
        raise refused(f"does not read samples in axis 1 of {node.inputs[0].name!r}")
    _must_not_depend(node.inputs[1:4], batch)
    for index, axis in ((4, 0), (5, 1), (6, 1)):
        if len(node.inputs) <= index or node.inputs[index].is_empty():
            continue
        place = batch.of(node.inputs[index])
        if place is None:
            batch.settle(node, index, axis, grow=True)
        elif place != BatchAxis(axis):
            raise refused(f"does not read samples in axis {axis} of {node.inputs[index].name!r}")
    places: list[BatchAxis | None] = [BatchAxis(2), BatchAxis(1), BatchAxis(1)]
    return places[: len(node.outputs)]


# [B, S, H] from axis 1 on -> holds [S, H].
@_rule("Shape")
def _shape(node: gs.Node, batch: BatchAxes) -> Answer:
    rank = len(batch.shape(node.inputs[0]))
    read = range(rank)[slice(node.attrs.get("start", 0), node.attrs.get("end", rank))]
    if batch.require(node.inputs[0]).axis in read:
        raise refused("computes with the size of the batch")
    return [None]


def _broadcast(node: gs.Node, batch: BatchAxes, indices: Iterable[int]) -> BatchAxis:
    """The batch axis of operands that broadcast against each other."""
    ranks = {index: len(batch.shape(node.inputs[index])) for index in indices if not node.inputs[index].is_empty()}
    places = {
        (place.axis - rank, place.inner)
        for index, rank in ranks.items()
        if (place := batch.of(node.inputs[index])) is not None
    }
    if len(places) != 1:
        raise refused("its operands keep their samples in other axes")
    from_end, inner = places.pop()
    for index, rank in ranks.items():
        if batch.of(node.inputs[index]) is None and rank + from_end >= 0:
            _meet(node, batch, index, rank + from_end, inner)
    return BatchAxis(max(ranks.values()) + from_end, inner)


def _meet(node: gs.Node, batch: BatchAxes, index: int, axis: int, inner: int) -> None:
    """An operand without samples has ``axis`` where the others have theirs."""
    extent = batch.shape(node.inputs[index])[axis]
    if extent == 1:
        return
    if extent != batch.size * inner:
        raise refused(f"pairs samples with the {extent} places of {node.inputs[index].name!r}")
    batch.settle(node, index, axis)


def _apart_from(node: gs.Node, batch: BatchAxes, axes: Iterable[Any]) -> BatchAxis:
    """The batch axis of the first input, which must be none of ``axes``."""
    tensor = node.inputs[0]
    place = batch.require(tensor)
    if place.axis in _normalised(axes, len(batch.shape(tensor))):
        raise refused(f"works along the samples of {tensor.name!r}")
    return place


def _without(place: BatchAxis, removed: Sequence[int]) -> BatchAxis:
    return BatchAxis(place.axis - sum(axis < place.axis for axis in removed), place.inner)


def _normalised(axes: Iterable[Any], rank: int) -> list[int]:
    return [int(axis) + rank if axis < 0 else int(axis) for axis in axes]


def _must_not_depend(tensors: Iterable[gs.Tensor], batch: BatchAxes) -> None:
    for tensor in tensors:
        if batch.of(tensor) is not None:
            raise refused(f"is told by {tensor.name!r}, which depends on the samples, how to work")

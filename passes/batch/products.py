"""Rules of what sums products within a sample: matrices, convolutions, attention, recurrences."""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from passes.batch.batch_axes import Answer, BatchAxes, BatchAxis
from passes.batch.table import apart_from, meet, must_not_depend, rule
from passes.ops.common import DOMAIN
from passes.refusal import refused


# [B, S, H] @ [H, K] -> [B, S, K]; [B, N, S, D] @ [B, N, D, S] -> [B, N, S, S].
@rule("MatMul", "MatMulInteger")
def _matmul(node: gs.Node, batch: BatchAxes) -> Answer:
    must_not_depend(node.inputs[2:], batch)
    left, right = node.inputs[:2]
    for point, operand in zip(node.inputs[2:], (left, right), strict=False):
        by_column = operand is right and batch.of(right) is None
        if not point.is_empty() and math.prod(batch.shape(point)) != 1 and not by_column:
            raise refused(f"{point.name!r} has a zero point for each row")
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
                meet(node, batch, index, ranks[index] + place.axis, place.inner)
    return BatchAxis(max(ranks) + place.axis, place.inner)


# [B, S, H] @ [H] -> [B, S].
def _vector_product(node: gs.Node, batch: BatchAxes) -> BatchAxis:
    right = node.inputs[1]
    if batch.of(right) is not None or len(batch.shape(right)) != 1:
        raise refused("multiplies by a vector on the left")
    return apart_from(node, batch, [-1])


# [B, H] @ [H, K] + [K] -> [B, K].
@rule("Gemm")
def _gemm(node: gs.Node, batch: BatchAxes) -> Answer:
    place = batch.require(node.inputs[0])
    if place.axis != 0 or node.attrs.get("transA", 0):
        raise refused("its rows are not samples")
    must_not_depend(node.inputs[1:2], batch)
    if len(node.inputs) > 2 and not node.inputs[2].is_empty():
        bias = node.inputs[2]
        if batch.of(bias) is not None and (batch.of(bias) != place or len(batch.shape(bias)) != 2):
            raise refused(f"{bias.name!r} keeps its samples in another axis")
        if batch.of(bias) is None and len(batch.shape(bias)) == 2:
            meet(node, batch, 2, 0, place.inner)
    return place


# bsh,hk->bsk of [B, S, H], [H, K] -> [B, S, K].
@rule("Einsum")
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
    if labels or label not in result or any(term.count(label) > 1 for term in terms.split(",")):
        raise refused(f"mixes samples in {equation!r}")
    for term, tensor in zip(terms.split(","), node.inputs, strict=True):
        if batch.of(tensor) is None and label in term:
            raise refused(f"reads {tensor.name!r}, which does not depend on the batch, in {equation!r}")
    return BatchAxis(result.index(label), inner)


# Convolutions, pools and what else has samples first: [B, C, H, W] -> [B, K, H, W].
@rule(
    "AveragePool", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace", "GlobalAveragePool", "GlobalLpPool",
    "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool", "SpaceToDepth",
)  # fmt: skip
def _samples_first(node: gs.Node, batch: BatchAxes) -> Answer:
    must_not_depend(node.inputs[1:], batch)
    place = batch.require(node.inputs[0])
    if place.axis != 0:
        raise refused(f"keeps its samples in axis {place.axis}")
    if node.op == "MaxPool" and len(node.outputs) > 1:
        raise refused("gives places of its maxima, which count through the whole batch")
    return place


# Queries, keys and values [B, N, S, D] or [B, S, H], a mask [S, S] or [B, 1, S, S] -> [B, N, S, D].
@rule("Attention")
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
            meet(node, batch, 3, 0, 1)
    return BatchAxis(0)


# [S, B, I] -> [S, D, B, H], [D, B, H].
@rule("LSTM", "GRU", "RNN")
def _recurrent(node: gs.Node, batch: BatchAxes) -> Answer:
    if node.attrs.get("layout", 0):
        raise refused("has samples first")
    if batch.of(node.inputs[0]) != BatchAxis(1):
        raise refused(f"does not read samples in axis 1 of {node.inputs[0].name!r}")
    must_not_depend([*node.inputs[1:4], *node.inputs[7:]], batch)
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


# [R, C], [R, N, C, C] -> [R, 1, C, C]: each row by its own numbers; of the second input only the type is read.
@rule("AttentionMask", domain=DOMAIN)
def _attention_mask(node: gs.Node, batch: BatchAxes) -> Answer:
    place = batch.require(node.inputs[0])
    if place != BatchAxis(0, 1):
        raise refused("its rows are not samples")
    return place

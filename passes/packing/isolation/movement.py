"""Rules of operators that move values without computing: what is known of an axis goes where the axis goes.

Transpose [n, L, h, d] -> [n, h, L, d]: axis 1 becomes axis 2. Reshape [n, L, h * d] -> [n, L, h, d]: axis 1 stays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import sympy

from passes.node_values import constant, pads_argument
from passes.operators import CONTRIB
from passes.packing.isolation import values as v
from passes.packing.isolation.distances import check_distances
from passes.packing.isolation.facts import Facts, facts_of, moved
from passes.packing.isolation.proof import View
from passes.packing.isolation.reductions import check_batch
from passes.packing.isolation.table import rule
from passes.packing.isolation.values import Values, hull
from passes.packing.tokens.subsampling import subsampling_of
from passes.refusal import Cause, refused
from passes.shapes.symbolic import Dim, Shape

_SEVERAL, _PLACES = 3, 8


# [n, L, h, d] -> [n, h, L, d]: what is known of axis 1 is known of axis 2.
@rule("Transpose")
def _transpose(view: View) -> Facts:
    order = list(view.node.attrs.get("perm", reversed(range(view.rank(view.node.inputs[0])))))
    return moved(view.facts_by_distance(view.node.inputs[0]), order.index)


# [n, L, h * d] -> [n, L, h, d]: axis 1 stays. [n, L, H] -> [n, H, L] is not proved.
@rule("Squeeze", "Unsqueeze", "Reshape", "Flatten")
def _reshape(view: View) -> Facts:
    facts = view.facts_by_distance(view.node.inputs[0])
    if view.packed:
        return facts
    before, after = view.shape(view.node.inputs[0]), view.shape(view.node.outputs[0])
    axes = view.seq(view.node.outputs[0])
    sources: dict[int, list[int]] = {axis: [] for axis in axes}
    for axis in facts.padded:
        target = next((place for place in axes if _same_places(before, axis, after, place)), None)
        if target is None:
            cause = Cause.PADDING if _keeps_batch(view, before, after) else Cause.SAMPLES
            raise refused("it moves values between the places of a sample", cause)
        sources[target].append(axis)
    padded = {}
    for axis, merged in sources.items():
        parts = [facts.at(own) for own in merged] + ([facts.corner] if len(merged) > 1 else [])
        padded[axis] = hull(parts) if parts else facts.in_padding
    corner = facts.corner if len(facts.padded) > 1 else facts.in_padding
    distance = facts.by_distance
    if distance is not None:
        distance = replace(distance, axis=next(axis for axis, merged in sources.items() if merged == [distance.axis]))
    return Facts(facts.real, padded, corner, distance)


def _same_places(before: Shape, axis: int, after: Shape, place: int) -> bool:
    """Whether an axis keeps its place in the order of the values: alone, merged with others, or split from them.

    [n, L, h * d] -> [n * L * h, d]: axis 1 is part of axis 0. The way back as well.
    """
    old = sympy.prod(before[:axis]), sympy.prod(before[: axis + 1])
    new = sympy.prod(after[:place]), sympy.prod(after[: place + 1])
    return _lies_within(old, new) or _lies_within(new, old)


def _lies_within(inner: tuple[Any, Any], outer: tuple[Any, Any]) -> bool:
    """Whether an axis with these products of extents before and through it is a part of another."""
    return _divides(outer[0], inner[0]) and _divides(inner[1], outer[1])


def _divides(divisor: Any, product: Any) -> bool:
    quotient = sympy.cancel(sympy.sympify(product) / divisor)
    return bool(sympy.denom(quotient) == 1)


def _keeps_batch(view: View, before: Shape, after: Shape) -> bool:
    """Whether the samples are the outermost axis before and after."""
    first = view.batch(view.node.inputs[0]), view.batch(view.node.outputs[0])
    return first == ((0,), (0,)) and _equal(before[0], after[0])


def _equal(left: Any, right: Any) -> bool:
    return bool(left == right or sympy.expand(left - right) == 0)


# [n, 1, L] -> [n, L, L]: the new places hold real values. [1, L] tiled to [n, 2 * L] is not proved.
@rule("Expand", "Tile")
def _expand(view: View) -> Facts:
    tensor, output = view.node.inputs[0], view.node.outputs[0]
    facts, shape, target = view.facts(tensor), view.shape(tensor), view.shape(output)
    shift = len(target) - len(shape)
    for axis in facts.padded:
        if not _equal(shape[axis], target[axis + shift]):
            raise refused("it repeats a row with its padding", Cause.PADDING)
    if view.node.op == "Tile" and set(view.batch(output)) - {axis + shift for axis in view.batch(tensor)}:
        raise refused("it repeats along the samples of a batch", Cause.SAMPLES)
    rest = moved(facts, lambda axis: axis + shift)
    new = {axis: facts.real.as_padding_sees_it() for axis in view.seq(output) if axis not in rest.padded}
    return Facts(facts.real, {**rest.padded, **new}, facts.anywhere.as_padding_sees_it())


# [n, 1, H], [n, L, H] on axis 1 -> [n, L + 1, H]: proved, padding stays last. The other way round it is not.
@rule("Concat")
def _concat(view: View) -> Facts:
    output = view.node.outputs[0]
    axis = view.axis(0, output)
    if any(axis in view.batch(tensor) for tensor in view.node.inputs):
        raise refused("it joins samples with others", Cause.SAMPLES)
    operand_facts = [view.facts(tensor) for tensor in view.node.inputs]
    growing = [axis in facts.padded for facts in operand_facts]
    # What comes after a row with padding would stand behind the padding.
    if any(growing[:-1]):
        raise refused("it joins something to the end of a row, behind its padding", Cause.PADDING)
    padded = {}
    for own in view.seq(output):
        parts = [facts.padded.get(own, facts.real.as_padding_sees_it()) for facts in operand_facts]
        padded[own] = parts[-1] if own == axis else hull(parts)
    return Facts(hull(facts.real for facts in operand_facts), padded, hull(facts.in_padding for facts in operand_facts))


# [n, L, 2 * H] on axis 2 -> [n, L, H], [n, L, H]. On axis 1 it is not proved.
@rule("Split")
def _split(view: View) -> list[Facts]:
    tensor = view.node.inputs[0]
    axis = view.axis(0)
    check_batch(view, tensor, [axis], "splits")
    if axis in view.seq(tensor):
        raise refused("it cuts a row in parts, padding and all", Cause.PADDING)
    return [view.facts(tensor)] * len(view.node.outputs)


# [n, L, H] to [n, 1, H], the first place: proved. The last one may be padding. Every second place: proved.
@rule("Slice")
def _slice(view: View) -> Facts:
    tensor, output = view.node.inputs[0], view.node.outputs[0]
    facts = view.facts(tensor)
    if view.packed:
        return facts
    before, after = view.shape(tensor), view.shape(output)
    starts, axes, steps = _slice_arguments(view, len(before))
    padded = dict(facts.padded)
    for axis in {*view.seq(tensor), *view.batch(tensor)}:
        if axes is None:
            raise refused("its axes are not constant", Cause.SAMPLES)
        if axis not in axes:
            continue
        start, step = starts[axes.index(axis)], steps[axes.index(axis)]
        if _equal(before[axis], after[axis]) and step == 1:
            continue
        if axis in view.batch(tensor):
            raise refused("it takes some samples of a batch", Cause.SAMPLES)
        cut = None if start is None else sympy.expand(before[axis] - start - after[axis])
        if start == 0 and _equal(after[axis], 1):
            padded.pop(axis)
        elif _takes_every(before[axis], after[axis], start, step):
            continue  # place j is one of the sample where j * step + start is
        elif step == 1 and start is not None and start >= 0 and cut is not None and cut.is_number and cut >= 0:
            # x[:, 1:] starts later. x[:, :-1] ends earlier: behind it a shorter sample has places of its own left.
            padded[axis] = hull([padded[axis], facts.real.as_padding_sees_it()]) if cut else padded[axis]
        else:
            raise refused(_slice_reason(start, step), Cause.PADDING)
    return Facts(facts.real, padded, facts.corner)


def _takes_every(before: Dim, after: Dim, start: int | None, step: int | None) -> bool:
    """Whether a Slice takes every ``step``-th place from ``start`` to the end: x[:, 1::2]."""
    own = subsampling_of(before)
    if own is None or start is None or step is None or start < 0 or step < 2:
        return False
    return subsampling_of(after) == own.divided(step - 1 - start, step)


def _slice_reason(start: int | None, step: int | None) -> str:
    if step is not None and step < 0:
        return "it turns a row round, so padding comes first"
    return "it takes the last places" if start is not None and start < 0 else "it takes places that may be padding"


def _slice_arguments(view: View, rank: int) -> tuple[list[int | None], list[int] | None, list[int | None]]:
    """Starts, axes and steps, a number each; None for what is not constant."""
    if view.opset < 10:
        starts: list[int | None] = [int(item) for item in view.node.attrs["starts"]]
        listed = view.node.attrs.get("axes", range(len(starts)))
        return starts, [int(axis) % rank for axis in listed], [1] * len(starts)
    axes_input = view.input(3)
    values = constant(axes_input) if axes_input is not None else None
    first = constant(view.node.inputs[1])
    if axes_input is not None:
        axes = None if values is None else [int(axis) % rank for axis in values.reshape(-1)]
    else:
        axes = list(range(rank))
    count = len(axes) if axes is not None else 0
    starts = [None] * count if first is None else [int(item) for item in first.reshape(-1)]
    return starts + [None] * (count - len(starts)), axes, _steps(view, count)


def _steps(view: View, count: int) -> list[int | None]:
    steps_input = view.input(4)
    if steps_input is None:
        return [1] * count
    values = constant(steps_input)
    return [None] * count if values is None else [int(item) for item in values.reshape(-1)]


# [n, L, H] to [n, L + 1, H], in front: proved. Behind, where it adds zeros to zeros: copies of the last place are not.
@rule("Pad")
def _pad(view: View) -> Facts:
    tensor = view.node.inputs[0]
    facts = view.facts(tensor)
    if view.packed:
        return facts
    pads = pads_argument(view.node, view.rank(tensor))
    if pads is None:
        raise refused("its pads are not constant", Cause.SAMPLES)
    filler, mode = view.input(2), str(view.node.attrs.get("mode", "constant"))
    fill = v.ZERO if filler is None else view.facts(filler).real
    for axis in {*view.seq(tensor), *view.batch(tensor)}:
        in_front, behind = pads[axis]
        if axis in view.batch(tensor) and (in_front or behind):
            raise refused("it adds samples to a batch, or moves them along it", Cause.SAMPLES)
        if behind < 0:
            raise refused("it cuts the end of a row, where padding is", Cause.PADDING)
        if mode != "constant" and (behind or (in_front and mode != "edge")):
            raise refused("it fills what it adds with places of the row, which may be padding", Cause.PADDING)
        filled = fill.is_zero and facts.at(axis).is_zero
        if behind > 0 and not filled:
            raise refused("it adds places at the end of a row, behind its padding", Cause.PADDING)
    padded = {axis: hull([item, fill]) for axis, item in facts.padded.items()}
    return Facts(hull([facts.real, fill]), padded, hull([facts.corner, fill]))


# [n, L, L] -> [n, L, L]: padding, or zero.
@rule("Trilu")
def _triangle(view: View) -> Facts:
    facts = view.facts(view.node.inputs[0])
    padded = {axis: hull([values, v.ZERO]) for axis, values in facts.padded.items()}
    return Facts(hull([facts.real, v.ZERO]), padded, hull([facts.corner, v.ZERO]))


# [n, L] -> [n, L, V]: padding stays ordinary.
@rule("OneHot")
def _one_hot(view: View) -> Facts:
    indices, output = view.node.inputs[0], view.node.outputs[0]
    if int(view.node.attrs.get("axis", -1)) not in (-1, view.rank(output) - 1):
        raise refused("it does not add the last axis", Cause.SAMPLES)
    return facts_of(v.NUMBER, tuple(view.facts(indices).padded), v.ORDINARY)


# a table [V, H] at [n, L] -> [n, L, H]: ordinary. [n, L, H] at 0 on axis 1 -> [n, H]: the first place is proved.
@rule("Gather")
def _gather(view: View) -> Facts:
    data, indices = view.node.inputs
    axis, output = view.axis(0), view.node.outputs[0]
    if view.is_free(data):
        return facts_of(_table_values(view, data), view.seq(output), v.ORDINARY)
    if view.packed:
        return Facts(view.facts(data).real)
    facts, picked = view.facts(data), constant(indices)
    added = view.rank(indices)
    check_batch(view, data, [axis], "chooses")
    if view.batch(indices) and not view.is_positional(indices):
        raise refused(f"the indices {indices.name!r} differ from sample to sample, the rows do not", Cause.SAMPLES)
    if axis in view.seq(data) and (picked is None or picked.any()):
        if not view.is_positional(indices):
            last = picked is not None and (picked < 0).any()
            raise refused("it takes the last place" if last else "it takes a place that may be padding", Cause.PADDING)
        _check_index(view.facts(indices).real)
        return facts_of(facts.real, view.seq(output), facts.anywhere.as_padding_sees_it())
    rest = {own: values for own, values in facts.padded.items() if own != axis}
    return moved(Facts(facts.real, rest, facts.corner), lambda own: own if own < axis else own + added - 1)


# a table of 4 bits [V, H] at [n, L] -> [n, L, H]: ordinary.
@rule("GatherBlockQuantized", domain=CONTRIB)
def _quantised_lookup(view: View) -> Facts:
    if not all(tensor.is_empty() or view.is_free(tensor) for tensor in (view.node.inputs[0], *view.node.inputs[2:])):
        raise refused("the table that it reads depends on the inputs", Cause.SAMPLES)
    return facts_of(v.NUMBER if view.packed else v.ORDINARY, view.seq(view.node.outputs[0]), v.ORDINARY)


def _table_values(view: View, table: gs.Tensor) -> Values:
    return view.facts(table).real if not view.packed else v.NUMBER


# [n, L, H] at [n, k, H] on axis 1 -> [n, k, H]: proved where the indices count from the front.
@rule("GatherElements")
def _gather_elements(view: View) -> Facts:
    data, indices = view.node.inputs
    axis, output = view.axis(0), view.node.outputs[0]
    facts = view.facts_by_distance(data)
    check_batch(view, data, [axis], "chooses")
    if facts.by_distance is not None and facts.by_distance.axis == axis:
        check_distances(view, facts.by_distance, indices)
        return facts_of(facts.real, view.seq(output), facts.anywhere.as_padding_sees_it())
    if facts.by_distance is not None:
        view.facts(data)  # raises
    if set(view.batch(indices)) != set(view.batch(data)):
        raise refused(f"the indices {indices.name!r} belong to other samples than the data", Cause.SAMPLES)
    if axis in view.seq(data):
        _check_index(view.facts(indices).real)
    return facts_of(facts.real, view.seq(output), facts.anywhere.as_padding_sees_it())


def _check_index(index: Values) -> None:
    """A place that is counted from the front is the sample's own, for otherwise its run alone would fail."""
    if index.nan or index.ordinary or index.low < 0:
        raise refused("it takes a place that may be counted from the end, where padding is", Cause.PADDING)


# [n, L, H] at (sample, place) [n, k, 2] -> [n, k, H]: proved where each sample takes from itself.
@rule("GatherND")
def _gather_nd(view: View) -> Facts:
    data, indices = view.node.inputs
    output = view.node.outputs[0]
    if view.packed:
        return Facts(view.facts(data).real)
    if view.node.attrs.get("batch_dims", 0) or view.batch(data)[:1] != (0,):
        raise refused("it takes chosen places", Cause.SAMPLES)
    facts = view.facts(data)
    if view.is_positional(indices):
        return _own_places(view, data, indices, output)
    if not _own_sample(view, indices):
        raise refused("it takes places of chosen samples", Cause.SAMPLES)
    parts = indices.inputs[0].inputs
    if 1 in view.seq(data):
        for part in parts[1:2]:
            _check_index(view.facts(part).real)
    return facts_of(facts.real, view.seq(output), facts.anywhere.as_padding_sees_it())


def _own_sample(view: View, indices: gs.Tensor) -> bool:
    """Whether the first part of joined indices counts the samples: each takes from itself."""
    producer = indices.inputs[0] if indices.inputs else None
    if producer is None or producer.op != "Concat" or not view.is_positional(producer.inputs[0]):
        return False
    if view.axis(-1, indices) != view.rank(indices) - 1 or view.shape(producer.inputs[0])[-1] != 1:
        return False
    return _counts_samples(view, producer.inputs[0])


def _counts_samples(view: View, tensor: gs.Tensor) -> bool:
    batch = view.batch(tensor)
    counted = view.positions(tensor, _PLACES, _SEVERAL)
    if len(batch) != 1:
        return False
    own = np.indices(counted.shape)[batch[0]]
    return bool(np.array_equal(counted, own))


# [n, L] with updates [n, L] at every place in order -> [n, L], the updates.
@rule("ScatterND")
def _scatter_nd(view: View) -> Facts:
    """Updates at every place in order, which is how exporters write ``mask[...] = updates``, are the result."""
    data, indices, updates = view.node.inputs
    if view.packed or str(view.node.attrs.get("reduction", "none")) != "none" or not view.is_positional(indices):
        raise refused("it writes to chosen places", Cause.SAMPLES)
    written = view.positions(indices, _PLACES, _SEVERAL)
    own = np.moveaxis(np.indices(written.shape[:-1]), 0, -1)
    if view.shape(data) == view.shape(updates) and np.array_equal(written, own):
        return view.facts(updates)
    if not np.array_equal(written[..., 0], own[..., 0]) or written[..., 1:].any():
        raise refused("it writes to chosen places", Cause.SAMPLES)
    facts = view.facts(data)  # the first place is always the sample's own
    return replace(facts, real=hull([facts.real, view.facts(updates).anywhere]))


def _own_places(view: View, data: gs.Tensor, indices: gs.Tensor, output: gs.Tensor) -> Facts:
    """[n, L] read at (sample, key) for each (sample, 1, query, key): exporters index a mask so."""
    taken = view.positions(indices, _PLACES, _SEVERAL)
    facts, seq, batch = view.facts(data), view.seq(output), view.batch(output)
    places = np.indices(taken.shape[:-1])
    if len(batch) != 1 or not np.array_equal(taken[..., 0], places[batch[0]]) or taken.shape[-1] != 2:
        raise refused("it takes places of chosen samples", Cause.SAMPLES)
    if 1 not in facts.padded:
        return facts_of(facts.real, seq, facts.anywhere)
    along = next((axis for axis in seq if np.array_equal(taken[..., 1], places[axis])), None)
    if along is None:
        _check_index(Values(float(taken[..., 1].min()), float(taken[..., 1].max())))
        raise refused("it takes places that may be padding", Cause.PADDING)
    padded = {axis: facts.at(1) if axis == along else facts.real for axis in seq}
    return Facts(facts.real, padded, facts.at(1))

"""How constants are read that reshape, spread, cut, join or move: one rule an operator.

A rule looks at one node of a model whose batch and sequence were fixed. It lets the inference see what a number stands
for and notes in the findings what the graph needs. It returns why nothing can be said of other shapes, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import sympy
from onnx import helper

from passes.packing.opening.axis_atoms import divide
from passes.packing.tokens.axes import BATCH, SEQ, mentions_tokens
from passes.refusal import Cause, Refusal, because, first_refusal

if TYPE_CHECKING:
    from passes.packing.opening.baked_inference import BakedInference

INT_MAX = 2**31 - 1


def attribute(node: onnx.NodeProto, name: str) -> Any:
    """The value of an attribute; None where the node does not have it."""
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), None)


# [B, S, H] to [4, 24, 2, 8] -> [B, S, 2, 8], where 4 and 24 are B and S. To [8, 12, 16] divides S: a problem.
def _reshape(inference: BakedInference, node: onnx.NodeProto, shapes: Sequence[list[Any]]) -> Refusal | None:
    source, output = shapes[0], node.output[0]
    if not any(mentions_tokens(extent) for extent in source):
        return None
    asked = _asked(inference, node)
    target = None if asked is None else _asked_sizes(inference, asked, source, node)
    atoms = [inference.orders.atoms(extent) for extent in source]
    sizes = {atom: inference.size(atom) for axis in atoms for atom in axis if not isinstance(atom, int)}
    if asked is None or target is None or None in sizes.values():
        return because("its result has a shape that is not known")
    divided = divide(atoms, target, {atom: size for atom, size in sizes.items() if size is not None})
    if divided is None:
        return because(f"turns {source} into {target}, which divides the batch or the sequence")
    extents = [inference.orders.merge(axis) for axis in divided]
    if _names_an_extent(asked, extents):
        inference.lend(inference.contents, node.input[1], extents)
        inference.findings.targets[output] = _target(source, extents)
    return _refuse_other_extents(asked, extents, source)


def _asked(inference: BakedInference, node: onnx.NodeProto) -> list[Any] | None:
    """What a shape input holds: numbers, or extents where it is computed; None where that is not known."""
    asked: Any = inference.constant(node, 1)
    if asked is None:
        asked = inference.contents.get(node.input[1])
    return None if asked is None else [_plain(item) for item in asked]


def _is_baked(item: Any, extent: Any) -> bool:
    """Whether a Reshape names the batch or the sequence by a number."""
    return isinstance(item, int) and item > 0 and mentions_tokens(extent)


def _names_an_extent(asked: Sequence[Any], extents: Sequence[Any]) -> bool:
    return any(_is_baked(item, extent) for item, extent in zip(asked, extents, strict=True))


def _refuse_other_extents(asked: Sequence[Any], extents: Sequence[Any], source: Sequence[Any]) -> Refusal | None:
    """Refuse a Reshape that names another extent than its elements have."""
    for axis, (item, extent) in enumerate(zip(asked, extents, strict=True)):
        if item == -1 or _is_baked(item, extent):
            continue
        said = source[axis] if item == 0 else item
        if sympy.simplify(sympy.sympify(said) - sympy.sympify(extent)) != 0:
            return because(f"asks for {said} where its input has {extent}")
    return None


def _asked_sizes(
    inference: BakedInference, asked: list[Any], source: list[Any], node: onnx.NodeProto
) -> list[int] | None:
    """The extents of a Reshape's result as numbers."""
    sizes = [inference.size(extent) for extent in source]
    if None in sizes or (attribute(node, "allowzero") and 0 in asked):
        return None
    extents = []
    for axis, item in enumerate(asked):
        value = sizes[axis] if item == 0 and axis < len(sizes) else inference.size(item)
        if value is None:
            return None
        extents.append(value)
    total, rest = int(np.prod([size or 0 for size in sizes])), int(np.prod([n for n in extents if n != -1]))
    if rest == 0 or (extents.count(-1) == 1 and total % rest) or extents.count(-1) > 1:
        return None
    return [total // rest if item == -1 else item for item in extents]


# [B, 1, H] to [4, 24, 16] -> [B, S, 16], where a reader shows that 24 is S.
def _expand(inference: BakedInference, node: onnx.NodeProto, shapes: Sequence[list[Any]]) -> Refusal | None:
    target, source, output = _asked(inference, node), shapes[0], node.output[0]
    if target is None:
        return because("its result has a shape that is not known")
    rank = max(len(target), len(source))
    own = [1] * (rank - len(source)) + source
    asked = [1] * (rank - len(target)) + target
    extents: list[Any] = []
    refusals: list[Refusal] = []
    for axis, (extent, item) in enumerate(zip(own, asked, strict=True)):
        if mentions_tokens(extent):
            if item not in (1, extent, inference.size(extent)):
                refusals.append(because(f"spreads {extent} to {item}"))
                inference.note_room(extent, item)
            extents.append(extent)
        else:
            extents.append(inference.findings.grown.get((output, axis), item))
    if any(mentions_tokens(extent) and extent != item for extent, item in zip(extents, asked, strict=True)):
        inference.lend(inference.contents, node.input[1], extents)
        inference.findings.targets[output] = [
            1 if mentions_tokens(before) else extent for before, extent in zip(own, extents, strict=True)
        ]
    return first_refusal(refusals)


# [B, 1, H] times [1, 24, 1] -> [B, S, H], where a reader shows that 24 is S.
def _tile(inference: BakedInference, node: onnx.NodeProto, shapes: Sequence[list[Any]]) -> Refusal | None:
    asked, source, output = inference.constant(node, 1), shapes[0], node.output[0]
    grown = {axis: extent for (name, axis), extent in inference.findings.grown.items() if name == output}
    if asked is None or not grown:
        return None
    repeats = [grown.get(axis, item) for axis, item in enumerate(asked)]
    inference.lend(inference.contents, node.input[1], repeats)
    inference.findings.targets[output] = repeats
    more_than_one = any(source[axis] != 1 for axis in grown)
    return because("repeats an axis that is more than one") if more_than_one else None


# [B, h, S, S] @ [B, h, S, d] -> [B, h, S, d]. [B, S] @ [24, H] takes S and 24 for the same: a problem.
def _matmul(inference: BakedInference, node: onnx.NodeProto, shapes: Sequence[list[Any]]) -> Refusal | None:
    left, right = shapes
    refusal = inference.align(node, shapes, 2) if len(left) > 1 and len(right) > 1 else None
    summed = [left[-1], right[-2] if len(right) > 1 else right[-1]]
    if summed[0] == SEQ and isinstance(summed[1], int) and node.input[1] not in inference.dependent:
        return because(
            "multiplies axis 1 of the inputs by a constant matrix: it holds features, not the sequence", Cause.SAMPLES
        )
    if refusal is None and any(map(mentions_tokens, summed)) and summed[0] != summed[1]:
        return because(f"sums over {summed[0]} and {summed[1]} as the same extent")
    return refusal


# [B, H, S] with a kernel [K, H, 3] -> [B, K, S]. [B, 80, T] with a kernel [K, 80, 3]: axis 1 is no sequence.
def _convolution(inference: BakedInference, node: onnx.NodeProto, shapes: Sequence[list[Any]]) -> Refusal | None:
    if len(shapes[0]) > 1 and shapes[0][1] == SEQ and node.input[1] not in inference.dependent:
        return because("convolves axis 1 of the inputs as channels: it holds features, not the sequence", Cause.SAMPLES)
    return None


# [B, S, H], [1, 24, K] on axis 2 -> [B, S, H + K], the constant cut to S.
def _concat(inference: BakedInference, node: onnx.NodeProto, shapes: Sequence[list[Any]]) -> Refusal | None:
    rank = len(shapes[0])
    refusals: list[Refusal | None] = []
    joined = int(attribute(node, "axis") or 0) % rank
    for axis in range(rank):
        symbolic = {shape[axis] for shape in shapes if mentions_tokens(shape[axis])}
        if axis == joined or not symbolic:
            continue
        if len(symbolic) > 1 or any(shape[axis] == 1 for shape in shapes):
            refusals.append(because("joins tensors of different extents"))
            continue
        for index, shape in enumerate(shapes):
            if isinstance(shape[axis], int) and next(iter(symbolic)) == BATCH:
                refusals.append(because(f"joins {node.input[index]!r}, whose batch is a number"))
            elif isinstance(shape[axis], int):
                refusals.append(inference.meet(node, index, axis, shape[axis], next(iter(symbolic))))
    return first_refusal(refusals)


# [B, S, H] from 0 to 24 on axis 1 -> [B, S, H], the whole axis. From 0 to 5 it cuts S: a problem.
def _slice(inference: BakedInference, node: onnx.NodeProto, shapes: Sequence[list[Any]]) -> Refusal | None:
    places = [inference.constant(node, index) for index in range(1, len(node.input))]
    if len(places) < 2 or places[0] is None or places[1] is None:
        return None
    starts, ends = places[0], list(places[1])
    cut = places[2] if len(places) > 2 and places[2] is not None else list(range(len(starts)))
    steps = places[3] if len(places) > 3 and places[3] is not None else [1] * len(starts)
    changed = False
    refusals: list[Refusal] = []
    for number, (start, end, axis, step) in enumerate(zip(starts, ends, cut, steps, strict=True)):
        extent = shapes[0][axis]
        size = inference.size(extent) if mentions_tokens(extent) else None
        if size is None or end < 0 or end >= INT_MAX or (start, end) == (0, 1):
            continue
        if end >= size and step > 0 and (start <= 1 or start < 0):
            ends[number], changed = INT_MAX, True
        else:
            refusals.append(because(f"cuts {extent} at {start}:{end}"))
    if changed:
        inference.lend(inference.contents, node.input[2], ends)
        inference.findings.whole[node.output[0]] = ends
    return first_refusal(refusals)


# [B, S, H] at 0 on axis 1 -> [B, H]. At 23, which may be the last place, a problem.
def _gather(inference: BakedInference, node: onnx.NodeProto, shapes: Sequence[list[Any]]) -> Refusal | None:
    axis = int(attribute(node, "axis") or 0)
    if not shapes[0] or not mentions_tokens(shapes[0][axis]):
        return None
    places = inference.constant(node, 1)
    if places is None or any(place > 0 for place in places):
        return because(f"takes chosen places of {shapes[0][axis]}")
    return None


# [B, S, 2 * H] on axis 2 -> [B, S, H], [B, S, H]. On axis 1 it splits S: a problem.
def _split(inference: BakedInference, node: onnx.NodeProto, shapes: Sequence[list[Any]]) -> Refusal | None:
    extent = shapes[0][int(attribute(node, "axis") or 0)]
    return because(f"splits {extent}") if mentions_tokens(extent) else None


# [B, S, 1] without axis 2 -> [B, S]. Without axis 0, where B was fixed to 1, a problem.
def _squeeze(inference: BakedInference, node: onnx.NodeProto, shapes: Sequence[list[Any]]) -> Refusal | None:
    axes = attribute(node, "axes") or inference.constant(node, 1)
    dropped = range(len(shapes[0])) if axes is None else axes
    if any(mentions_tokens(shapes[0][axis]) and inference.size(shapes[0][axis]) == 1 for axis in dropped):
        return because("drops the batch or the sequence, whose extent is 1")
    return None


# [B, S, H] at axis 2 -> [B * S, H], a product whose parts stay known.
def _flatten(inference: BakedInference, node: onnx.NodeProto, shapes: Sequence[list[Any]]) -> Refusal | None:
    axis = attribute(node, "axis")
    for part in (shapes[0][: 1 if axis is None else axis], shapes[0][1 if axis is None else axis :]):
        inference.orders.merge(tuple(atom for extent in part for atom in inference.orders.atoms(extent)))
    return None


def _plain(value: Any) -> Any:
    """A number as an int; an extent as it is."""
    number = sympy.sympify(value)
    return int(number) if number.is_Integer else number


def _target(source: Sequence[Any], extents: Sequence[Any]) -> list[Any]:
    """A Reshape's target: 0 where an axis stays, -1 where one other extent is no number."""
    target = [
        0 if axis < len(source) and mentions_tokens(extent) and extent == source[axis] else extent
        for axis, extent in enumerate(extents)
    ]
    symbolic = [axis for axis, extent in enumerate(target) if mentions_tokens(extent)]
    if len(symbolic) == 1:
        target[symbolic[0]] = -1
    return target


#: Rules by operator type; each takes the inference, the node, and the extents of its inputs.
RULES: dict[str, Callable[[BakedInference, onnx.NodeProto, Sequence[list[Any]]], Refusal | None]] = {
    "Concat": _concat,
    "Conv": _convolution,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
}

"""Lengths in place of a mask: an input [batch] that is compared with the places of the sequence, and so makes a mask.

    places [1, L] < lengths [n, 1]  ->  is a token [n, L]

The pack knows where its tokens stand, so nobody has to give their number. The comparison becomes the tokens' places
themselves, which Unpack brings with zeros behind each sample; what else reads the lengths gets the sum of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.building import add_node
from passes.cleanup.rewiring import replace_uses
from passes.errors import PackingError
from passes.operators import KEEPS_VALUES
from passes.packing.across_rows.counted_places import counts_tokens
from passes.packing.opening.geometry import Geometry
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap
from passes.packing.tokens.positional import Positional
from passes.packing.tokens.presence import add_placed, laid_along, token_numbers
from passes.packing.tokens.sides import PlacedGraph
from passes.packing.tokens.subsampling import WHOLE, Subsampling
from passes.refusal import RefusedError
from passes.shapes.symbolic import Shape

_COMPARISONS = {
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
}
_SAME_VALUE = KEEPS_VALUES | {"Squeeze", "Unsqueeze", "Reshape", "Expand"}
#: Numbers of tokens that are not those of the sample: a prefix that attention treats in another way, and the like.
_OTHER_COUNTS = ("prefix", "prompt", "question", "query", "context", "past", "memory", "target", "label")
#: Lengths that a comparison is tried with; the first is the longest of its run.
_TRIED = ((7, 4, 1), (9, 2, 9))

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Lengths:
    """What became of the lengths.

    Attributes:
        geometry: without them.
        name: of the input that the graph no longer has; "" where there was none.
        masks: names of tensors [batch, seq] that mask in its place.
    """

    geometry: Geometry
    name: str = ""
    masks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Mask:
    """A comparison that tells tokens from padding: true at tokens, or at padding where it is ``turned``."""

    node: gs.Node
    turned: bool


def count_lengths(
    placed: PlacedGraph,
    geometry: Geometry,
    masks: Sequence[str],
    counted: Sequence[str],
    handed: Subsampling = WHOLE,
) -> Lengths:
    """Compute the lengths of the samples from the pack, and take their input away.

    Args:
        placed: the graph before it is rewritten.
        geometry: its inputs.
        masks: inputs that mask. Where there are some, lengths must be called so too.
        counted: inputs whose largest value is taken for the extent of the sequence already.
        handed: the places that a front end leaves of the tokens; lengths may tell those apart from padding.

    Raises:
        PackingError: one of ``counted`` holds no lengths.
    """
    candidates = {}
    for tensor in geometry.samples:
        may_count = _may_count(tensor, bool(masks))
        comparisons = _masks_of(placed, tensor) if may_count else []
        behind = may_count and handed != WHOLE and counts_tokens(placed.graph, placed.axes, tensor, handed)
        if comparisons or behind:
            candidates[tensor.name] = comparisons
    unclear = next((name for name in counted if list(candidates) != [name]), None)
    if unclear is not None:
        raise PackingError(
            f"input {unclear!r} decides how far the model counts, and is not shown to be the lengths of the samples: "
            "it would have to be compared with each place of the sequence; export the model with an attention mask"
        )
    if len(candidates) != 1:
        return Lengths(geometry)  # where there are two, a caller has to give both
    (name, comparisons), anchor = *candidates.items(), narrowest(geometry)
    tensor = next(item for item in geometry.samples if item.name == name)
    numbers = token_numbers(placed, anchor, f"{name}_token_numbers")
    for comparison in comparisons:
        _put_tokens_in(placed, comparison, numbers)
    if tensor.outputs:
        replace_uses(tensor, _sum_of_tokens(placed, numbers, tensor))
    placed.graph.inputs = [item for item in placed.graph.inputs if item is not tensor]
    placed.graph.toposort(mode="nodes")
    rest = tuple(item for item in geometry.samples if item is not tensor)
    return Lengths(replace(geometry, samples=rest), name, (numbers.name,))


def narrowest(geometry: Geometry) -> gs.Variable:
    """The packed input of the fewest axes."""
    return min(geometry.inputs, key=lambda tensor: len(tensor.shape))


def _may_count(tensor: gs.Variable, masked: bool) -> bool:
    whole = not isinstance(tensor.dtype, int) and bool(np.issubdtype(tensor.dtype, np.integer))
    name = tensor.name.lower()
    return (
        whole
        and list(tensor.shape[1:]) in ([], [1])
        and not any(word in name for word in _OTHER_COUNTS)
        and ("len" in name or not masked)
    )


def _masks_of(placed: PlacedGraph, tensor: gs.Tensor) -> list[_Mask]:
    positional = Positional(placed.graph, placed.axes)
    tried = [(_turned(node, index, placed.axes, positional), node) for node, index in _compared(tensor)]
    return [_Mask(node, turned) for turned, node in tried if turned is not None]


def _compared(tensor: gs.Tensor) -> Iterator[tuple[gs.Node, int]]:
    """The comparisons of what ``tensor`` holds, and which of their inputs it is."""
    for node in {id(node): node for node in tensor.outputs}.values():
        if node.op in _COMPARISONS:
            yield node, next(index for index, operand in enumerate(node.inputs) if operand is tensor)
        elif node.op in _SAME_VALUE and node.inputs[0] is tensor:
            yield from _compared(node.outputs[0])


def _turned(node: gs.Node, index: int, axes: AxisMap, positional: Positional) -> bool | None:
    """Whether a comparison with lengths is true at padding instead of at tokens; None where it tells something else."""
    places, shape, own = node.inputs[1 - index], axes.shape(node.outputs[0]), axes.shape(node.inputs[index])
    if places not in positional or shape is None or own is None:
        return None
    if sorted(map(str, shape)) != sorted(map(str, [BATCH, SEQ, *[1] * (len(shape) - 2)])):
        return None
    answers = set()
    for lengths in _TRIED:
        seq, batch = max(lengths), len(lengths)
        try:
            operands = [np.asarray(positional.value(places, seq, batch)), _laid_out(lengths, own)]
        except RefusedError:
            return None
        result = _COMPARISONS[node.op](*(operands[::-1] if index == 0 else operands))
        is_token = np.arange(seq) < np.array(lengths)[:, None]
        if shape.index(BATCH) > shape.index(SEQ):
            is_token = is_token.T
        flat = np.broadcast_to(result, [{BATCH: batch, SEQ: seq}.get(extent, 1) for extent in shape]).reshape(-1)
        answers.add(next((turned for turned in (False, True) if (flat == (is_token.reshape(-1) ^ turned)).all()), None))
    return answers.pop() if len(answers) == 1 else None


def _laid_out(lengths: Sequence[int], shape: Shape) -> Array:
    """Lengths in a tensor of this symbolic shape; it may repeat them along the sequence."""
    rows = np.array(lengths).reshape([-1 if extent == BATCH else 1 for extent in shape])
    return np.broadcast_to(rows, [{BATCH: len(lengths), SEQ: max(lengths)}.get(extent, extent) for extent in shape])


def _put_tokens_in(placed: PlacedGraph, mask: _Mask, numbers: gs.Tensor) -> None:
    """Let the result of a comparison be the places of the tokens."""
    result = mask.node.outputs[0]
    shape, name = placed.axes.require_shape(result), f"{result.name}_tokens"
    placed.placement.packed.discard(id(mask.node))
    mask.node.inputs.clear()
    mask.node.outputs.clear()
    placed.graph.nodes.remove(mask.node)
    present = add_placed(placed, "Cast", f"{name}_present", [numbers], np.bool_, (BATCH, SEQ), to=onnx.TensorProto.BOOL)
    laid = laid_along(placed, present, name, shape.index(BATCH), shape.index(SEQ), len(shape))
    add_node(placed.graph.nodes, "Not" if mask.turned else "Identity", f"{name}_mask", [laid], into=result)


def _sum_of_tokens(placed: PlacedGraph, numbers: gs.Tensor, like: gs.Variable) -> gs.Tensor:
    """The lengths in the type and rank of the input that held them: [n] or [n, 1]."""
    keep, name = len(like.shape) - 1, f"{like.name}_counted"
    shape = (BATCH, *(1 for _ in range(keep)))
    axis = gs.Constant(f"{name}_axis", np.array([1], np.int64))
    count = add_placed(placed, "ReduceSum", f"{name}_int32", [numbers, axis], np.int32, shape, keepdims=keep)
    to = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(like.dtype))
    return add_placed(placed, "Cast", name, [count], like.dtype, shape, to=to)

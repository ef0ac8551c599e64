"""Which operands of a token's arithmetic can be read token by token."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.packing.tokens.axes import AxisMap, TokenAxes, is_known, mentions_tokens, show
from passes.refusal import Refusal, because
from passes.shapes.symbolic import Shape


def is_liftable(tensor: gs.Tensor, axes: AxisMap, like: gs.Tensor) -> bool:
    """Whether ``tensor`` broadcasts over the tokens of ``like``, so that Expand brings it to them (positions)."""
    shape, target = axes.shape(tensor), axes.shape(like)
    token = axes.axes(like)
    if shape is None or target is None or token is None or token.flat or len(shape) > len(target):
        return False
    padded: Shape = (1,) * (len(target) - len(shape)) + shape
    for axis, (extent, target_extent) in enumerate(zip(padded, target, strict=True)):
        if axis in token.positions:
            if extent not in (1, target_extent):
                return False
        elif not is_known(extent):
            return False
    # One with both token axes carries tokens; where it is not known to, they lie in another order.
    return sum(mentions_tokens(extent) for extent in shape) == 1


def refuse_operand(tensor: gs.Tensor, output: gs.Tensor, axes: AxisMap) -> Refusal | None:
    """Why an operand that broadcasts to ``output`` cannot be read token by token; None when it can."""
    token = axes.axes(output)
    out_shape, shape = axes.shape(output), axes.shape(tensor)
    if token is None or out_shape is None or shape is None:
        return because(f"the rank of {tensor.name!r} is unknown")
    own = axes.axes(tensor)
    shift = len(out_shape) - len(shape)
    if own is not None:
        if TokenAxes(own.batch + shift, own.seq + shift) == token:
            return None
        return because(
            f"{tensor.name!r} {show(shape)} keeps its tokens in other axes than the result {show(out_shape)}"
        )
    at_tokens = [shape[axis - shift] for axis in token.positions if axis >= shift]
    if all(extent == 1 for extent in at_tokens):
        if axes.is_free(tensor) or axes.is_uniform(tensor):
            return None
    elif not axes.is_free(tensor) and is_liftable(tensor, axes, output):
        return None
    return because(f"{tensor.name!r} {show(shape)} differs from sample to sample or place to place")

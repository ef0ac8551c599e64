"""Rules of operators that see a few places, or all places so far: convolutions, pools, recurrences.

Conv, kernel 3, pads 1, on [n, H, L]: the place after the last is zero in a run alone; so it is here if padding is.
Without pads at the end, whatever the stride, a window of the sample never reaches over its end.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.packing.isolation import values as v
from passes.packing.isolation.facts import Facts, facts_of
from passes.packing.isolation.proof import View
from passes.packing.isolation.reductions import check_batch
from passes.packing.isolation.table import rule
from passes.refusal import Cause, refused
from passes.shapes.symbolic import Shape


# [n, H, L], kernel 3, pads 1 -> [n, K, L]: proved where padding is zero. Stride 2, no pads -> [n, K, L / 2]: proved.
@rule("Conv", "AveragePool", "LpPool")
def _convolution(view: View) -> Facts:
    tensor = view.node.inputs[0]
    if view.packed:
        return Facts()
    _check_window(view)
    facts = view.facts(tensor)
    for axis in view.seq(tensor):
        if _reaches_over_the_end(view, axis) and not facts.at(axis).is_zero:
            raise refused("it reaches over the end of a sample into padding", Cause.PADDING)
        if view.node.op == "AveragePool" and _reaches_over_the_end(view, axis) and not _counts_pads(view):
            raise refused("it averages over as many places as there are, and padding counts as one", Cause.PADDING)
    padded = v.ORDINARY if facts.anywhere.is_finite else v.UNKNOWN
    return facts_of(v.NUMBER, view.seq(view.node.outputs[0]), padded)


# [n, H, L], kernel 3, pads 1 -> [n, H, L]: proved where padding is below every real value, or no pads stand behind.
@rule("MaxPool")
def _max_pool(view: View) -> list[Facts]:
    tensor = view.node.inputs[0]
    if view.packed:
        return [Facts() for _ in view.node.outputs]
    _check_window(view)
    facts = view.facts(tensor)
    for axis in view.seq(tensor):
        if _reaches_over_the_end(view, axis) and not facts.at(axis).is_below(v.LOWEST_VALUE):
            raise refused("it reaches over the end of a sample into padding", Cause.PADDING)
    return [facts_of(facts.real, view.seq(output), facts.anywhere) for output in view.node.outputs]


def _check_window(view: View) -> None:
    """Raise unless samples and channels are the first two axes and each result stands where it would alone."""
    tensor = view.node.inputs[0]
    check_batch(view, tensor, range(1, view.rank(tensor)), "reaches")
    if 1 in view.seq(tensor):
        raise refused("its channels are the places of a sample, padding and all", Cause.PADDING)
    strides = view.node.attrs.get("strides", [1] * (view.rank(tensor) - 2))
    for axis in view.seq(tensor):
        if axis < 1:
            raise refused("its batch axis is not the samples alone", Cause.SAMPLES)
        if _auto_pad(view) not in ("NOTSET", "VALID") and strides[axis - 2] != 1:
            raise refused("its pads depend on the length", Cause.PADDING)
        if _auto_pad(view) not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            raise refused("its padding is not known", Cause.PADDING)
        if view.node.attrs.get("ceil_mode", 0):
            raise refused("it rounds the number of its places up", Cause.PADDING)


def _auto_pad(view: View) -> str:
    return str(view.node.attrs.get("auto_pad", "NOTSET"))


def _reaches_over_the_end(view: View, axis: int) -> bool:
    return reaches_over_the_end(view.node, axis, view.shape(view.node.inputs[1]) if view.node.op == "Conv" else ())


def reaches_over_the_end(node: gs.Node, axis: int, weight: Shape) -> bool:
    """Whether the window of a sample's last place reads places behind it, which are zeros in a run alone.

    The last of floor((L + begin + end - reach) / stride) + 1 windows ends at place L + end - 1 or before.

    Args:
        node: a convolution or a pool.
        axis: of its first input [n, channels, ...].
        weight: shape of the weight, where there is one.
    """
    kernel = node.attrs.get("kernel_shape", weight[2:])
    if int(kernel[axis - 2]) == 1:
        return False
    pads = node.attrs.get("pads", [0] * 2 * len(kernel))
    auto_pad = str(node.attrs.get("auto_pad", "NOTSET"))
    return {"NOTSET": int(pads[len(kernel) + axis - 2]) > 0, "VALID": False}.get(auto_pad, True)


def _counts_pads(view: View) -> bool:
    return bool(view.node.attrs.get("count_include_pad", 0))


# [L, n, H] -> [L, 1, n, K], every state, forward: proved. The last state comes after the padding.
@rule("LSTM", "GRU", "RNN")
def _recurrence(view: View) -> list[Facts]:
    """X [L, n, H] (or [n, L, H]) -> Y, every state, and the last ones, which come after the padding."""
    tensor = view.node.inputs[0]
    by_batch = bool(view.node.attrs.get("layout", 0))
    seq_axis, batch_axis = (1, 0) if by_batch else (0, 1)
    if not set(view.batch(tensor)) <= {batch_axis}:
        raise refused("it runs along the samples of a batch", Cause.SAMPLES)
    if view.seq(tensor) != (seq_axis,):
        if view.seq(tensor):
            raise refused("its features are the places of a sample", Cause.PADDING)
        return [Facts() for _ in view.node.outputs]
    if str(view.node.attrs.get("direction", "forward")) != "forward":
        raise refused("it runs from the end of the row, where padding is", Cause.PADDING)
    if any(output.outputs or output in view.graph_outputs for output in view.node.outputs[1:] if output.name):
        raise refused("its last state comes after the padding", Cause.PADDING)
    finite = view.facts(tensor).anywhere.is_finite
    return [
        facts_of(v.NUMBER, view.seq(output) if output.name else (), v.ORDINARY if finite else v.UNKNOWN)
        for output in view.node.outputs
    ]

"""A layer norm that is spelled out, as one node."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.arithmetic import LARGEST_CONSTANT, agrees, evaluate, has_type_of, rank_of, scalar, variables
from passes.cleanup.rewiring import is_op
from passes.node_values import axes_argument
from passes.refusal import refused
from passes.registry import register
from passes.rewriting import Array, NodeRewrite, Site

_SINCE = 17
#: Points at which chains are compared, [points, 1]: what is normalised, its mean, and its standard deviation.
_X, _MEAN, _DEVIATION = (np.random.default_rng(seed).uniform(0.5, 2, (24, 1)) for seed in range(3))


@register("layer_norm_pattern")
class LayerNormPattern(NodeRewrite):
    """Replaces (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * scale + shift by LayerNormalization.

    ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, Mul, Add of [B, S, H] -> LayerNormalization of [B, S, H] with
    scale and shift [H]. The factors may stand in any order and association, also as x * (scale / deviation) + (shift -
    mean * scale / deviation), and scale and shift may be left out. Mean and variance are over the last axis.

    Leaves alone, with a reason: means over other axes, a scale or a shift that is computed, an intermediate result
    that something else reads, and models below opset 17, which have no such operator. Local functions are left alone.
    """

    operators = ("Sqrt",)
    what = "layer norms fused"
    typed = True

    def rewrite(self, node: gs.Node, site: Site) -> None:
        """Fuse; see the class."""
        if site.opset < _SINCE:
            raise refused(f"LayerNormalization needs opset {_SINCE}, the model has {site.opset} (convert_version)")
        variance, epsilon = _variance_and_epsilon(node)
        x, mean = _normalised(variance)
        last, scale, shift = _affine(node, x, mean, site)
        x = x if has_type_of(x, last.outputs[0]) else _source(x)
        dtype = x.dtype if x.dtype is not None else np.float32
        make = site.builder(last)
        inputs = [x, make.constant("scale", scale, dtype)]
        if shift.any():
            inputs.append(make.constant("shift", shift, dtype))
        make.add("LayerNormalization", "normalised", inputs, into=site.release(last), axis=-1, epsilon=epsilon)


def _variance_and_epsilon(root: gs.Node) -> tuple[gs.Node, float]:
    """The ReduceMean and the number whose sum ``root`` draws the root of."""
    added = root.inputs[0].inputs[0] if root.inputs[0].inputs else None
    if added is not None and added.op == "Add":
        for tensor, other in (added.inputs, reversed(added.inputs)):
            epsilon = scalar(other, rank_of(tensor))
            if epsilon is not None and tensor.inputs and tensor.inputs[0].op == "ReduceMean":
                return tensor.inputs[0], epsilon
    raise refused("it draws no root of a variance and an epsilon")


def _normalised(variance: gs.Node) -> tuple[gs.Tensor, gs.Tensor]:
    """x and its mean, where ``variance`` is the mean of (x - mean)^2."""
    squared = variance.inputs[0]
    for mean in variables(squared):
        node = mean.inputs[0] if mean.inputs else None
        if node is None or node.op != "ReduceMean":
            continue
        x = node.inputs[0]
        if agrees(evaluate(squared, {id(x): _X, id(mean): _MEAN}, 1), (_X - _MEAN) ** 2):
            if all(_is_over_last_axis(each, rank_of(x)) for each in (variance, node)):
                return x, mean
            raise refused("its mean and variance are not over the last axis, or drop it")
    raise refused("what it draws the root of is no variance")


def _is_over_last_axis(mean: gs.Node, rank: int | None) -> bool:
    last = [-1] if rank is None else [rank - 1]
    return bool(mean.attrs.get("keepdims", 1)) and axes_argument(mean) in ([-1], last)


def _affine(root: gs.Node, x: gs.Tensor, mean: gs.Tensor, site: Site) -> tuple[gs.Node, Array, Array]:
    """The last node of scale * (x - mean) / root + shift, and scale and shift, both [H]."""
    deviation = root.outputs[0]
    fitting: tuple[gs.Node, Array, Array] | None = None
    for end in site.ends(deviation):
        parameters = _parameters(end.outputs[0], x, mean, deviation)
        if parameters is not None and any(has_type_of(t, end.outputs[0]) for t in (x, _source(x))):
            fitting = end, *parameters
    if fitting is None:
        raise refused("what follows is not (x - mean) / deviation, or something else reads a part of it")
    last, scale, shift = fitting
    extent = x.shape[-1] if x.shape else None
    width = extent if isinstance(extent, int) and extent > 0 else max(scale.size, shift.size)
    if width == 1 and extent != 1:
        raise refused(f"it has no scale, and how many elements {x.name!r} has along its last axis is not known")
    if {scale.size, shift.size} - {1, width}:
        raise refused(f"its scale and shift have another length than the last axis of {x.name!r}, {width}")
    return last, np.broadcast_to(scale, width), np.broadcast_to(shift, width)


def _source(x: gs.Tensor) -> gs.Tensor:
    """What is cast to ``x``; itself where nothing is."""
    return x.inputs[0].inputs[0] if x.inputs and is_op(x.inputs[0], "Cast") else x


def _parameters(tensor: gs.Tensor, x: gs.Tensor, mean: gs.Tensor, deviation: gs.Tensor) -> tuple[Array, Array] | None:
    """scale and shift, each [H] or [1], where ``tensor`` is scale * (x - mean) / deviation + shift."""

    def at(*points: Array) -> Array | None:
        values = dict(zip((id(x), id(mean), id(deviation)), points, strict=True))
        return evaluate(tensor, {**values, id(_source(x)): points[0]}, LARGEST_CONSTANT)

    zero, one = np.zeros((1, 1)), np.ones((1, 1))
    shift, sum_of_both = at(zero, zero, one), at(one, zero, one)
    if shift is None or sum_of_both is None or sum_of_both.size != sum_of_both.shape[-1]:
        return None
    scale = (sum_of_both - shift).reshape(-1)
    shift = shift.reshape(-1)
    formula = scale * (_X - _MEAN) / _DEVIATION + shift
    values = at(_X, _MEAN, _DEVIATION)
    rank = rank_of(x)
    if values is None or values.ndim > max(2, 2 if rank is None else rank) or values.size != formula.size:
        return None
    return (scale, shift) if np.allclose(values.reshape(formula.shape), formula, 1e-7, 1e-9) else None

"""Bodies of random encoders: layers that look along the sequence, with a mask, a wrong one, or none.

Each takes and gives [batch, sequence, hidden].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.isolation.encoder import (
    BHS,
    BOOL,
    FLOAT,
    HEAD_SIZE,
    HEADS,
    HIDDEN,
    INT64,
    LOWEST,
    POSITIONS,
    Encoder,
)

_LOW = (-1e4, -1e9, LOWEST, -1e4, -float("inf"))
Body = Callable[[Encoder, str], str]
Mask = Callable[[Encoder, str], str]


def _keys(g: Encoder, per_token: str) -> str:
    """[batch, sequence] to [batch, 1, 1, sequence]."""
    if g.maybe(0.5):
        return g.unsqueeze(per_token, 1, 2)
    return g.unsqueeze(g.unsqueeze(per_token, 1), 1)


def _pairs(g: Encoder) -> str:
    """1 where query and key are both the sample's own, float [batch, 1, sequence, sequence]."""
    keep = g.keep()
    pair = g.node("Mul", g.unsqueeze(keep, 1), g.unsqueeze(keep, 2))
    return g.unsqueeze(pair, 1)


def _causal(g: Encoder, low: float) -> str:
    """0 up to the query's own place, ``low`` after it, [sequence, sequence]."""
    table = np.triu(np.full((POSITIONS, POSITIONS), low, np.float32), 1)
    name = g.weight(f"weight_{len(g._weights)}", table)
    length = g.length()
    return g.node("Slice", name, g.ints(0, 0), g.node("Concat", length, length, axis=0), g.ints(0, 1))


def _add(g: Encoder, scores: str) -> str:
    return g.node("Add", scores, _keys(g, g.drop(g.pick(_LOW[:4]))))


def _where(g: Encoder, scores: str) -> str:
    low = g.constant(g.pick(_LOW))
    if g.maybe(0.5):
        return g.node("Where", _keys(g, g.truth()), scores, low)
    return g.node("Where", _keys(g, g.node("Not", g.truth())), low, scores)


def _pairwise(g: Encoder, scores: str) -> str:
    pairs = _pairs(g)
    if g.maybe(0.5):
        return g.node("Where", g.cast(pairs, BOOL), scores, g.constant(g.pick((-1e4, -1e9))))
    return g.node("Add", scores, g.node("Mul", g.node("Sub", g.constant(1.0), pairs), g.constant(-1e4)))


def _causal_and_mask(g: Encoder, scores: str) -> str:
    return _add(g, g.node("Add", scores, _causal(g, -1e4)))


#: What is done to scores [batch, heads, sequence, sequence] before the softmax.
_MASKS: dict[str, Mask] = {
    "added": _add,
    "selected": _where,
    "pairs": _pairwise,
    "causal and added": _causal_and_mask,
    "causal": lambda g, scores: g.node("Add", scores, _causal(g, -1e9)),
    "multiplied": lambda g, scores: g.node("Mul", scores, _keys(g, g.keep())),
    "minimum": lambda g, scores: g.node("Min", scores, _keys(g, g.drop(-1e9))),
    "weakly added": lambda g, scores: g.node("Add", scores, _keys(g, g.drop(-3.0))),
    "on the queries": lambda g, scores: g.node("Add", scores, g.unsqueeze(g.unsqueeze(g.drop(-1e4), 1), 3)),
    "none": lambda g, scores: scores,
    "upside down": lambda g, scores: g.node("Sub", scores, _keys(g, g.drop(-1e4))),
}
_RIGHT = ("added", "selected", "pairs", "causal and added")


def _heads(g: Encoder, x: str, *order: int) -> str:
    split = g.reshape(g.linear(x), 0, -1, HEADS, HEAD_SIZE)
    return g.transpose(split, *order)


def _weights(g: Encoder, scores: str) -> str:
    """What comes after the mask: a softmax, or something in its place."""
    way = 3 if g.sound else g.rng.integers(10)
    if way == 0:  # weights that the mask multiplies afterwards
        return g.node("Mul", g.node("Softmax", scores, axis=-1), _keys(g, g.keep()))
    if way == 1:
        return g.node("Sigmoid", scores)
    if way == 2:
        weights = g.node("Exp", g.node("Sub", scores, g.reduce_axes("ReduceMax", scores, [-1], keepdims=True)))
        return g.node("Div", weights, g.reduce_axes("ReduceSum", weights, [-1], keepdims=True))
    return g.node("Softmax", scores, axis=-1)


def attention(g: Encoder, x: str) -> str:
    """Attention in some spelling, with some mask."""
    name = g.pick(_RIGHT) if g.sound or g.maybe(0.6) else g.pick(list(_MASKS))
    g.story.append(f"attention: {name}")
    scale = g.constant(HEAD_SIZE**-0.5)
    query, value = _heads(g, x, 0, 2, 1, 3), _heads(g, x, 0, 2, 1, 3)
    if g.maybe(0.3):
        key = _heads(g, x, 0, 2, 1, 3)
        scores = g.node("Einsum", query, key, equation="bhqd,bhkd->bhqk")
    else:
        scores = g.node("MatMul", query, _heads(g, x, 0, 2, 3, 1))
    if g.maybe(0.3):  # masked, then scaled
        scores = g.node("Mul", _MASKS[name](g, scores), scale)
    else:
        scores = _MASKS[name](g, g.node("Mul", scores, scale))
    weights = _weights(g, scores)
    if g.maybe(0.3):
        context = g.node("Einsum", weights, value, equation="bhqk,bhkd->bqhd")
    else:
        context = g.transpose(g.node("MatMul", weights, value), 0, 2, 1, 3)
    return g.linear(g.reshape(context, 0, -1, HIDDEN))


def fused_attention(g: Encoder, x: str) -> str:
    """onnxruntime's operators for attention."""
    mask = g.cast(g.keep(), 6)  # int32 [batch, sequence]
    masked = g.sound or g.maybe(0.8)
    if g.maybe(0.5):
        g.story.append(f"com.microsoft Attention, {'masked' if masked else 'no mask'}")
        inputs = [x, g.matrix(HIDDEN, 3 * HIDDEN), g.matrix(3 * HIDDEN, scale=0.5), *([mask] if masked else [])]
        return g.node("Attention", *inputs, domain="com.microsoft", num_heads=HEADS)
    g.story.append(f"MultiHeadAttention, {'masked' if masked else 'no mask'}")
    inputs = [g.linear(x), g.linear(x), g.linear(x), "", *([mask] if masked else [])]
    return g.node("MultiHeadAttention", *inputs, domain="com.microsoft", num_heads=HEADS)


def linear_attention(g: Encoder, x: str) -> str:
    """(keys transposed times values) first: sums over the sequence, masked or not."""
    masked = g.pick(("keys", "keys and values", "none"))
    g.story.append(f"linear attention: {masked}")
    query, key, value = (g.linear(x) for _ in range(3))
    key = g.node("Add", g.node("Elu", key), g.constant(1.0))
    if masked != "none":
        key = g.node("Mul", key, g.unsqueeze(g.keep(), 2))
    if masked == "keys and values":
        value = g.node("Mul", value, g.unsqueeze(g.keep(), 2))
    return g.node("MatMul", query, g.node("MatMul", g.transpose(key, 0, 2, 1), value))


def convolution(g: Encoder, x: str) -> str:
    """A convolution over places, of kernel 1, 3 or 5."""
    kernel = g.pick((1, 3, 5))
    masked = g.maybe(0.5)
    g.story.append(f"conv {kernel}{', masked' if masked else ''}")
    if masked:
        x = g.node("Mul", x, g.unsqueeze(g.keep(), 2))
    group = g.pick((1, HIDDEN))
    pads = [kernel - 1, 0] if g.maybe(0.2) else [kernel // 2] * 2
    inputs = [g.transpose(x, 0, 2, 1), g.matrix(HIDDEN, HIDDEN // group, kernel, scale=0.3)]
    if g.maybe(0.5):
        inputs.append(g.matrix(HIDDEN, scale=0.5))
    return g.transpose(g.node("Conv", *inputs, group=group, pads=pads), 0, 2, 1)


def recurrent(g: Encoder, x: str) -> str:
    """A recurrent layer, forward or in both directions, which knows the length or does not."""
    op, gates = g.pick((("GRU", 3), ("LSTM", 4), ("RNN", 1)))
    direction, ways = g.pick((("forward", 1), ("bidirectional", 2), ("reverse", 1)))
    lengths = g.maybe(0.3)
    g.story.append(f"{op} {direction}{' with lengths' if lengths else ''}")
    size = HIDDEN // ways
    inputs = [g.transpose(x, 1, 0, 2), g.matrix(ways, gates * size, HIDDEN, scale=0.4)]
    inputs.append(g.matrix(ways, gates * size, size, scale=0.4))
    inputs.append(g.matrix(ways, 2 * gates * size, scale=0.3))
    if lengths:
        inputs.append(g.cast(g.reduce_axes("ReduceSum", g.keep(), [1]), 6))
    every = g.node(op, *inputs, hidden_size=size, direction=direction)  # [sequence, ways, batch, size]
    return g.reshape(g.transpose(every, 2, 0, 1, 3), 0, -1, HIDDEN)


def running_sum(g: Encoder, x: str) -> str:
    """A running sum over places."""
    reverse, exclusive, masked = (int(g.maybe(p)) for p in (0.3, 0.3, 0.4))
    g.story.append(f"cumsum{', reverse' if reverse else ''}{', masked' if masked else ''}")
    if masked:
        x = g.node("Mul", x, g.unsqueeze(g.keep(), 2))
    total = g.node("CumSum", x, g.constant(1, np.int64), reverse=reverse, exclusive=exclusive)
    return g.node("Mul", total, g.constant(0.3))


def window(g: Encoder, x: str) -> str:
    """Maximum or mean of three neighbouring places."""
    op = g.pick(("MaxPool", "AveragePool", "LpPool"))
    masked = g.maybe(0.3)
    g.story.append(f"{op} 3{', masked' if masked else ''}")
    if masked:
        x = g.node("Mul", x, g.unsqueeze(g.keep(), 2))
    options = {"count_include_pad": int(g.maybe(0.5))} if op == "AveragePool" else {}
    pooled = g.node(op, g.transpose(x, 0, 2, 1), kernel_shape=[3], pads=[1, 1], strides=[1], **options)
    return g.transpose(pooled, 0, 2, 1)


def norm_over_places(g: Encoder, x: str) -> str:
    """A normalisation whose statistics run over the sequence."""
    way = g.pick(("instance", "group", "mean and variance", "both axes", "lp", "masked"))
    g.story.append(f"norm over places: {way}")
    ones, zeros = g.constant(np.ones(HIDDEN)), g.constant(np.zeros(HIDDEN))
    if way == "instance":
        return g.transpose(g.node("InstanceNormalization", g.transpose(x, 0, 2, 1), ones, zeros), 0, 2, 1)
    if way == "group":
        groups = g.reshape(g.transpose(x, 0, 2, 1), 0, 2, -1)
        two = g.constant(np.ones(2)), g.constant(np.zeros(2))
        normed = g.node("InstanceNormalization", groups, *two)
        return g.transpose(g.reshape(normed, 0, HIDDEN, -1), 0, 2, 1)
    if way == "mean and variance":
        return g.node("MeanVarianceNormalization", x, axes=[1])
    if way == "both axes":
        mean = g.reduce_axes("ReduceMean", x, [1, 2], keepdims=True)
        return g.node("Sub", x, mean)
    if way == "lp":
        return g.node("LpNormalization", x, axis=1, p=2)
    keep = g.unsqueeze(g.keep(), 2)
    total = g.reduce_axes("ReduceSum", g.node("Mul", x, keep), [1], keepdims=True)
    return g.node("Sub", x, g.node("Div", total, g.reduce_axes("ReduceSum", keep, [1], keepdims=True)))


def token_mixing(g: Encoder, x: str) -> str:
    """A matrix over places, cut to the length; of a causal one, later places are zero."""
    causal, masked = g.maybe(0.3), g.maybe(0.5)
    g.story.append(f"token mixing{', causal' if causal else ''}{', masked' if masked else ''}")
    table = g.rng.normal(size=(POSITIONS, POSITIONS)).astype(np.float32) * 0.4
    name = g.weight(f"weight_{len(g._weights)}", np.tril(table) if causal else table)
    length = g.length()
    cut = g.node("Slice", name, g.ints(0, 0), g.node("Concat", length, length, axis=0), g.ints(0, 1))
    if masked:
        x = g.node("Mul", x, g.unsqueeze(g.keep(), 2))
    return g.node("MatMul", cut, x)


def shifted(g: Encoder, x: str) -> str:
    """Each token's neighbour: the next, the one before, or around the end."""
    way = g.pick(("next", "before", "around"))
    g.story.append(f"shift: {way}")
    end = 2**31
    if way == "around":
        return g.node("Concat", g.slice(x, -1, end, 1), g.slice(x, 0, -1, 1), axis=1)
    if way == "before":
        return g.slice(g.node("Pad", x, g.ints(0, 1, 0, 0, 0, 0)), 0, -1, 1)
    return g.slice(g.node("Pad", x, g.ints(0, 0, 0, 0, 1, 0)), 1, end, 1)


def reversed_places(g: Encoder, x: str) -> str:
    """The places in reverse: all of them, or the sample's own by its length."""
    if g.maybe(0.5):
        g.story.append("flip")
        return g.slice(x, -1, -(2**31), 1, -1)
    g.story.append("reverse by length")
    lengths = g.cast(g.reduce_axes("ReduceSum", g.keep(), [1]), INT64)
    return g.node("ReverseSequence", x, lengths, batch_axis=0, time_axis=1)


def fourier(g: Encoder, x: str) -> str:
    """The real part of a Fourier transform over places."""
    g.story.append("dft")
    column = g.unsqueeze(x, 3)
    by_input = g.opset >= 20
    spectrum = g.node("DFT", column, "", g.constant(1, np.int64)) if by_input else g.node("DFT", column, axis=1)
    return g.node("Gather", spectrum, g.constant(0, np.int64), axis=3)


def gate(g: Encoder, x: str) -> str:
    """Every token times something that the whole sample says."""
    masked = g.maybe(0.5)
    op = g.pick(("ReduceMean", "ReduceMax", "ReduceSum"))
    g.story.append(f"gate: {op}{', masked' if masked else ''}")
    seen = g.node("Mul", x, g.unsqueeze(g.keep(), 2)) if masked else x
    whole = g.reduce_axes(op, seen, [1], keepdims=True)
    return g.node("Mul", x, g.node("Sigmoid", whole))


def over_the_batch(g: Encoder, x: str) -> str:
    """What should never be done in a model that is served: the samples of a batch meet."""
    way = g.pick(("mean", "softmax", "largest", "size", "quantised", "cumsum"))
    g.story.append(f"over the batch: {way}")
    if way == "mean":
        return g.node("Sub", x, g.reduce_axes("ReduceMean", x, [0], keepdims=True))
    if way == "softmax":
        return g.node("Softmax", x, axis=0)
    if way == "largest":
        largest = g.reduce_axes("ReduceMax", g.node("Abs", x), [0, 1, 2], keepdims=True)
        return g.node("Div", x, g.node("Add", largest, g.constant(0.1)))
    if way == "size":
        return g.node("Mul", x, g.cast(g.length(axis=0), FLOAT))
    if way == "cumsum":
        return g.node("CumSum", x, g.constant(0, np.int64))
    return g.node("DequantizeLinear", *g.nodes("DynamicQuantizeLinear", x, outputs=3))


def length_as_value(g: Encoder, x: str) -> str:
    """A number that grows with the length: of the batch, or the sample's own."""
    own = g.maybe(0.4)
    g.story.append(f"{'own ' if own else ''}length as a value")
    if own:
        return g.node("Div", x, g.unsqueeze(g.reduce_axes("ReduceSum", g.keep(), [1], keepdims=True), 2))
    return g.node("Div", x, g.node("Sqrt", g.cast(g.length(x), FLOAT)))


def in_another_layout(g: Encoder, x: str) -> str:
    """Nothing but a layer that treats each token alone, in another layout."""
    g.story.append("1x1 conv")
    kernel = g.matrix(HIDDEN, HIDDEN, 1, scale=0.35)
    return g.from_layout(g.node("Relu", g.node("Conv", g.to_layout(x, BHS), kernel)), BHS)


#: The bodies of a model whose heads alone are in question, and how often each comes.
SOUND: dict[Body, int] = {attention: 14, fused_attention: 2, in_another_layout: 1}
#: Each body, and how often it comes.
BODIES: dict[Body, int] = {
    attention: 14,
    fused_attention: 1,
    linear_attention: 1,
    convolution: 3,
    recurrent: 2,
    running_sum: 1,
    window: 1,
    norm_over_places: 2,
    token_mixing: 1,
    shifted: 1,
    reversed_places: 1,
    fourier: 1,
    gate: 1,
    over_the_batch: 1,
    length_as_value: 1,
    in_another_layout: 1,
}

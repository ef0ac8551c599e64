"""Heads of random encoders: what becomes of [batch, sequence, hidden] at the end.

Each declares one or more outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.isolation.encoder import BHS, BSH, FLOAT, HIDDEN, INT64, LAYOUTS, LOWEST, SBH, Encoder, Layout, token_wise

Head = Callable[[Encoder, str], None]
_END = 2**31

_REDUCTIONS = (
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp",
    "ReduceMax", "ReduceMean",
)  # fmt: skip
_FILLS = (-1e9, -1e4, -100.0, 0.0, LOWEST, 1e9, -float("inf"))


def _hidden_padding(g: Encoder, x: str, layout: Layout) -> tuple[str, str]:
    """The tokens with padding hidden in some way, or not at all, and the name of the way."""
    if g.maybe(0.2):  # as it should be for a maximum
        return g.node("Where", g.along(g.truth(), layout), x, g.constant(-1e9)), "where -1e+09"
    way = g.pick(("none", "mul", "mul", "mul", "where", "where", "add", "sub", "mul and where", "before"))
    if way == "none":
        return x, way
    if way in ("where", "mul and where"):
        fill = g.pick(_FILLS)
        way = f"{way} {fill:.3g}"
        if way.startswith("mul"):
            x = g.node("Mul", x, g.along(g.keep(), layout))
        return g.node("Where", g.along(g.truth(), layout), x, g.constant(fill)), way
    if way == "add":
        low = g.pick((-1e4, -1e9, -100.0, LOWEST))
        return g.node("Add", x, g.along(g.drop(low), layout)), f"add {low:.3g}"
    if way == "sub":
        return g.node("Sub", x, g.along(g.drop(g.pick((-1e4, 1e9))), layout)), way
    hidden = g.node("Mul", x, g.along(g.keep(), layout))
    return (token_wise(g, hidden), "mul, then token-wise") if way == "before" else (hidden, way)


def reduction(g: Encoder, x: str) -> None:
    """A reduction over the sequence, of tokens with or without padding hidden."""
    layout, op = g.pick(LAYOUTS), g.pick(_REDUCTIONS)
    tokens, way = _hidden_padding(g, token_wise(g, g.to_layout(x, layout)), layout)
    g.story.append(f"head: {op} of {way}")
    divided = op == "ReduceSum" and g.maybe(0.5)
    reduced = g.reduce_axes(op, tokens, [layout.seq], keepdims=divided or layout is SBH or g.maybe(0.3))
    if divided:
        reduced = g.node("Div", reduced, g.reduce_axes(op, g.along(g.keep(), layout), [layout.seq], keepdims=True))
    g.result(g.transpose(reduced, 1, 0, 2) if layout is SBH else reduced)


def selection(g: Encoder, x: str) -> None:
    """Which token is the largest, or the k largest."""
    layout = g.pick(LAYOUTS[:1] + LAYOUTS[2:])
    tokens, way = _hidden_padding(g, token_wise(g, g.to_layout(x, layout)), layout)
    op = g.pick(("ArgMax", "ArgMin", "TopK", "Hardmax"))
    g.story.append(f"head: {op} of {way}")
    if op == "TopK":
        largest = int(g.maybe(0.7))
        values, _ = g.nodes("TopK", tokens, g.ints(1), outputs=2, axis=layout.seq, largest=largest)
        g.result(values)
    elif op == "Hardmax":
        weights = g.node("Hardmax", tokens, axis=layout.seq)
        g.result(g.reduce_axes("ReduceSum", g.node("Mul", weights, tokens), [layout.seq]))
    else:
        g.result(g.node(op, tokens, axis=layout.seq, keepdims=0), INT64)


def all_k_largest(g: Encoder, x: str) -> None:
    """The mean of the k largest, k from the length."""
    g.story.append("head: TopK of half the places")
    half = g.node("Div", g.node("Add", g.length(x), g.ints(1)), g.ints(2))
    values, _ = g.nodes("TopK", g.node("Mul", x, g.along(g.keep(), BSH)), half, outputs=2, axis=1)
    g.result(g.reduce_axes("ReduceMean", values, [1]))


def global_pool(g: Encoder, x: str) -> None:
    """The pooling operators over all places."""
    tokens, way = _hidden_padding(g, token_wise(g, g.to_layout(x, BHS)), BHS)
    op = g.pick(("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"))
    g.story.append(f"head: {op} of {way}")
    g.result(g.reshape(g.node(op, tokens), 0, HIDDEN))


def taken_place(g: Encoder, x: str) -> None:
    """One place, or a few."""
    way = g.pick(("first", "last", "last 4", "first 3", "flipped first", "first of flipped", "every second"))
    g.story.append(f"head: {way}")
    if way in ("first", "last"):
        g.result(g.node("Gather", x, g.constant(0 if way == "first" else -1, np.int64), axis=1))
    elif way == "last 4":
        g.result(g.reduce_axes("ReduceMean", g.slice(x, -4, _END, 1), [1]))
    elif way == "first 3":
        g.result(g.reduce_axes("ReduceSum", g.slice(x, 0, 3, 1), [1]))
    elif way == "every second":
        g.result(g.reduce_axes("ReduceMax", g.slice(x, 0, _END, 1, 2), [1]))
    else:
        flipped = g.slice(x, -1, -_END, 1, -1)
        g.result(g.node("Gather", flipped, g.constant(0, np.int64), axis=1) if way == "flipped first" else flipped)


def own_last_place(g: Encoder, x: str) -> None:
    """The sample's last token, by the mask or by an id, in one of the ways to take it."""
    way = g.pick(("sum", "argmax of ids", "last one"))
    if way == "sum":
        place = g.node("Sub", g.cast(g.reduce_axes("ReduceSum", g.keep(), [1]), INT64), g.constant(1, np.int64))
    elif way == "argmax of ids":
        place = g.node("ArgMax", "input_ids", axis=1, keepdims=0)
    else:
        place = g.node("ArgMax", g.cast(g.mask, INT64), axis=1, keepdims=0, select_last_index=1)
    taken = g.pick(("GatherND", "GatherElements", "Gather", "OneHot"))
    g.story.append(f"head: {taken} at {way}")
    if taken == "GatherND":
        g.result(g.node("GatherND", x, g.unsqueeze(place, 1), batch_dims=1))
    elif taken == "GatherElements":
        index = g.node("Expand", g.unsqueeze(place, 1, 2), g.ints(1, 1, HIDDEN))
        g.result(g.node("GatherElements", x, index, axis=1))
    elif taken == "Gather":  # flat, with an offset a sample
        rows = g.node("Range", *(g.constant(0, np.int64), g.reshape(g.length(axis=0), *()), g.constant(1, np.int64)))
        flat = g.node("Add", g.node("Mul", rows, g.length()), place)
        g.result(g.node("Gather", g.reshape(x, -1, HIDDEN), flat, axis=0))
    else:
        values = g.constant([0, 1], np.float32)
        chosen = g.node("OneHot", place, g.length(), values, axis=1)
        g.result(g.reduce_axes("ReduceSum", g.node("Mul", x, g.unsqueeze(chosen, 2)), [1]))


def attention_pooling(g: Encoder, x: str) -> None:
    """A mean weighted by a softmax over scores, which something hides, or nothing."""
    scores, way = _hidden_padding(g, g.linear(x, HIDDEN, 1), BSH)
    op = g.pick(("Softmax", "Softmax", "Softmax", "Sigmoid", "LogSoftmax"))
    g.story.append(f"head: {op} pooling, scores {way}")
    weights = g.node(op, scores) if op == "Sigmoid" else g.node(op, scores, axis=1)
    if g.maybe(0.2):
        weights = g.node("Mul", weights, g.along(g.keep(), BSH))
    form = g.rng.integers(3)
    if form == 0:
        g.result(g.reduce_axes("ReduceSum", g.node("Mul", weights, x), [1]))
    elif form == 1:
        g.result(g.node("MatMul", g.transpose(weights, 0, 2, 1), x))
    else:
        g.result(g.node("Einsum", weights, x, equation="bsa,bsh->bah"))


def flattened(g: Encoder, x: str) -> None:
    """Sequence and hidden axis as one."""
    tokens, way = _hidden_padding(g, token_wise(g, x), BSH)
    op = g.pick(("ReduceMax", "ReduceMean", "ReduceSum", "ReduceL2"))
    g.story.append(f"head: {op} of the flattened, {way}")
    flat = g.node("Flatten", tokens, axis=1) if g.maybe(0.5) else g.reshape(tokens, 0, -1)
    g.result(g.reduce_axes(op, flat, [1]))


def token_output(g: Encoder, x: str) -> None:
    """A result for each token; sometimes with the mask in it."""
    way = g.pick(("plain", "plain", "drop", "neg drop", "max of drop", "softmax"))
    g.story.append(f"head: tokens, {way}")
    y = g.linear(x, HIDDEN, 3)
    if way == "plain":
        g.result(y)
        return
    low = g.pick((-1e4, -1e9, -3.0))
    if way == "softmax":
        g.result(g.node("Softmax", g.node("Add", y, g.along(g.drop(low), BSH)), axis=1))
        return
    dropped = g.node("Add", g.node("Neg", y) if way == "neg drop" else y, g.along(g.drop(low), BSH))
    g.result(g.reduce_axes("ReduceMax", dropped, [1]) if way == "max of drop" else dropped)


def pair_output(g: Encoder, x: str) -> None:
    """A result for each pair of tokens, or their softmax."""
    scores = g.node("MatMul", g.linear(x), g.transpose(g.linear(x), 0, 2, 1))
    way = g.pick(("plain", "softmax", "masked softmax", "max", "trace"))
    g.story.append(f"head: pairs, {way}")
    if way == "plain":
        g.result(scores)
        return
    if way == "max":
        g.result(g.reduce_axes("ReduceMax", scores, [2]))
        return
    if way == "trace":
        lower = g.node("Trilu", scores, upper=0)
        g.result(g.reduce_axes("ReduceSum", lower, [1, 2]))
        return
    if way == "masked softmax":
        scores = g.node("Where", g.unsqueeze(g.truth(), 1), scores, g.constant(-1e9))
    g.result(g.node("Softmax", scores, axis=2))


def changes_along(g: Encoder, x: str) -> None:
    """Differences of neighbouring tokens, reduced."""
    g.story.append("head: differences")
    after, before = g.slice(x, 1, _END, 1), g.slice(x, 0, -1, 1)
    g.result(g.reduce_axes("ReduceSum", g.node("Abs", g.node("Sub", after, before)), [1]))


def final_state(g: Encoder, x: str) -> None:
    """The last state of a recurrent layer."""
    op, gates = g.pick((("GRU", 3), ("LSTM", 4), ("RNN", 1)))
    g.story.append(f"head: last state of {op}")
    inputs = [g.transpose(x, 1, 0, 2), g.matrix(1, gates * HIDDEN, HIDDEN, scale=0.4)]
    inputs += [g.matrix(1, gates * HIDDEN, HIDDEN, scale=0.4), g.matrix(1, 2 * gates * HIDDEN, scale=0.3)]
    _, state = g.nodes(op, *inputs, outputs=2, hidden_size=HIDDEN)
    g.result(g.transpose(state, 1, 0, 2))


def across_the_batch(g: Encoder, x: str) -> None:
    """Something of the whole batch."""
    way = g.pick(("centred", "softmax", "size"))
    g.story.append(f"head: across the batch, {way}")
    first = g.node("Gather", x, g.constant(0, np.int64), axis=1)
    if way == "centred":
        g.result(g.node("Add", first, g.reduce_axes("ReduceMean", first, [0], keepdims=True)))
    elif way == "softmax":
        g.result(g.node("Softmax", first, axis=0))
    else:
        g.result(g.node("Div", first, g.cast(g.length(axis=0), FLOAT)))


def own_length(g: Encoder, x: str) -> None:
    """The length of the batch or of the sample, as a number beside the first token."""
    own = g.maybe(0.5)
    g.story.append(f"head: {'own' if own else 'padded'} length")
    first = g.node("Gather", x, g.constant(0, np.int64), axis=1)
    length = g.reduce_axes("ReduceSum", g.keep(), [1], keepdims=True) if own else g.cast(g.length(), FLOAT)
    g.result(g.node("Add", first, g.node("Sqrt", length)))


#: Each head, and how often it comes.
HEADS: dict[Head, int] = {
    reduction: 9,
    selection: 3,
    all_k_largest: 1,
    global_pool: 2,
    taken_place: 3,
    own_last_place: 3,
    attention_pooling: 4,
    flattened: 2,
    token_output: 4,
    pair_output: 2,
    changes_along: 1,
    final_state: 1,
    across_the_batch: 1,
    own_length: 1,
}

"""Random small encoders: a body or two and a head or two, right and wrong ones alike.

``random_model(seed)`` is the same model each time. Every model runs on single samples of any length from 1 on, with
finite results: what is left is whether it may be packed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx

from tests.isolation.bodies import BODIES, SOUND
from tests.isolation.encoder import HIDDEN, INT64, POSITIONS, Encoder
from tests.isolation.heads import HEADS
from tests.numerics import Arrays, run, session

VOCAB = 48
#: Token ids from here on have a large embedding.
LOUD = 44
#: Ids that samples are made of, but for the loud ones; the second half is for neighbours that share no token.
WORDS, OTHERS = (2, 23), (23, LOUD)
_OPSETS = (17, 17, 17, 18, 19, 20)
_TRIES = 40
_LENGTHS = (1, 2, 5, 9)

Piece = TypeVar("Piece")


@dataclass(frozen=True)
class RandomModel:
    """A model and how it came about.

    Attributes:
        model: int64 inputs [batch, sequence], both open; nothing is said of its outputs' shapes.
        seed: what :func:`random_model` was called with.
        story: the pieces, in order.
    """

    model: onnx.ModelProto
    seed: int
    story: str


def random_model(seed: int) -> RandomModel:
    """The model of ``seed``.

    Raises:
        RuntimeError: no attempt gave a model that runs.
    """
    for attempt in range(_TRIES):
        rng = np.random.default_rng([seed, attempt])
        graph = Encoder(rng, int(rng.choice(_OPSETS)))
        _fill(graph)
        model = graph.build()
        if _runs(model):
            return RandomModel(model, seed, "; ".join(graph.story))
    raise RuntimeError(f"no model of seed {seed} runs")


def sample(length: int, seed: int, ids: tuple[int, int] = WORDS) -> Arrays:
    """A sample for these models: token ids from ``ids``, int64 [length]."""
    rng = np.random.default_rng(seed)
    return {
        "input_ids": rng.integers(*ids, length),
        "attention_mask": np.ones(length, np.int64),
        "token_type_ids": (np.arange(length) >= rng.integers(0, length + 1)).astype(np.int64),
        "position_ids": np.arange(length),
    }


def feeds_of(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The inputs of ``arrays`` that the model takes."""
    return {value.name: arrays[value.name] for value in model.graph.input}


def _weighted(rng: np.random.Generator, pieces: Mapping[Piece, int]) -> Piece:
    weights = np.array(list(pieces.values()), float)
    return list(pieces)[int(rng.choice(len(weights), p=weights / weights.sum()))]


def _fill(g: Encoder) -> None:
    x = _embedding(g)
    g.sound = g.maybe(0.45)
    for _ in range(int(g.rng.choice((1, 1, 2) if g.sound else (1, 1, 2, 2, 0)))):
        x = _layer(g, x, _weighted(g.rng, SOUND if g.sound else BODIES)(g, x))
    for _ in range(int(g.rng.choice((1, 1, 2)))):
        _weighted(g.rng, HEADS)(g, x)
    if g.maybe(0.3):
        _weighted(g.rng, HEADS)(g, x)


def _embedding(g: Encoder) -> str:
    ids = g.input("input_ids", ["batch", "sequence"])
    table = g.rng.normal(size=(VOCAB, HIDDEN)).astype(np.float32)
    table[LOUD:] *= g.pick((1, 1, 1, 300))
    x = g.node("Gather", g.weight("words", table), ids, axis=0)
    if g.maybe(0.85):
        g.mask = g.input("attention_mask", ["batch", "sequence"])
    else:
        g.story.append("mask from the ids")
        g.mask = g.node("Greater", ids, g.constant(0, np.int64))
    if g.maybe(0.3):
        types = g.input("token_type_ids", ["batch", "sequence"])
        x = g.node("Add", x, g.node("Gather", g.matrix(2, HIDDEN), types, axis=0))
    if g.maybe(0.5):
        x = g.node("Add", x, _positions(g))
    return _normalised(g, g.linear(x)) if g.maybe(0.7) else g.linear(x)


def _positions(g: Encoder) -> str:
    """The embedding of each place, from an input, counted, cut from the table, or a running sum of the mask."""
    table = g.matrix(POSITIONS, HIDDEN, scale=0.7)
    way = g.pick(("input", "range", "slice", "cumsum"))
    g.story.append(f"positions: {way}")
    if way == "input":
        return g.node("Gather", table, g.input("position_ids", ["batch", "sequence"]), axis=0)
    if way == "range":
        length = g.node("Squeeze", g.length("input_ids"), g.ints(0))
        places = g.node("Range", g.constant(0, np.int64), length, g.constant(1, np.int64))
        return g.node("Gather", table, places, axis=0)
    if way == "slice":
        return g.node("Slice", table, g.ints(0), g.length("input_ids"), g.ints(0))
    counted = g.node("CumSum", g.cast(g.mask, INT64), g.constant(1, np.int64))
    return g.node("Gather", table, g.node("Mul", counted, g.cast(g.mask, INT64)), axis=0)


def _layer(g: Encoder, x: str, mixed: str) -> str:
    """Around a body: a residual connection, a normalisation, and something for each token alone."""
    y = g.node("Add", x, mixed) if g.maybe(0.7) else mixed
    if g.maybe(0.7):
        y = _normalised(g, y)
    if g.maybe(0.6):
        y = g.node("Add", y, g.linear(g.node("Relu", g.linear(y, HIDDEN, 12)), 12, HIDDEN))
    if g.maybe(0.15):
        y = g.node("Mul", y, g.unsqueeze(g.keep(), 2))
    return y


def _normalised(g: Encoder, x: str) -> str:
    scale, bias = g.constant(1 + 0.3 * g.rng.normal(size=HIDDEN)), g.constant(0.3 * g.rng.normal(size=HIDDEN))
    if g.maybe(0.7):
        return g.node("LayerNormalization", x, scale, bias, axis=-1)
    centred = g.node("Sub", x, g.reduce_axes("ReduceMean", x, [-1], keepdims=True))
    variance = g.reduce_axes("ReduceMean", g.node("Pow", centred, g.constant(2.0)), [-1], keepdims=True)
    normed = g.node("Div", centred, g.node("Sqrt", g.node("Add", variance, g.constant(1e-5))))
    return g.node("Add", g.node("Mul", normed, scale), bias)


def _runs(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime runs the model on single samples, with finite results that depend on the sample."""
    try:
        engine = session(model)
        results = [
            run(engine, {name: array[None] for name, array in sample(length, seed).items()})
            for length in _LENGTHS
            for seed in (0, 1)
        ]
    except Exception:  # onnxruntime's, of whatever type: a shape that does not fit, an operator that it lacks
        return False
    finite = all(np.isfinite(array).all() for result in results for array in result.values())
    told = any((results[-1][name] != results[-2][name]).any() for name in results[0])
    return finite and told and all(array.size for result in results[2:] for array in result.values())

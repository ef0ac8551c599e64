"""Tokens that are no words: how much of each kind of encoder packs, and what that brings over padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx

from benchmarks.contenders import OnnxRuntime, Packed, Padded, Sample
from benchmarks.pairs import Paired, repeated, run_pairs
from benchmarks.rounds import Report, difference
from benchmarks.workloads import packing_converter
from models.sound import RATE, build_sound, sound_config
from models.vectors import SIZES, VectorConfig, build_vectors, patch_config
from passes.packed_model import PackedModel
from poprt import runtime
from poprt.compiler import Compiler

BATCH = 8
_WORDS, _CORNERS = 30522, 1024

Draw = Callable[[np.random.Generator, int], Sample]


@dataclass(frozen=True)
class Kind:
    """A kind of token.

    Attributes:
        what: a sample, and how many tokens it has.
        build: the encoder of a size of ``models.vectors.SIZES``.
        draw: a sample of so many tokens.
        shortest, longest: tokens of a sample; lengths are spread evenly between.
    """

    what: str
    build: Callable[[str], onnx.ModelProto]
    draw: Draw
    shortest: int
    longest: int


@dataclass(frozen=True)
class KindResult:
    """What came of one kind.

    Attributes:
        share: of the work of the matrix products that runs packed.
        neighbours: which samples may share a run.
        difference: of a number of an embedding of length 1 from that of the sample alone, unpadded; the largest.
        padding: the share of padding in batches of 8.
        padded: samples packed over batches padded to their longest.
        alone: samples packed over one at a time.
    """

    kind: str
    what: str
    share: float
    neighbours: str
    difference: float
    padding: float
    padded: Paired
    alone: Paired


def measure_kinds(names: list[str], size: str, samples: int, pairs: int, report: Report) -> list[KindResult]:
    """Hand ``samples`` at once to packs, to padded batches of 8 and to one at a time, in pairs, for each kind."""
    return [_measure(name, KINDS[name], size, samples, pairs, report) for name in names]


def _measure(name: str, kind: Kind, size: str, samples: int, pairs: int, report: Report) -> KindResult:
    rng = np.random.default_rng(0)
    lengths = rng.integers(kind.shortest, kind.longest + 1, samples)
    batch = [kind.draw(rng, int(length)) for length in lengths]
    model = kind.build(size)
    plain = OnnxRuntime(model.SerializeToString())
    converted = packing_converter(model, kind.longest).convert(model)
    packed = PackedModel.read(converted)
    assert packed is not None, "the converter packs"
    alone, padded = Padded("one at a time", plain, 1), Padded(f"padded to the longest of {BATCH}", plain, BATCH)
    with runtime.PackRunner(Compiler.compile(converted), runtime.PackRunnerConfig()) as runner:
        ours = Packed("packed", runner)
        report(f"{name}, {size}: packed")
        off = difference(ours.run(batch), alone.run(batch), "fp32")
        over: list[Paired] = []
        for other in (padded, alone):
            side, beside = (repeated(partial(each.run, batch), 0) for each in (ours, other))
            over.append(run_pairs(side, beside, pairs))
            report(f"{name}, {size}: {over[-1].ratio.median:.2f} x {other.name}")
    fed = padded.fed([int(length) for length in lengths])
    share = packed.packed_flops / packed.total_flops
    return KindResult(name, kind.what, share, packed.neighbours, off, 1 - int(lengths.sum()) / fed, over[0], over[1])


def _vectors(tokens: str, numbers: int, **fields: Any) -> Callable[[str], onnx.ModelProto]:
    return lambda size: build_vectors(VectorConfig(tokens, numbers, **fields, **SIZES[size]))


def _with_mask(length: int, **arrays: np.ndarray[Any, Any]) -> Sample:
    return {**arrays, "attention_mask": np.ones(length, np.int64)}


def _document(rng: np.random.Generator, length: int) -> Sample:
    boxes = rng.integers(0, _CORNERS, (length, 4))
    return _with_mask(length, bbox=boxes, input_ids=rng.integers(0, _WORDS, length))


def _floats(name: str, numbers: int) -> Draw:
    return lambda rng, length: _with_mask(length, **{name: rng.standard_normal((length, numbers), np.float32)})


def _patches(rng: np.random.Generator, length: int) -> Sample:
    rows = rng.integers(0, 24, (2, length))
    patches = rng.standard_normal((length, 16 * 16 * 3), np.float32)
    return _with_mask(length, patches=patches, row_ids=rows[0], column_ids=rows[1])


def _sound(rng: np.random.Generator, length: int) -> Sample:
    return _with_mask(length, sound=rng.standard_normal(length, np.float32))


_BOXES = {"table": _CORNERS, "positions": (("input_ids", _WORDS),)}
KINDS = {
    "documents": Kind("words with their boxes, 50 to 512", _vectors("bbox", 4, **_BOXES), _document, 50, 512),
    "speech": Kind(
        "frames of 160 numbers, 50 to 750 (1 to 15 s)",
        _vectors("input_features", 160),
        _floats("input_features", 160),
        50,
        750,
    ),
    "patches": Kind(
        "patches of 16 x 16 pixels, 64 to 576", lambda s: build_vectors(patch_config(s)), _patches, 64, 576
    ),
    "series": Kind("readings of 32 sensors, 24 to 400", _vectors("readings", 32), _floats("readings", 32), 24, 400),
    "sound": Kind(
        "16,000 readings a second, 1 to 15 s", lambda size: build_sound(sound_config(size)), _sound, RATE, 15 * RATE
    ),
}

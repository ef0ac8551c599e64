"""What is measured: models, length distributions, requests, and the work that they ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx

from benchmarks.contenders import Sample
from models.bert import SIZES, BertConfig, build_bert
from poprt.compiler import Compiler, CompilerOptions
from poprt.converter import Converter
from poprt.executable import Executable
from poprt.manifest import ONNXRUNTIME

ROWS = 16


@dataclass(frozen=True)
class Lengths:
    """Sample lengths clip(normal(mean, deviation), 1, longest), rounded."""

    name: str
    mean: float
    deviation: float
    longest: int

    def draw(self, rng: np.random.Generator, count: int) -> list[int]:
        """Draw ``count`` lengths."""
        drawn = np.rint(rng.normal(self.mean, self.deviation, count)).astype(int)
        return [int(length) for length in np.clip(drawn, 1, self.longest)]

    def __str__(self) -> str:
        return f"{self.name}: clip(normal({self.mean:g}, {self.deviation:g}), 1, {self.longest})"


#: "long" is the distribution of the published figures; "short" is that of queries.
DISTRIBUTIONS = {d.name: d for d in (Lengths("long", 128, 128, 256), Lengths("short", 16, 8, 64))}


class Distribution(Protocol):
    """Draws sample lengths."""

    def draw(self, rng: np.random.Generator, count: int) -> list[int]:
        """Draw ``count`` lengths."""


class Requests:
    """An endless list of requests, the same for the same seed.

    Args:
        lengths: their distribution.
        vocab: ids are below it.
        seed: of lengths and ids.
    """

    def __init__(self, lengths: Distribution, vocab: int, seed: int = 0) -> None:
        self._lengths = lengths
        self._vocab = vocab
        self._rng = np.random.default_rng(seed)
        self._made: list[Sample] = []

    def take(self, start: int, count: int) -> list[Sample]:
        """``count`` requests from number ``start`` on: input_ids, attention_mask, token_type_ids, int64 [length]."""
        while len(self._made) < start + count:
            self._made += [self._make(length) for length in self._lengths.draw(self._rng, 256)]
        return self._made[start : start + count]

    def _make(self, length: int) -> Sample:
        return {
            "input_ids": self._rng.integers(5, self._vocab, length),
            "attention_mask": np.ones(length, np.int64),
            "token_type_ids": np.zeros(length, np.int64),
        }


def config_of(size: str) -> BertConfig:
    """The question-answering BERT of this size: two logits a token, so that every token's result is asked for."""
    return BertConfig(**SIZES[size], head="qa")


def build(size: str, seed: int = 0) -> onnx.ModelProto:
    """The model of this size, with random weights."""
    return build_bert(config_of(size), seed)


def compile_packed(
    model: onnx.ModelProto, longest: int, precision: str = "fp32", engine: str = ONNXRUNTIME
) -> Executable:
    """Convert ``model`` packed across 16 rows of ``longest`` tokens, and compile it for an engine or "auto"."""
    options = CompilerOptions(engine=engine, show_compilation_progress_bar=False)
    return Compiler.compile(convert_packed(model, longest, precision), options=options)


def compile_padded(model: onnx.ModelProto, longest: int) -> Executable:
    """Convert ``model`` to batches of 16 x ``longest`` without packing, and compile it."""
    shapes = {value.name: [ROWS, longest] for value in model.graph.input}
    return Compiler.compile(Converter(input_shape=shapes, disable_progress_bar=True).convert(model))


def convert_packed(model: onnx.ModelProto, longest: int, precision: str = "fp32") -> onnx.ModelProto:
    """Convert ``model`` packed across rows."""
    return packing_converter(model, longest, precision).convert(model)


def packing_converter(model: onnx.ModelProto, longest: int, precision: str = "fp32") -> Converter:
    """The converter that packs ``model`` across rows. A pack holds up to as many samples as it has places for 4 tokens.

    Tokens may be arrays: an input [batch, sequence, 4] is fixed to [16, longest, 4].
    """
    return Converter(
        input_shape={value.name: [ROWS, longest, *_token_shape(value)] for value in model.graph.input},
        pack_args={"max_valid_num": ROWS * longest // 4, "segment_max_size": longest},
        precision=precision,
        disable_progress_bar=True,
    )


def _token_shape(value: onnx.ValueInfoProto) -> list[int]:
    return [extent.dim_value for extent in value.type.tensor_type.shape.dim[2:]]


def projection_flops(config: BertConfig) -> int:
    """Floating-point operations of all products with weights for one token."""
    layer = 4 * config.hidden**2 + 2 * config.hidden * config.intermediate
    return 2 * (config.layers * layer + 2 * config.hidden)


def useful_flops(config: BertConfig, lengths: Sequence[int]) -> float:
    """Floating-point operations that the samples need without any padding: projections, feed-forward, attention."""
    tokens, squares = sum(lengths), sum(length**2 for length in lengths)
    return float(projection_flops(config) * tokens + 4 * config.layers * config.hidden * squares)

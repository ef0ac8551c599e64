"""Encoders of raw sound: strided convolutions leave a place each 20 ms, and an encoder of the usual layers follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto

from models.encoder import Encoder, check_sizes
from models.vectors import SIZES
from models.weights import SeededWeights, WeightSource

#: Kernels and strides of the front end, those of Wav2Vec2: a window of 400 readings every 320.
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
RATE = 16000  # readings a second


@dataclass(frozen=True)
class SoundConfig:
    """Sizes of the front end and of the encoder. Every layer normalises what it reads, as in Wav2Vec2 with a mask."""

    channels: int = 512
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    epsilon: float = 1e-5
    dialect: str = "new-torch"

    def __post_init__(self) -> None:
        check_sizes(self)


def sound_config(size: str) -> SoundConfig:
    """The encoder of this size; "base" is about that of Wav2Vec2-base."""
    sizes: dict[str, Any] = SIZES[size]
    return SoundConfig(channels=min(512, sizes["hidden"]), **sizes)


def build_sound(config: SoundConfig, seed: int = 0) -> onnx.ModelProto:
    """Build the encoder: sound float32 and attention_mask int64 [batch, time] -> embedding [batch, hidden].

    The embedding is the mean over the places of the mask, of length 1. Batch and time are open.

    Args:
        config: sizes.
        seed: of the random weights.
    """
    return _SoundEncoder(config, SeededWeights(seed)).build()


class _SoundEncoder(Encoder):
    """One encoder under construction."""

    def __init__(self, config: SoundConfig, weights: WeightSource) -> None:
        super().__init__("sound", config, weights)
        self.config = config

    def build(self) -> onnx.ModelProto:
        c = self.config
        sound = self.g.input("sound", ["batch", "time"], TensorProto.FLOAT)
        mask = self.g.input("attention_mask", ["batch", "time"])
        x = self.linear(self._places(sound), "feature_projection", c.channels, c.hidden)
        there = self._there(mask, x)
        additive = self.dialect.mask(there)
        for layer in range(c.layers):
            x = self.pre_norm_layer(x, additive, f"encoder.layer.{layer}")
        self.g.output(self.mean(self.norm(x, "encoder.LayerNorm"), there), "embedding", ["batch", c.hidden])
        return self.g.build()

    def _places(self, sound: str) -> str:
        """[batch, time] -> [batch, places, channels]."""
        c, x = self.config, self.g.node("Unsqueeze", sound, self.g.ints(1))
        read = 1
        for number, (kernel, stride) in enumerate(zip(KERNELS, STRIDES, strict=True)):
            name = f"feature_extractor.{number}"
            weight = self.weight(f"{name}.conv.weight", c.channels, read, kernel)
            x = self.g.node("Conv", x, weight, strides=[stride])
            places = self.g.node("Transpose", x, perm=[0, 2, 1])
            scale, bias = (self.weight(f"{name}.LayerNorm.{part}", c.channels) for part in ("weight", "bias"))
            places = self.dialect.gelu(self.dialect.layer_norm(places, scale, bias, c.epsilon))
            x = self.g.node("Transpose", places, perm=[0, 2, 1])
            read = c.channels
        return places

    def _there(self, mask: str, x: str) -> str:
        """int64 [batch, places]: 1 at the places that are made of tokens of the mask alone."""
        one = self.g.ints(1)
        count = self.g.reduce("ReduceSum", mask, 1)
        for kernel, stride in zip(KERNELS, STRIDES, strict=True):
            windows = self.g.node("Div", self.g.node("Sub", count, self.g.ints(kernel)), self.g.ints(stride))
            count = self.g.node("Add", windows, one)
        extent = self.g.node("Squeeze", self.g.node("Shape", x, start=1, end=2), self.g.ints(0))
        start, step = (self.g.constant(value, int) for value in (0, 1))
        return self.g.node("Cast", self.g.node("Less", self.g.node("Range", start, extent, step), count), to=7)

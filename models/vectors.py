"""Encoders whose tokens are vectors: patches of an image, readings of a time series, the atoms of a molecule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto

from models.encoder import Encoder, check_sizes
from models.weights import SeededWeights, WeightSource

HEADS = ("mean", "hidden")
#: Sizes by name; "base" is that of BERT-base and ViT-B. "tiny" is for tests.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden": 64, "layers": 2, "heads": 4, "intermediate": 128},
    "small": {"hidden": 384, "layers": 6, "heads": 6, "intermediate": 1536},
    "base": {"hidden": 768, "layers": 12, "heads": 12, "intermediate": 3072},
}
PATCH = 16  # pixels of a patch's side
SIDE = 48  # patches of an image's side, at most


@dataclass(frozen=True)
class VectorConfig:
    """What a token is, and an encoder's sizes and form. Layers normalise what they read, as ViT's do.

    Attributes:
        tokens: name of the input of vectors, [batch, sequence, numbers].
        numbers: of a token.
        table: 0: the numbers are float32, and a linear layer takes them in. Otherwise they are int64 and below it; each
            has a row of a table, and the rows of a token are summed.
        positions: inputs of ids [batch, sequence], each with the rows of its table, which are added.
        head: "mean" (embedding [batch, hidden], the mean over the mask, of unit length) or "hidden" (last_hidden_state
            [batch, sequence, hidden]).
    """

    tokens: str
    numbers: int
    table: int = 0
    positions: tuple[tuple[str, int], ...] = ()
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    epsilon: float = 1e-6
    head: str = "mean"
    dialect: str = "new-torch"

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"unknown head {self.head!r}; choose one of {', '.join(HEADS)}")
        check_sizes(self)


def patch_config(size: str, head: str = "mean") -> VectorConfig:
    """Patches of 16 x 16 pixels in three colours; ids of row and column give each its place, at any aspect ratio."""
    places = (("row_ids", SIDE), ("column_ids", SIDE))
    return VectorConfig("patches", PATCH * PATCH * 3, positions=places, head=head, **SIZES[size])


def build_vectors(config: VectorConfig, seed: int = 0) -> onnx.ModelProto:
    """Build the encoder; batch and sequence are open.

    Inputs are the vectors, attention_mask int64 [batch, sequence], and the ids of places.

    Args:
        config: sizes and form.
        seed: of the random weights.
    """
    return _VectorEncoder(config, SeededWeights(seed)).build()


class _VectorEncoder(Encoder):
    """One encoder under construction."""

    def __init__(self, config: VectorConfig, weights: WeightSource) -> None:
        super().__init__("vectors", config, weights)
        self.config = config

    def build(self) -> onnx.ModelProto:
        x = self._tokens()
        mask = self.g.input("attention_mask", ["batch", "sequence"])
        for name, rows in self.config.positions:
            ids = self.g.input(name, ["batch", "sequence"])
            table = self.weight(f"embeddings.{name}.weight", rows, self.config.hidden)
            x = self.g.node("Add", x, self.g.node("Gather", table, ids))
        additive = self.dialect.mask(mask)
        for layer in range(self.config.layers):
            x = self.pre_norm_layer(x, additive, f"encoder.layer.{layer}")
        x = self.norm(x, "encoder.LayerNorm")
        if self.config.head == "mean":
            self.g.output(self.mean(x, mask), "embedding", ["batch", self.config.hidden])
        else:
            self.g.output(x, "last_hidden_state", ["batch", "sequence", self.config.hidden])
        return self.g.build()

    def _tokens(self) -> str:
        """The vectors [batch, sequence, numbers] as [batch, sequence, hidden]."""
        c = self.config
        element = TensorProto.INT64 if c.table else TensorProto.FLOAT
        vectors = self.g.input(c.tokens, ["batch", "sequence", c.numbers], element)
        if not c.table:
            return self.linear(vectors, "embeddings.projection", c.numbers, c.hidden)
        rows = self.g.node("Gather", self.weight("embeddings.table.weight", c.table, c.hidden), vectors)
        return self.g.reduce("ReduceSum", rows, 2, keepdims=False)

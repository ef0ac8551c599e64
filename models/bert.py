"""BERT-like encoders as ONNX graphs, with the heads that people serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from models.encoder import Encoder, check_sizes
from models.weights import SeededWeights, WeightSource


@dataclass(frozen=True)
class BertConfig:
    """An encoder's sizes and form.

    Attributes:
        head: "qa" (start_logits and end_logits, [batch, sequence]), "sequence" (logits [batch, labels]),
            "token" (logits [batch, sequence, labels]), "mean" (embedding [batch, hidden], mean over the mask and unit
            length) or "hidden" (last_hidden_state [batch, sequence, hidden]).
        dialect: "old-torch" or "new-torch", the exporter whose spelling the graph has.
        position_ids: whether positions are an input; otherwise the graph counts them.
    """

    vocab: int = 30522
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    max_positions: int = 512
    type_vocab: int = 2
    epsilon: float = 1e-12
    labels: int = 2
    head: str = "qa"
    dialect: str = "old-torch"
    position_ids: bool = False

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"unknown head {self.head!r}; choose one of {', '.join(HEADS)}")
        check_sizes(self)


#: Sizes by name. "tiny" is for tests.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab": 1000, "hidden": 64, "layers": 2, "heads": 4, "intermediate": 128},
    "minilm": {"hidden": 384, "layers": 6, "heads": 12, "intermediate": 1536},
    "bert-base": {},
    "bert-large": {"hidden": 1024, "layers": 24, "heads": 16, "intermediate": 4096},
}


def build_bert(config: BertConfig, seed: int = 0, *, weights: WeightSource | None = None) -> onnx.ModelProto:
    """Build the encoder.

    Inputs are int64 [batch, sequence] with both dimensions open: input_ids, attention_mask, token_type_ids and, where
    asked, position_ids.

    Args:
        config: sizes, head and dialect.
        seed: of the random weights.
        weights: take the weights from here instead; names are those of Hugging Face's BertModel.
    """
    return _Bert(config, weights or SeededWeights(seed)).build()


class _Bert(Encoder):
    """One encoder under construction."""

    def __init__(self, config: BertConfig, weights: WeightSource) -> None:
        super().__init__("bert", config, weights)
        self.config = config

    def build(self) -> onnx.ModelProto:
        ids = self.g.input("input_ids", ["batch", "sequence"])
        mask = self.g.input("attention_mask", ["batch", "sequence"])
        types = self.g.input("token_type_ids", ["batch", "sequence"])
        x = self._embeddings(ids, types)
        additive = self.dialect.mask(mask)
        for layer in range(self.config.layers):
            x = self._layer(x, additive, f"encoder.layer.{layer}")
        HEADS[self.config.head](self, x, mask)
        return self.g.build()

    def _positions(self, ids: str) -> str:
        if self.config.position_ids:
            return self.g.input("position_ids", ["batch", "sequence"])
        every = self.g.weight("embeddings.position_ids", np.arange(self.config.max_positions)[None])
        return self.g.node("Slice", every, self.g.ints(0), self.dialect.extent(ids, 1), self.g.ints(1))

    def _embeddings(self, ids: str, types: str) -> str:
        c, total = self.config, ""
        tables = (("word", c.vocab, ids), ("token_type", c.type_vocab, types), ("position", c.max_positions, ""))
        for name, rows, indices in tables:
            table = self.weight(f"embeddings.{name}_embeddings.weight", rows, c.hidden)
            rows_used = self.g.node("Gather", table, indices or self._positions(ids))
            total = self.g.node("Add", total, rows_used) if total else rows_used
        return self.norm(total, "embeddings.LayerNorm")

    def _layer(self, x: str, mask: str, name: str) -> str:
        x = self.norm(self.g.node("Add", self.attention(x, mask, name), x), f"{name}.attention.output.LayerNorm")
        return self.norm(self.g.node("Add", self.feed_forward(x, name), x), f"{name}.output.LayerNorm")

    def head_qa(self, x: str, _mask: str) -> None:
        logits = self.linear(x, "head.qa_outputs", self.config.hidden, 2)
        pair = self.g.nodes("Split", logits, self.g.ints(1, 1), outputs=2, axis=-1)
        for tensor, name in zip(pair, ("start_logits", "end_logits"), strict=True):
            self.g.output(self.g.node("Squeeze", tensor, self.g.ints(-1)), name, ["batch", "sequence"])

    def head_sequence(self, x: str, _mask: str) -> None:
        hidden = self.config.hidden
        first = self.g.node("Gather", x, self.g.constant(0, np.int64), axis=1)
        pooled = self.g.node("Tanh", self.linear(first, "pooler.dense", hidden, hidden))
        self.g.output(
            self.linear(pooled, "head.classifier", hidden, self.config.labels), "logits", ["batch", self.config.labels]
        )

    def head_token(self, x: str, _mask: str) -> None:
        labels = self.config.labels
        self.g.output(
            self.linear(x, "head.classifier", self.config.hidden, labels), "logits", ["batch", "sequence", labels]
        )

    def head_mean(self, x: str, mask: str) -> None:
        self.g.output(self.mean(x, mask), "embedding", ["batch", self.config.hidden])

    def head_hidden(self, x: str, _mask: str) -> None:
        self.g.output(x, "last_hidden_state", ["batch", "sequence", self.config.hidden])


HEADS: dict[str, Callable[[_Bert, str, str], None]] = {
    "qa": _Bert.head_qa,
    "sequence": _Bert.head_sequence,
    "token": _Bert.head_token,
    "mean": _Bert.head_mean,
    "hidden": _Bert.head_hidden,
}

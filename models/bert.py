"""BERT-like encoders as ONNX graphs, with the heads that people serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from models.dialects import DIALECTS, Dialect
from models.graph import GraphBuilder
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
        for option, value, choices in (("head", self.head, HEADS), ("dialect", self.dialect, DIALECTS)):
            if value not in choices:
                raise ValueError(f"unknown {option} {value!r}; choose one of {', '.join(choices)}")
        if self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} is not a multiple of heads={self.heads}")


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


class _Bert:
    """One encoder under construction."""

    def __init__(self, config: BertConfig, weights: WeightSource) -> None:
        self.config = config
        self.weights = weights
        dialect = DIALECTS[config.dialect]
        self.g = GraphBuilder("bert", dialect.opset)
        self.dialect: Dialect = dialect(self.g, config.heads, config.hidden // config.heads)

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

    def weight(self, name: str, *shape: int) -> str:
        return self.g.weight(name, self.weights(name, shape))

    def linear(self, x: str, name: str, size_in: int, size_out: int) -> str:
        product = self.g.node("MatMul", x, self.weight(f"{name}.weight", size_in, size_out))
        return self.g.node("Add", product, self.weight(f"{name}.bias", size_out))

    def norm(self, x: str, name: str) -> str:
        size = self.config.hidden
        scale, bias = self.weight(f"{name}.weight", size), self.weight(f"{name}.bias", size)
        return self.dialect.layer_norm(x, scale, bias, self.config.epsilon)

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
        hidden, wide = self.config.hidden, self.config.intermediate
        query, key, value = (
            self.dialect.split_heads(self.linear(x, f"{name}.attention.self.{part}", hidden, hidden))
            for part in ("query", "key", "value")
        )
        context = self.dialect.merge_heads(self.dialect.attention(query, key, value, mask))
        projected = self.linear(context, f"{name}.attention.output.dense", hidden, hidden)
        x = self.norm(self.g.node("Add", projected, x), f"{name}.attention.output.LayerNorm")
        inner = self.dialect.gelu(self.linear(x, f"{name}.intermediate.dense", hidden, wide))
        outer = self.linear(inner, f"{name}.output.dense", wide, hidden)
        return self.norm(self.g.node("Add", outer, x), f"{name}.output.LayerNorm")

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
        column = self.g.node("Cast", self.g.node("Unsqueeze", mask, self.g.ints(-1)), to=1)
        spread = self.g.node("Expand", column, self.g.node("Shape", x))
        total = self.g.reduce("ReduceSum", self.g.node("Mul", x, spread), 1, keepdims=False)
        count = self.g.node("Clip", self.g.reduce("ReduceSum", spread, 1, keepdims=False), self.g.constant(1e-9))
        mean = self.g.node("Div", total, count)
        length = self.g.node("Clip", self.g.reduce("ReduceL2", mean, 1), self.g.constant(1e-12))
        unit = self.g.node("Div", mean, self.g.node("Expand", length, self.g.node("Shape", mean)))
        self.g.output(unit, "embedding", ["batch", self.config.hidden])

    def head_hidden(self, x: str, _mask: str) -> None:
        self.g.output(x, "last_hidden_state", ["batch", "sequence", self.config.hidden])


HEADS: dict[str, Callable[[_Bert, str, str], None]] = {
    "qa": _Bert.head_qa,
    "sequence": _Bert.head_sequence,
    "token": _Bert.head_token,
    "mean": _Bert.head_mean,
    "hidden": _Bert.head_hidden,
}

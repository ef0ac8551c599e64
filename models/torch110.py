"""BERT with a question answering head as torch 1.10 exports it from transformers 4.25: opset 11, with its node names.

Programs of that time find nodes by their number (``Shape_7``, ``Gather_18``), so the nodes stand in the order in which
the model was traced, the mask first, and every scalar is a ``Constant`` node that counts.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import numpy_helper

from models.bert import BertConfig, _Bert
from models.dialects import LOWEST, OldTorch
from models.graph import GraphBuilder
from models.weights import SeededWeights


class _TracedGraph(GraphBuilder):
    """A builder whose scalars are nodes."""

    def constant(self, value: ArrayLike, dtype: Any = np.float32) -> str:
        """Add a Constant node."""
        return self.node("Constant", value=numpy_helper.from_array(np.asarray(value, dtype)))


class _Torch110(OldTorch):
    """Axes and parts are attributes, and Softmax names its axis from the front."""

    opset = 11

    def extent(self, x: str, axis: int) -> str:
        """Shape, Constant, Gather, Unsqueeze."""
        return self.g.node("Unsqueeze", self._scalar_extent(x, axis), axes=[0])

    def _scalar_extent(self, x: str, axis: int) -> str:
        shape = self.g.node("Shape", x)
        return self.g.node("Gather", shape, self.g.constant(axis, np.int64), axis=0)

    def positions(self, ids: str, every: str) -> str:
        """The first positions of the table ``every`` [1, n], as many as there are tokens."""
        length = self._scalar_extent(ids, 1)
        after = self.g.node("Add", length, self.g.constant(0, np.int64))  # no keys are past
        end = self.g.node("Unsqueeze", after, axes=[0])
        start, axis = (self.g.weight(f"positions.{name}", np.array([n])) for name, n in (("start", 0), ("axis", 1)))
        return self.g.node("Slice", every, start, end, axis, self.g.ints(1))

    def mask(self, attention_mask: str) -> str:
        """(1 - mask) * -3.4e38, float [batch, 1, 1, sequence]."""
        wide = self.g.node("Unsqueeze", self.g.node("Unsqueeze", attention_mask, axes=[1]), axes=[2])
        numbers = self.g.node("Cast", wide, to=1)
        hidden = self.g.node("Sub", self.g.constant(1), numbers)
        return self.g.node("Mul", hidden, self.g.constant(LOWEST))

    def attention(self, query: str, key: str, value: str, mask: str) -> str:
        """Scores divided by the root of the head size, plus the mask."""
        scores = self.g.node("MatMul", query, self.g.node("Transpose", key, perm=[0, 1, 3, 2]))
        scaled = self.g.node("Div", scores, self.g.constant(math.sqrt(self.head_size)))
        return self.g.node("MatMul", self.g.node("Softmax", self.g.node("Add", scaled, mask), axis=3), value)


class _Traced(_Bert):
    """The encoder, its nodes in the order of the trace."""

    dialect: _Torch110

    def __init__(self, config: BertConfig, seed: int) -> None:
        super().__init__(config, SeededWeights(seed))
        self.g = _TracedGraph("torch-jit-export", _Torch110.opset)
        self.dialect = _Torch110(self.g, config.heads, config.hidden // config.heads)

    def build(self) -> onnx.ModelProto:
        ids, mask, types = (
            self.g.input(name, ["batch", "sequence"]) for name in ("input_ids", "attention_mask", "token_type_ids")
        )
        additive = self.dialect.mask(mask)
        x = self._embeddings(ids, types)
        for layer in range(self.config.layers):
            x = self._layer(x, additive, f"encoder.layer.{layer}")
        self.head_qa(x, mask)
        return self.g.build()

    def _embeddings(self, ids: str, types: str) -> str:
        c = self.config
        every = self.g.weight("embeddings.position_ids", np.arange(c.max_positions)[None])
        positions = self.dialect.positions(ids, every)
        word, kind, place = (
            self.weight(f"embeddings.{name}_embeddings.weight", rows, c.hidden)
            for name, rows in (("word", c.vocab), ("token_type", c.type_vocab), ("position", c.max_positions))
        )
        tokens = self.g.node("Gather", word, ids)
        total = self.g.node("Add", tokens, self.g.node("Gather", kind, types))
        return self.norm(self.g.node("Add", total, self.g.node("Gather", place, positions)), "embeddings.LayerNorm")

    def head_qa(self, x: str, _mask: str) -> None:
        logits = self.linear(x, "head.qa_outputs", self.config.hidden, 2)
        pair = self.g.nodes("Split", logits, outputs=2, axis=-1, split=[1, 1])
        for tensor, name in zip(pair, ("start_logits", "end_logits"), strict=True):
            self.g.output(self.g.node("Squeeze", tensor, axes=[-1]), name, ["batch", "sequence"])


def build_torch110(config: BertConfig, seed: int = 0) -> onnx.ModelProto:
    """Build the encoder with its question answering head; ``head``, ``dialect`` and ``position_ids`` are not read.

    Inputs are int64 [batch, sequence] with both dimensions open: input_ids, attention_mask, token_type_ids.

    Args:
        config: the sizes.
        seed: of the random weights, the same as those of :func:`models.bert.build_bert`.
    """
    return _Traced(config, seed).build()

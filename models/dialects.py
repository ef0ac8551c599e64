"""How two generations of exporters spell the same encoder.

``OldTorch`` follows the TorchScript exporter at opset 14: shapes computed at run time, an additive mask of -3.4e38, the
layer norm as a chain. ``NewTorch`` follows the graph exporter at opset 18: LayerNormalization, a boolean mask with
Where, both operands of the attention product scaled.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np

from models.graph import GraphBuilder

LOWEST = float(np.finfo(np.float32).min)


class Dialect(ABC):
    """The parts of an encoder that exporters spell differently."""

    opset: int

    def __init__(self, builder: GraphBuilder, heads: int, head_size: int) -> None:
        self.g = builder
        self.heads = heads
        self.head_size = head_size

    @abstractmethod
    def extent(self, x: str, axis: int) -> str:
        """The extent of ``x`` along ``axis``, int64 [1]."""

    @abstractmethod
    def layer_norm(self, x: str, scale: str, bias: str, epsilon: float) -> str:
        """Normalise over the last axis."""

    @abstractmethod
    def mask(self, attention_mask: str) -> str:
        """What :meth:`attention` adds to the scores, made of the mask [batch, sequence] once for all layers."""

    @abstractmethod
    def attention(self, query: str, key: str, value: str, mask: str) -> str:
        """Attention of [batch, heads, sequence, size] tensors."""

    def shape(self, x: str, *tail: int) -> str:
        """The target shape [batch, sequence, *tail], int64."""
        return self.g.node("Concat", self.extent(x, 0), self.extent(x, 1), self.g.ints(*tail), axis=0)

    def split_heads(self, x: str) -> str:
        """[batch, sequence, hidden] to [batch, heads, sequence, size]."""
        split = self.g.node("Reshape", x, self.shape(x, self.heads, self.head_size))
        return self.g.node("Transpose", split, perm=[0, 2, 1, 3])

    def merge_heads(self, x: str) -> str:
        """[batch, heads, sequence, size] to [batch, sequence, hidden]."""
        moved = self.g.node("Transpose", x, perm=[0, 2, 1, 3])
        return self.g.node("Reshape", moved, self.shape(moved, self.heads * self.head_size))

    def gelu(self, x: str) -> str:
        """The exact GELU: x/2 (1 + erf(x/sqrt 2))."""
        erf = self.g.node("Erf", self.g.node("Div", x, self.g.constant(math.sqrt(2))))
        gated = self.g.node("Mul", x, self.g.node("Add", erf, self.g.constant(1)))
        return self.g.node("Mul", gated, self.g.constant(0.5))


class OldTorch(Dialect):
    """The TorchScript exporter's spelling."""

    opset = 14

    def extent(self, x: str, axis: int) -> str:
        """Shape, Gather, Unsqueeze: anew at each use, as the exporter does."""
        one = self.g.node("Gather", self.g.node("Shape", x), self.g.constant(axis, np.int64), axis=0)
        return self.g.node("Unsqueeze", one, self.g.ints(0))

    def layer_norm(self, x: str, scale: str, bias: str, epsilon: float) -> str:
        """The chain ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, Mul, Add."""
        centred = self.g.node("Sub", x, self.g.reduce("ReduceMean", x, -1))
        variance = self.g.reduce("ReduceMean", self.g.node("Pow", centred, self.g.constant(2)), -1)
        deviation = self.g.node("Sqrt", self.g.node("Add", variance, self.g.constant(epsilon)))
        return self.g.node("Add", self.g.node("Mul", self.g.node("Div", centred, deviation), scale), bias)

    def mask(self, attention_mask: str) -> str:
        """(1 - mask) * -3.4e38, float [batch, 1, 1, sequence]."""
        wide = self.g.node("Unsqueeze", self.g.node("Unsqueeze", attention_mask, self.g.ints(1)), self.g.ints(2))
        hidden = self.g.node("Sub", self.g.constant(1), self.g.node("Cast", wide, to=1))
        return self.g.node("Mul", hidden, self.g.constant(LOWEST))

    def attention(self, query: str, key: str, value: str, mask: str) -> str:
        """Scores divided by the root of the head size, plus the mask."""
        scores = self.g.node("MatMul", query, self.g.node("Transpose", key, perm=[0, 1, 3, 2]))
        scaled = self.g.node("Div", scores, self.g.constant(math.sqrt(self.head_size)))
        weights = self.g.node("Softmax", self.g.node("Add", scaled, mask), axis=-1)
        return self.g.node("MatMul", weights, value)


class NewTorch(Dialect):
    """The graph exporter's spelling."""

    opset = 18

    def extent(self, x: str, axis: int) -> str:
        """Shape with a start and an end."""
        return self.g.node("Shape", x, start=axis, end=axis + 1)

    def layer_norm(self, x: str, scale: str, bias: str, epsilon: float) -> str:
        """One LayerNormalization."""
        return self.g.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def mask(self, attention_mask: str) -> str:
        """Where(mask, 0, -3.4e38), float [batch, 1, sequence, sequence]."""
        allowed = self.g.node("Unsqueeze", self.g.node("Cast", attention_mask, to=9), self.g.ints(1, 2))
        batch, sequence = self.extent(attention_mask, 0), self.extent(attention_mask, 1)
        square = self.g.node("Concat", batch, self.g.ints(1), sequence, sequence, axis=0)
        spread = self.g.node("Expand", allowed, square)
        return self.g.node("Where", spread, self.g.constant(0), self.g.constant(LOWEST))

    def attention(self, query: str, key: str, value: str, mask: str) -> str:
        """Query and key each scaled by the fourth root of the head size, as scaled_dot_product_attention exports."""
        factor = self.g.constant(self.head_size**-0.25)
        flipped = self.g.node("Mul", self.g.node("Transpose", key, perm=[0, 1, 3, 2]), factor)
        scores = self.g.node("MatMul", self.g.node("Mul", query, factor), flipped)
        weights = self.g.node("Softmax", self.g.node("Add", scores, mask), axis=-1)
        return self.g.node("MatMul", weights, value)


DIALECTS: dict[str, type[Dialect]] = {"old-torch": OldTorch, "new-torch": NewTorch}

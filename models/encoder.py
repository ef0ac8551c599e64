"""What every encoder here is built of: weights by name, linear layers, norms, attention, feed-forward, the mean."""

from __future__ import annotations

from typing import Protocol

from models.dialects import DIALECTS, Dialect
from models.graph import GraphBuilder
from models.weights import WeightSource


class EncoderSizes(Protocol):
    """The sizes and the form of an encoder's layers."""

    @property
    def hidden(self) -> int:
        """Width of a token."""

    @property
    def layers(self) -> int:
        """How many layers."""

    @property
    def heads(self) -> int:
        """Heads of attention; ``hidden`` is a multiple of them."""

    @property
    def intermediate(self) -> int:
        """Width inside the feed-forward layers."""

    @property
    def epsilon(self) -> float:
        """Of the layer norms."""

    @property
    def dialect(self) -> str:
        """The exporter whose spelling the graph has."""


def check_sizes(sizes: EncoderSizes) -> None:
    """Refuse an unknown dialect, and heads that do not divide the width.

    Raises:
        ValueError: names the option and what was expected.
    """
    if sizes.dialect not in DIALECTS:
        raise ValueError(f"unknown dialect {sizes.dialect!r}; choose one of {', '.join(DIALECTS)}")
    if sizes.hidden % sizes.heads:
        raise ValueError(f"hidden={sizes.hidden} is not a multiple of heads={sizes.heads}")


class Encoder:
    """One encoder under construction. The names of weights are those of Hugging Face's BertModel."""

    def __init__(self, name: str, sizes: EncoderSizes, weights: WeightSource) -> None:
        self.sizes = sizes
        self.weights = weights
        dialect = DIALECTS[sizes.dialect]
        self.g = GraphBuilder(name, dialect.opset)
        self.dialect: Dialect = dialect(self.g, sizes.heads, sizes.hidden // sizes.heads)

    def weight(self, name: str, *shape: int) -> str:
        """Add the weight ``name``."""
        return self.g.weight(name, self.weights(name, shape))

    def linear(self, x: str, name: str, size_in: int, size_out: int) -> str:
        """A product with a matrix [size_in, size_out], and a bias."""
        product = self.g.node("MatMul", x, self.weight(f"{name}.weight", size_in, size_out))
        return self.g.node("Add", product, self.weight(f"{name}.bias", size_out))

    def norm(self, x: str, name: str) -> str:
        """Normalise each token."""
        size = self.sizes.hidden
        scale, bias = self.weight(f"{name}.weight", size), self.weight(f"{name}.bias", size)
        return self.dialect.layer_norm(x, scale, bias, self.sizes.epsilon)

    def attention(self, x: str, mask: str, name: str) -> str:
        """Each token looks at those of its own sample, [batch, sequence, hidden]; ``mask`` is the dialect's."""
        hidden = self.sizes.hidden
        query, key, value = (
            self.dialect.split_heads(self.linear(x, f"{name}.attention.self.{part}", hidden, hidden))
            for part in ("query", "key", "value")
        )
        context = self.dialect.merge_heads(self.dialect.attention(query, key, value, mask))
        return self.linear(context, f"{name}.attention.output.dense", hidden, hidden)

    def feed_forward(self, x: str, name: str) -> str:
        """Two linear layers with a GELU between them."""
        hidden, wide = self.sizes.hidden, self.sizes.intermediate
        inner = self.dialect.gelu(self.linear(x, f"{name}.intermediate.dense", hidden, wide))
        return self.linear(inner, f"{name}.output.dense", wide, hidden)

    def pre_norm_layer(self, x: str, mask: str, name: str) -> str:
        """A layer that normalises what it reads, as ViT's and Wav2Vec2's do; ``mask`` is the dialect's."""
        seen = self.attention(self.norm(x, f"{name}.attention.LayerNorm"), mask, name)
        x = self.g.node("Add", x, seen)
        return self.g.node("Add", x, self.feed_forward(self.norm(x, f"{name}.LayerNorm"), name))

    def mean(self, x: str, mask: str) -> str:
        """The mean over the tokens of the mask [batch, sequence], brought to length 1: [batch, hidden]."""
        column = self.g.node("Cast", self.g.node("Unsqueeze", mask, self.g.ints(-1)), to=1)
        spread = self.g.node("Expand", column, self.g.node("Shape", x))
        total = self.g.reduce("ReduceSum", self.g.node("Mul", x, spread), 1, keepdims=False)
        count = self.g.node("Clip", self.g.reduce("ReduceSum", spread, 1, keepdims=False), self.g.constant(1e-9))
        mean = self.g.node("Div", total, count)
        length = self.g.node("Clip", self.g.reduce("ReduceL2", mean, 1), self.g.constant(1e-12))
        return self.g.node("Div", mean, self.g.node("Expand", length, self.g.node("Shape", mean)))

"""A graph under construction, with the pieces that random encoders are put together from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper

from models.graph import GraphBuilder

HIDDEN, HEADS = 8, 2
HEAD_SIZE = HIDDEN // HEADS
#: Longest sample that the tables of positions reach.
POSITIONS = 32
FLOAT, INT64, BOOL, FLOAT16 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT16
LOWEST = float(np.finfo(np.float32).min)

Option = TypeVar("Option")


@dataclass(frozen=True)
class Layout:
    """Where batch, sequence and hidden axis stand.

    Attributes:
        order: the axes of [batch, sequence, hidden] in this layout's order.
        seq, batch: the axes of sequence and batch.
    """

    order: tuple[int, int, int]
    seq: int
    batch: int


BSH, SBH, BHS = Layout((0, 1, 2), 1, 0), Layout((1, 0, 2), 0, 1), Layout((0, 2, 1), 2, 0)
LAYOUTS = (BSH, SBH, BHS)


class Encoder(GraphBuilder):
    """A graph of [batch, sequence, hidden] tensors, with a source of random choices and weights.

    Args:
        rng: makes every choice and every weight.
        opset: of the model.
    """

    def __init__(self, rng: np.random.Generator, opset: int) -> None:
        super().__init__("random_encoder", opset)
        self.rng = rng
        self.mask = ""  # the mask, int64 or bool [batch, sequence]
        self.sound = False  # whether the bodies hide padding as they should
        #: What was chosen, for the report: "attention: causal", "head: topk".
        self.story: list[str] = []

    def maybe(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, options: Sequence[Option]) -> Option:
        return options[int(self.rng.integers(len(options)))]

    def matrix(self, *shape: int, scale: float | None = None) -> str:
        """A random weight; by default the products keep their size."""
        spread = (shape[-2] if len(shape) > 1 else 1) ** -0.5 if scale is None else scale
        values = (self.rng.normal(size=shape) * spread).astype(np.float32)
        return self.weight(f"weight_{len(self._weights)}", values)

    def reduce_axes(self, op: str, x: str, axes: Sequence[int], *, keepdims: bool = False) -> str:
        """Reduce over several axes, in the form that the opset asks for."""
        if op == "ReduceSum" or self.opset >= 18:
            return self.node(op, x, self.ints(*axes), keepdims=int(keepdims))
        return self.node(op, x, axes=list(axes), keepdims=int(keepdims))

    def unsqueeze(self, x: str, *axes: int) -> str:
        return self.node("Unsqueeze", x, self.ints(*axes))

    def transpose(self, x: str, *order: int) -> str:
        return self.node("Transpose", x, perm=list(order))

    def reshape(self, x: str, *shape: int) -> str:
        return self.node("Reshape", x, self.ints(*shape))

    def slice(self, x: str, start: int, end: int, axis: int, step: int = 1) -> str:
        return self.node("Slice", x, self.ints(start), self.ints(end), self.ints(axis), self.ints(step))

    def cast(self, x: str, to: int) -> str:
        return self.node("Cast", x, to=to)

    def linear(self, x: str, inner: int = HIDDEN, outer: int = HIDDEN) -> str:
        """Each token times a matrix, plus a bias that is not zero."""
        return self.node("Add", self.node("MatMul", x, self.matrix(inner, outer)), self.matrix(outer, scale=0.5))

    def length(self, x: str = "", axis: int = 1) -> str:
        """The extent of an axis of ``x`` (of the mask where none is given), int64 [1]."""
        return self.node("Gather", self.node("Shape", x or self.mask), self.ints(axis), axis=0)

    def to_layout(self, x: str, layout: Layout) -> str:
        return x if layout is BSH else self.transpose(x, *layout.order)

    def from_layout(self, x: str, layout: Layout) -> str:
        """Back to [batch, sequence, hidden]; each of the orders is its own inverse."""
        return self.to_layout(x, layout)

    def truth(self) -> str:
        """True at the sample's own tokens, bool [batch, sequence], in one of its spellings."""
        way = self.rng.integers(4)
        if way == 0:
            return self.cast(self.mask, BOOL)
        if way == 1:
            return self.node("Greater", self.cast(self.mask, FLOAT), self.constant(0.5))
        if way == 2:
            return self.node("Not", self.node("Equal", self.cast(self.mask, INT64), self.constant(0, np.int64)))
        return self.node("Equal", self.cast(self.mask, INT64), self.constant(1, np.int64))

    def keep(self) -> str:
        """1 at the sample's own tokens, else 0, float [batch, sequence], in one of its spellings."""
        way = self.rng.integers(3)
        if way == 0:
            return self.cast(self.mask, FLOAT)
        if way == 1:
            return self.cast(self.truth(), FLOAT)
        return self.node("Sub", self.constant(1.0), self.cast(self.node("Not", self.truth()), FLOAT))

    def drop(self, low: float) -> str:
        """0 at the sample's own tokens, else ``low``, float [batch, sequence], in one of its spellings."""
        if self.maybe(0.5):
            return self.node("Mul", self.node("Sub", self.constant(1.0), self.keep()), self.constant(low))
        return self.node("Where", self.truth(), self.constant(0.0), self.constant(low))

    def along(self, per_token: str, layout: Layout) -> str:
        """A [batch, sequence] tensor shaped to meet a tensor of the layout."""
        if layout is SBH:
            per_token = self.transpose(per_token, 1, 0)
        return self.unsqueeze(per_token, 1 if layout is BHS else 2)

    def result(self, tensor: str, dtype: int = FLOAT) -> None:
        """Make ``tensor`` an output; nothing is said of its shape."""
        name = f"answer_{len(self._outputs)}"
        self._nodes.append(helper.make_node("Identity", [tensor], [name], name=f"output/{name}"))
        self._outputs.append(helper.make_tensor_value_info(name, dtype, None))

    def build(self) -> onnx.ModelProto:
        """Return the model; not checked, because the checker asks for the shapes of outputs."""
        weights = list(self._weights.values())
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, initializer=weights)
        opsets = [helper.make_opsetid("", self.opset)]
        if any(node.domain for node in self._nodes):
            opsets.append(helper.make_opsetid("com.microsoft", 1))
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


Piece = Callable[[Encoder, str], Any]


def token_wise(g: Encoder, x: str) -> str:
    """Something that treats every value alone; most of them make something of a zero."""
    ways: list[Callable[[], str]] = [
        lambda: x,
        lambda: g.node("Neg", x),
        lambda: g.node("Sub", x, g.constant(3.0)),
        lambda: g.node("Add", x, g.constant(2.0)),
        lambda: g.node("Neg", g.node("Abs", x)),
        lambda: g.node("Exp", g.node("Tanh", x)),
        lambda: g.node("Sigmoid", x),
        lambda: g.node("Relu", x),
        lambda: g.node("Cos", x),
        lambda: g.node("Softplus", x),
        lambda: g.node("Clip", x, g.constant(0.25), g.constant(4.0)),
        lambda: g.node("Reciprocal", g.node("Add", g.node("Abs", x), g.constant(0.5))),
        lambda: g.node("Mul", x, g.constant(-1.5)),
        lambda: g.node("Mul", x, g.constant(g.pick((3e4, -3e4, 1e10)))),
        lambda: g.node("Max", x, g.constant(-0.5)),
        lambda: g.node("Min", x, g.constant(-0.5)),
        lambda: g.node("Pow", x, g.constant(2.0)),
    ]
    return g.pick(ways)()

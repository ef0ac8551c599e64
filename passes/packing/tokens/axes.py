"""Where each tensor keeps its tokens.

A tensor *carries tokens* when exactly one of its axes has the extent ``batch`` and exactly one ``seq`` (or the first
has the extent ``batch * seq``) and no other axis mentions either. Packed, the same tensor has the extents ``R`` and
``C`` there (``R * C``): rank and axis positions stay, so a node that treats every token alone runs unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs
import sympy

from passes.base import subgraphs
from passes.shapes.symbolic import Dim, Shape, SymbolicShapes, symbol

BATCH = symbol("poprt_batch")
SEQ = symbol("poprt_seq")

#: How interior extents are called on each side of a packed model.
PACKED_NAMES = {BATCH: "rows", SEQ: "columns"}
UNPACKED_NAMES = {BATCH: "samples", SEQ: "longest"}


@dataclass(frozen=True)
class TokenAxes:
    """The axes that carry the tokens; ``batch == seq`` where one axis carries both (extent batch * seq)."""

    batch: int
    seq: int

    @property
    def flat(self) -> bool:
        """Whether one axis carries all tokens."""
        return self.batch == self.seq

    @property
    def canonical(self) -> bool:
        """Whether the tensor is [batch, seq, ...], the layout that Unpack and Repack take."""
        return (self.batch, self.seq) == (0, 1)

    @property
    def positions(self) -> tuple[int, ...]:
        """The token axes, in order."""
        return (self.batch,) if self.flat else tuple(sorted((self.batch, self.seq)))


def mentions_tokens(extent: Any) -> bool:
    """Whether an extent depends on the batch size or the sequence length."""
    return isinstance(extent, sympy.Expr) and bool(extent.free_symbols & {BATCH, SEQ})


def token_axes(shape: Shape | None) -> TokenAxes | None:
    """The token axes of a shape, or None where it does not carry tokens."""
    if shape is None:
        return None
    mentioning = [axis for axis, extent in enumerate(shape) if mentions_tokens(extent)]
    if mentioning == [0] and sympy.expand(shape[0] - BATCH * SEQ) == 0:
        return TokenAxes(0, 0)
    if len(mentioning) != 2:
        return None
    extents = [shape[axis] for axis in mentioning]
    if extents == [BATCH, SEQ]:
        return TokenAxes(*mentioning)
    if extents == [SEQ, BATCH]:
        return TokenAxes(mentioning[1], mentioning[0])
    return None


def blocks(shape: Shape, token: TokenAxes) -> tuple[Dim, ...]:
    """Products of the extents before, between and after the token axes, with the order of the token axes.

    Two shapes with equal blocks hold every token's values in the same order.
    """
    first, last = token.positions[0], token.positions[-1]
    between = sympy.prod(shape[first + 1 : last]) if last > first else sympy.Integer(1)
    order = 1 if token.batch <= token.seq else -1
    return (sympy.prod(shape[:first]), between, sympy.prod(shape[last + 1 :]), order)


def is_known(extent: Dim) -> bool:
    """Whether an extent is a number."""
    return isinstance(extent, (int, sympy.Integer))


def show(shape: Shape | None) -> str:
    """A shape as messages print it."""
    if shape is None:
        return "of unknown rank"
    names = {"poprt_batch": "batch", "poprt_seq": "seq"}
    text = ", ".join(str(extent) for extent in shape)
    for internal, readable in names.items():
        text = text.replace(internal, readable)
    return f"[{text}]"


class AxisMap:
    """What is known of the graph's tensors: their shapes, their token axes, and whether they depend on an input.

    Attributes:
        shapes: the shapes by name.
        opset: of the graph's operators, whose meaning it decides.
    """

    def __init__(self, graph: gs.Graph, shapes: SymbolicShapes) -> None:
        self.shapes = shapes
        self.opset: int = graph.opset
        self._axes = {name: token_axes(shape) for name, shape in shapes.items()}
        self._dependent = input_dependent(graph)
        for node in graph.nodes:
            if any(True for _ in subgraphs(node)):
                # The branches of an If may differ in rank: what was inferred holds for one of them.
                for tensor in node.outputs:
                    self._axes[tensor.name] = None
                    self.shapes.pop(tensor.name, None)

    def shape(self, tensor: gs.Tensor) -> Shape | None:
        """The tensor's shape; None where its rank is unknown."""
        return self.shapes.get(tensor.name)

    def axes(self, tensor: gs.Tensor) -> TokenAxes | None:
        """The tensor's token axes; None where it carries no tokens or is not known to."""
        return self._axes.get(tensor.name) if tensor.name in self._dependent else None

    def require(self, tensor: gs.Tensor) -> TokenAxes:
        """The token axes of a tensor that is known to carry tokens.

        Raises:
            LookupError: it does not; whoever asked was wrong.
        """
        token = self.axes(tensor)
        if token is None:
            raise LookupError(f"tensor {tensor.name!r} {show(self.shape(tensor))} carries no tokens")
        return token

    def require_shape(self, tensor: gs.Tensor) -> Shape:
        """The shape of a tensor whose rank is known.

        Raises:
            LookupError: it is not; whoever asked was wrong.
        """
        shape = self.shape(tensor)
        if shape is None:
            raise LookupError(f"the rank of tensor {tensor.name!r} is not known")
        return shape

    def is_free(self, tensor: gs.Tensor) -> bool:
        """Whether the tensor depends on no input."""
        return tensor.name not in self._dependent

    def is_uniform(self, tensor: gs.Tensor) -> bool:
        """Whether the tensor's shape is known and depends on neither batch nor sequence."""
        shape = self.shape(tensor)
        return shape is not None and not any(mentions_tokens(extent) for extent in shape)

    def forget(self, tensor: gs.Tensor) -> None:
        """Count the tensor as one that carries no tokens."""
        self._axes[tensor.name] = None

    def record(self, tensor: gs.Tensor, shape: Shape) -> None:
        """Add what is known of a tensor that a rewrite made."""
        self.shapes[tensor.name] = shape
        self._axes[tensor.name] = token_axes(shape)
        self._dependent.add(tensor.name)


def input_dependent(graph: gs.Graph) -> set[str]:
    """Names of the tensors that depend on an input. Nodes must be in topological order."""
    dependent = {tensor.name for tensor in graph.inputs}
    for node in graph.nodes:
        if any(name in dependent for name in _read_names(node)):
            dependent.update(tensor.name for tensor in node.outputs)
    return dependent


def _read_names(node: gs.Node) -> set[str]:
    names = {tensor.name for tensor in node.inputs}
    for nested in subgraphs(node):
        for inner in nested.nodes:
            names |= _read_names(inner)
        names |= {tensor.name for tensor in nested.outputs}
    return names

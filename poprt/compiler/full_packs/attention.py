"""Attention by its axes: softmax(scale * query @ key + mask) @ value, where the mask hides nothing in a full pack."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.cleanup.rewiring import is_op, onnx_dtype
from passes.operators import default_axis
from passes.packing.tokens.axes import BATCH, SEQ, UNPACKED_NAMES
from poprt.compiler.full_packs.uniform import FullPackValues
from poprt.compiler.head_gathers import REPACK, UNPACK
from poprt.compiler.reshapes import maker, only_reader

_SAMPLES, _LONGEST = UNPACKED_NAMES[BATCH], UNPACKED_NAMES[SEQ]
_FLIP = [0, 1, 3, 2]
_BACK = [0, 2, 1, 3]
_NO_LOWER = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Tokens:
    """Query, key or value as it enters attention.

    Attributes:
        tensor: [1, T, heads * size] of the packed side, or [samples, heads, longest, size].
        packed: whether it is the first.
    """

    tensor: gs.Tensor
    packed: bool


class Form(enum.Enum):
    """The axes of a result of attention."""

    PACKED = "[1, T, heads, size]"
    PLACES = "[samples, longest, heads, size]"
    HEADS = "[samples, heads, longest, size]"


@dataclass(frozen=True)
class Attention:
    """One attention of the main graph.

    Attributes:
        tokens: query, key and value.
        scores: the product of query and key.
        scale: of the scores.
        heads, size: of the result.
        result: what is made of the last product by moving axes alone.
        form: the axes of the result.
    """

    tokens: tuple[Tokens, ...]
    scores: gs.Node
    scale: float
    heads: int
    size: int
    result: gs.Tensor
    form: Form


class AttentionFinder:
    """Finds attention.

    Args:
        graph: as GatherHeads leaves it.
        values: what its tensors hold in a full pack.
    """

    def __init__(self, graph: gs.Graph, values: FullPackValues) -> None:
        self._graph = graph
        self._values = values

    def find(self, product: gs.Node) -> Attention | None:
        """The attention whose last product is ``product``; None where it is none, or its mask means more."""
        heads, size = _heads(product.inputs[1], [2, 3]) if is_op(product, "MatMul") else (0, 0)
        if not heads or onnx_dtype(product.inputs[1]) != onnx.TensorProto.FLOAT:
            return None
        softmax = self._softmax(product.inputs[0])
        scores, scale = self._scores(softmax.inputs[0]) if softmax is not None else (None, 0.0)
        if scores is None or _heads(scores.inputs[0], [2, 3])[0] != heads:
            return None
        if _heads(scores.inputs[1], [3, 2]) != _heads(scores.inputs[0], [2, 3]):
            return None
        query, query_scale = self._unscaled(scores.inputs[0])
        key, key_scale = self._unflipped(scores.inputs[1])
        tokens = [_tokens(tensor, heads) for tensor in (query, key, product.inputs[1])]
        entering = tuple(item for item in tokens if item is not None)
        if len(entering) != len(tokens):
            return None
        result, form = self._result(product, heads)
        return Attention(entering, scores, scale * query_scale * key_scale, heads, size, result, form)

    def _softmax(self, tensor: gs.Tensor) -> gs.Node | None:
        """The softmax over keys that gives ``tensor``, but for a conversion, or zeros in place of NaN."""
        node = _made_by(tensor)
        while node is not None:
            if is_op(node, "Softmax"):
                axis = node.attrs.get("axis", default_axis("Softmax", self._graph.opset))
                return node if axis in (-1, 3) else None
            if is_op(node, "Where") and _replaces_nan(node):
                node = _made_by(node.inputs[2])
            elif _is_conversion(node):
                node = maker(node)
            else:
                return None
        return None

    def _scores(self, tensor: gs.Tensor) -> tuple[gs.Node | None, float]:
        """The product of query and key, and by what it is scaled on its way to ``tensor``."""
        scale = 1.0
        while (node := _made_by(tensor)) is not None:
            if is_op(node, "MatMul"):
                return node, scale
            if is_op(node, "Add", "Where", "Max"):
                unmasked = self._unmasked(node)
                if unmasked is None:
                    break
                tensor = unmasked
            else:
                tensor, factor = self._one_factor(node)
                if factor is None:
                    break
                scale *= factor
        return None, scale

    def _unmasked(self, node: gs.Node) -> gs.Tensor | None:
        """The scores that a mask is applied to, where it changes none of them in a full pack."""
        if is_op(node, "Where"):
            chosen = self._values.value(node.inputs[0])
            return None if chosen is None else node.inputs[1 if chosen else 2]
        if len(node.inputs) != 2:
            return None
        for operand, other in (node.inputs, node.inputs[::-1]):
            value = self._values.value(other)
            if value is not None and bool(value <= _NO_LOWER if is_op(node, "Max") else value == 0):
                return operand
        return None

    def _one_factor(self, node: gs.Node) -> tuple[gs.Tensor, float | None]:
        """What ``node`` scales by one number, and that number."""
        if _is_conversion(node):
            return node.inputs[0], 1.0
        if is_op(node, "Mul", "Div"):
            for operand, other in (node.inputs, node.inputs[::-1]):
                value = self._values.value(other)
                if value is not None and np.isfinite(value[0]) and value[0] > 0:
                    return operand, float(value[0] if is_op(node, "Mul") else 1 / value[0])
                if is_op(node, "Div"):
                    break
        return node.outputs[0], None

    def _unscaled(self, tensor: gs.Tensor) -> tuple[gs.Tensor, float]:
        scale = 1.0
        while (node := _made_by(tensor)) is not None:
            source, factor = self._one_factor(node)
            if factor is None:
                break
            tensor, scale = source, scale * factor
        return tensor, scale

    def _unflipped(self, tensor: gs.Tensor) -> tuple[gs.Tensor | None, float]:
        """The key [samples, heads, longest, size] of a flipped one."""
        flipped, scale = self._unscaled(tensor)
        node = _made_by(flipped)
        if node is None or not is_op(node, "Transpose") or node.attrs.get("perm") != _FLIP:
            return None, scale
        key, factor = self._unscaled(node.inputs[0])
        return key, scale * factor

    def _result(self, product: gs.Node, heads: int) -> tuple[gs.Tensor, Form]:
        """What is made of the product's result by moving axes alone, and its axes."""
        reader = only_reader(product, self._graph)
        if reader is not None and is_op(reader, "Transpose") and reader.attrs.get("perm") == _BACK:
            return reader.outputs[0], Form.PLACES
        gather = only_reader(reader, self._graph) if reader is not None and is_op(reader, "Reshape") else None
        if gather is not None and is_op(gather, "Gather") and gather.inputs[1].name == f"{REPACK}{heads}":
            row = only_reader(gather, self._graph)
            if row is not None and is_op(row, "Unsqueeze"):
                return row.outputs[0], Form.PACKED
        return product.outputs[0], Form.HEADS


def _made_by(tensor: gs.Tensor) -> gs.Node | None:
    return tensor.inputs[0] if len(tensor.inputs) == 1 else None


def _heads(tensor: gs.Tensor, places: list[int]) -> tuple[int, int]:
    """Heads and head size of [samples, heads, ...] with longest and size at ``places``; zeros for other shapes."""
    shape = list(tensor.shape or [])
    if len(shape) != 4 or shape[0] != _SAMPLES or shape[places[0]] != _LONGEST:
        return 0, 0
    heads, size = shape[1], shape[places[1]]
    return (heads, size) if isinstance(heads, int) and isinstance(size, int) else (0, 0)


def _tokens(tensor: gs.Tensor | None, heads: int) -> Tokens | None:
    """Where ``tensor`` comes from: the stream that it is gathered from, or itself."""
    node = _made_by(tensor) if tensor is not None else None
    if node is not None and is_op(node, "Gather") and _is_of_heads(node.inputs[1], heads):
        return Tokens(_stream(node.inputs[0]), packed=True)
    return Tokens(tensor, packed=False) if tensor is not None and _heads(tensor, [2, 3])[0] == heads else None


def _is_of_heads(index: gs.Tensor, heads: int) -> bool:
    """Whether an index unpacks to [samples, heads, longest]: that of ``heads`` rows a token, its last axes swapped."""
    swap = _made_by(index)
    shaped = maker(swap)
    if swap is None or shaped is None or not is_op(swap, "Transpose") or swap.attrs.get("perm") != [0, 2, 1]:
        return False
    return bool(is_op(shaped, "Reshape") and shaped.inputs[0].name == f"{UNPACK}{heads}")


def _stream(rows: gs.Tensor) -> gs.Tensor:
    """[1, T, hidden] of its zero-first rows of a head: Reshape, Concat, Reshape."""
    concat = rows.inputs[0].inputs[0].inputs[0]
    stream = concat.inputs[1]
    return stream.inputs[0].inputs[0]


def _is_conversion(node: gs.Node) -> bool:
    """Whether ``node`` passes floats on as they are."""
    same = is_op(node, "Cast") and node.attrs.get("to") == onnx.TensorProto.FLOAT
    return bool(is_op(node, "Identity") or (same and onnx_dtype(node.inputs[0]) == onnx.TensorProto.FLOAT))


def _replaces_nan(node: gs.Node) -> bool:
    """Whether ``node`` is Where(IsNaN(x), any, x)."""
    test = _made_by(node.inputs[0])
    return test is not None and is_op(test, "IsNaN") and test.inputs[0] is node.inputs[2]

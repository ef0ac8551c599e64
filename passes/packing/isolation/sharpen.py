"""Makes what hides padding from a softmax stronger than anything that a mask can say.

A model adds -10000 where its mask is 0. A large score outweighs that, and where a sample's own mask is 0 throughout,
its places and the padding look alike. Padding must be further away than both: it gets -inf.

    scores [n, h, L, L] + mask [n, 1, 1, L]  ->  scores + Where(is a token [n, 1, 1, L], mask, -inf)

In a run without padding nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.fusion.attention_ops import attention_inputs, input_at
from passes.operators import KEEPS_VALUES, Family, members
from passes.packing.isolation.facts import Facts
from passes.packing.isolation.values import LOW_SCORE
from passes.packing.tokens.axes import BATCH, SEQ
from passes.packing.tokens.presence import add_placed, laid_along, token_numbers
from passes.packing.tokens.sides import PlacedGraph
from passes.refusal import RefusedError

#: Operators through which scores pass on their way to the softmax.
_ON_THE_WAY = members(Family.ARITHMETIC, Family.CLAMP) | KEEPS_VALUES | {"Where"}
_WEIGHING = frozenset({"Softmax", "LogSoftmax", "Exp", "ReduceLogSumExp"})


@dataclass
class Sharpener:
    """Puts -inf where padding is, into the masks of the unpacked side.

    Args:
        placed: the graph before it is rewritten; it gets the nodes.
        facts: what is known of a tensor of the unpacked side.
        anchor: an input [batch, seq, ...].
    """

    placed: PlacedGraph
    facts: Callable[[gs.Tensor], Facts]
    anchor: gs.Tensor
    _made: dict[Any, gs.Tensor] = field(default_factory=dict)

    def run(self) -> int:
        """Change the graph; returns how many masks were changed."""
        changed: dict[tuple[int, int], tuple[gs.Node, int]] = {}
        for node in self.placed.graph.nodes:
            if self.placed.runs_packed(node):
                continue
            if node.op in _WEIGHING and self._weighs_the_last_axis(node):
                changed.update(self._masks_before(node.inputs[0]))
            slots = attention_inputs(node)
            bias = input_at(node, slots.bias) if slots else None
            if slots and bias is not None and self._is_mask(bias):
                changed[id(node), slots.bias] = (node, slots.bias)
        count = sum(self._sharpen(node, index) for node, index in changed.values())
        self.placed.graph.toposort(mode="nodes")
        return count

    def _weighs_the_last_axis(self, node: gs.Node) -> bool:
        """Whether a softmax looks along the last axis: along another, a column of padding would be -inf throughout."""
        if node.op not in ("Softmax", "LogSoftmax") or self.placed.axes.opset < 13:
            return True
        shape = self.placed.axes.shape(node.inputs[0])
        return int(node.attrs.get("axis", -1)) in (-1, len(shape or ()) - 1)

    def _masks_before(self, tensor: gs.Tensor) -> dict[tuple[int, int], tuple[gs.Node, int]]:
        """The operands by which scores on the way to ``tensor`` become low at padding."""
        applied: dict[tuple[int, int], tuple[gs.Node, int]] = {}
        todo, seen = [tensor], set()
        while todo:
            for node in todo.pop().inputs:
                if id(node) in seen or self.placed.runs_packed(node) or not self._lets_through(node):
                    continue
                seen.add(id(node))
                masks = (
                    []
                    if node.op not in ("Add", "Where")
                    else [index for index, operand in enumerate(node.inputs) if self._is_applied(node, index, operand)]
                )
                applied.update({(id(node), index): (node, index) for index in masks})
                todo.extend(operand for index, operand in enumerate(node.inputs) if index not in masks)
        return applied

    def _lets_through(self, node: gs.Node) -> bool:
        """Whether -inf stays -inf, or a number, in a node: a factor that is zero at padding makes NaN of it."""
        factors = [tensor for tensor in node.inputs if not self.placed.axes.is_free(tensor)]
        return node.op in _ON_THE_WAY and (node.op not in ("Mul", "Div") or len(factors) < 2)

    def _is_applied(self, node: gs.Node, index: int, operand: gs.Tensor) -> bool:
        """Whether an operand is a mask that is added, or the low number that replaces hidden scores."""
        if node.op == "Add":
            return self._is_mask(operand)
        if index == 0 or operand.is_empty() or not self.placed.axes.is_free(operand):
            return False
        value = self.facts(operand).real
        return value.is_exact and value.low <= LOW_SCORE and np.isfinite(value.low)

    def _is_mask(self, tensor: gs.Tensor) -> bool:
        """Whether a tensor is one known, low and finite number in the padded places of an axis."""
        if self.placed.axes.is_free(tensor) or self._dtype(tensor).kind != "f":
            return False
        try:
            facts = self.facts(tensor)
        except RefusedError:
            return False
        return any(item.is_exact and item.low <= LOW_SCORE and np.isfinite(item.low) for item in facts.padded.values())

    def _sharpen(self, node: gs.Node, index: int) -> bool:
        operand, result = node.inputs[index], node.outputs[0]
        free = self.placed.axes.is_free(operand)
        like = result if free or node.op == "Where" else operand
        shape = self.placed.axes.shape(like)
        key_axis = self._key_axis(like)
        if shape is None or key_axis is None or shape.count(BATCH) != 1:
            shape, like = self.placed.axes.shape(result), result
            key_axis = self._key_axis(result)
        if shape is None or key_axis is None or shape.count(BATCH) != 1:
            return False  # batch and heads share an axis: the mask stays as strong as the model made it
        token = self._is_token(shape.index(BATCH), key_axis, len(shape))
        node.inputs[index] = self._selected(token, operand, len(shape), shape.index(BATCH), key_axis)
        return True

    def _key_axis(self, tensor: gs.Tensor) -> int | None:
        """The last axis, where it holds the places that a softmax weighs."""
        shape = self.placed.axes.shape(tensor)
        return len(shape) - 1 if shape and shape[-1] == SEQ else None

    def _selected(self, token: gs.Tensor, operand: gs.Tensor, rank: int, batch: int, key: int) -> gs.Tensor:
        made_for = ("selected", operand.name, rank, batch, key)
        if made_for not in self._made:
            dtype = self._dtype(operand)
            lowest = gs.Constant(f"{token.name}_hidden_{dtype.name}_{len(self._made)}", np.array(-np.inf, dtype))
            own = list(self.placed.axes.shape(operand) or ())
            shape = [1] * (rank - len(own)) + own
            shape[batch], shape[key] = BATCH, SEQ
            name = f"{operand.name}_of_tokens_{len(self._made)}"
            self._made[made_for] = self._node("Where", name, [token, operand, lowest], dtype, tuple(shape))
        return self._made[made_for]

    def _is_token(self, batch: int, key: int, rank: int) -> gs.Tensor:
        """bool, true where a token stands: [n, L] laid along the axes ``batch`` and ``key`` of ``rank``."""
        made_for = ("token", batch, key, rank)
        if made_for not in self._made:
            name = f"is_token_{rank}_{batch}_{key}"
            tensor = laid_along(self.placed, self._grid(), name, batch, key, rank)
            self._made[made_for] = tensor
        return self._made[made_for]

    def _grid(self) -> gs.Tensor:
        """bool [n, L], true where a token stands: one everywhere on the packed side, zero where Unpack fills.

        All places of a row without a sample count as tokens, so that no row of scores is -inf throughout.
        """
        if "grid" not in self._made:
            grid, truth = (BATCH, SEQ), onnx.TensorProto.BOOL
            number = token_numbers(self.placed, self.anchor, "token_number")
            places = gs.Constant("token_count_axis", np.array([1], np.int64))
            none = gs.Constant("token_count_none", np.array(0, np.int32))
            count = self._node("ReduceSum", "token_count", [number, places], np.int32, (BATCH, 1), keepdims=1)
            absent = self._node("Equal", "sample_absent", [count, none], np.bool_, (BATCH, 1))
            present = self._node("Cast", "token_present", [number], np.bool_, grid, to=truth)
            self._made["grid"] = self._node("Or", "is_token", [present, absent], np.bool_, grid)
        return self._made["grid"]

    def _node(
        self, op: str, name: str, inputs: list[gs.Tensor], dtype: Any, shape: tuple[Any, ...], **attrs: Any
    ) -> gs.Tensor:
        return add_placed(self.placed, op, name, inputs, dtype, shape, **attrs)

    def _dtype(self, tensor: gs.Tensor) -> np.dtype[Any]:
        declared = tensor.dtype
        if declared is None:
            element = self.placed.axes.shapes.dtypes.get(tensor.name, onnx.TensorProto.FLOAT)
            declared = onnx.helper.tensor_dtype_to_np_dtype(element)
        dtype: np.dtype[Any] = np.dtype(declared)
        return dtype

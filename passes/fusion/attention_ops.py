"""The fused attention operators: which of their inputs is what.

com.microsoft's Attention projects its input itself; com.microsoft's MultiHeadAttention and the standard Attention
(opset 23) take query, key and value. All give [batch, seq, hidden] or [batch, heads, seq, head size] as first output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from passes.operators import CONTRIB


@dataclass(frozen=True)
class AttentionInputs:
    """Input indices of a fused attention operator.

    Attributes:
        tokens: query, key and value; one input where the operator projects it itself.
        padding: keys to leave out: their number for each sample, or a mask of them.
        bias: what is added to the scores (the standard operator also takes booleans there).
        lengths: the number of keys of each sample, where that has an input of its own.
        past: keys and values of earlier runs.
    """

    tokens: tuple[int, ...]
    padding: int | None
    bias: int
    lengths: int | None
    past: tuple[int, ...]

    @property
    def masks(self) -> tuple[int, ...]:
        """All inputs that say which places attend to which."""
        return tuple(index for index in (self.padding, self.bias, self.lengths) if index is not None)


_OPS = {
    (CONTRIB, "Attention"): AttentionInputs((0,), 3, 5, None, (4, 6)),
    (CONTRIB, "MultiHeadAttention"): AttentionInputs((0, 1, 2), 4, 5, None, (6, 7, 8, 9)),
    ("", "Attention"): AttentionInputs((0, 1, 2), None, 3, 6, (4, 5)),
}


def attention_inputs(node: gs.Node) -> AttentionInputs | None:
    """The inputs of a fused attention operator; None for any other node."""
    return _OPS.get((node.domain or "", node.op))


def require_attention_inputs(node: gs.Node) -> AttentionInputs:
    """The inputs of a node that is known to be a fused attention operator.

    Raises:
        KeyError: it is not; whoever asked was wrong.
    """
    return _OPS[node.domain or "", node.op]


def input_at(node: gs.Node, index: int | None) -> gs.Tensor | None:
    """An optional input; None where it is left out."""
    if index is None or index >= len(node.inputs) or node.inputs[index].is_empty():
        return None
    return node.inputs[index]


def inputs_at(node: gs.Node, indices: Sequence[int]) -> list[gs.Tensor]:
    """Those of the optional inputs that are given."""
    return [tensor for index in indices if (tensor := input_at(node, index)) is not None]

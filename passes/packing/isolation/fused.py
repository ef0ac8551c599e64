"""Rules of fused attention: queries [n, L, H], keys and values likewise, and what hides the padded keys."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.fusion.attention_ops import input_at, inputs_at, require_attention_inputs
from passes.operators import CONTRIB
from passes.packing.isolation import values as v
from passes.packing.isolation.facts import Facts, facts_of
from passes.packing.isolation.proof import View
from passes.packing.isolation.table import rule
from passes.refusal import Cause, refused


# query, key, value [n, L, H] and a mask [n, L] -> [n, L, H]: proved where the mask is zero at padding.
@rule("Attention")
@rule("Attention", "MultiHeadAttention", domain=CONTRIB)
def _fused_attention(view: View) -> list[Facts]:
    tokens = inputs_at(view.node, require_attention_inputs(view.node).tokens)
    for tensor in tokens:
        if view.batch(tensor) != (0,) or not set(view.seq(tensor)) <= {1, view.rank(tensor) - 2}:
            raise refused("its query, key and value are not [samples, places, size]", Cause.SAMPLES)
    finite = all(view.facts(tensor).anywhere.is_finite for tensor in tokens)
    keys = tokens[1] if len(tokens) > 1 else tokens[0]
    if view.seq(keys) and not (finite and _hides_padding(view)):
        raise refused("it attends to padding, which nothing masks", Cause.PADDING)
    return [facts_of(v.NUMBER, view.seq(output) if output.name else (), v.ORDINARY) for output in view.node.outputs]


def _hides_padding(view: View) -> bool:
    node = view.node
    if node.attrs.get("is_causal", 0) or node.attrs.get("unidirectional", 0):
        return True  # a query of the sample sees no later place
    slots = require_attention_inputs(node)
    padding, bias, lengths = (input_at(node, index) for index in (slots.padding, slots.bias, slots.lengths))
    return (
        _excludes(view, padding)
        or (bias is not None and _forbids(view, bias))
        or (lengths is not None and not view.seq(lengths))
    )


def _excludes(view: View, mask: gs.Tensor | None) -> bool:
    """Whether an integer mask is zero at padding, or counts the places of each sample."""
    if mask is None:
        return False
    if view.rank(mask) == 1:
        view.facts(mask)
        return view.batch(mask) == (0,) and not view.seq(mask)
    facts = view.facts(mask)
    return view.rank(mask) - 1 in facts.padded and facts.at(view.rank(mask) - 1).is_zero


def _forbids(view: View, bias: gs.Tensor) -> bool:
    """Whether what is added to the scores is low at padded keys, or what allows a pair is false there."""
    facts, last = view.facts(bias), view.rank(bias) - 1
    if last not in facts.padded:
        return False
    return facts.at(last).is_below(v.LOW_SCORE) or (facts.at(last).is_zero and view.is_boolean(bias))

"""Which samples may share a run of a packed model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from passes.operators import ELEMENTWISE, QUANTISATION, Family, members
from passes.packing.isolation.facts import Facts
from passes.packing.isolation.proof import IsolationProof, Unproved
from passes.packing.isolation.rules import RULES
from passes.packing.isolation.values import ZERO, Values
from passes.packing.tokens.sides import PlacedGraph
from passes.packing.tokens.subsampling import WHOLE, Subsampling
from passes.refusal import Cause, Refusal, explain

#: Samples that may share a run, from all to none: any others, those of the same length, no other.
ANY, SAME_LENGTH, NONE = "any", "same_length", "none"
#: Operators that may apply a mask: they compute or move each place alone.
_CHEAP = ELEMENTWISE | QUANTISATION | members(Family.ORDER, Family.AXES) | {"Expand"}


@dataclass(frozen=True)
class Isolation:
    """What was proved.

    Attributes:
        refusals: nodes that are not proved to hide padding or neighbours, in order.
        facts: what is known of a tensor of the unpacked side.
    """

    refusals: tuple[Refusal, ...]
    facts: Callable[[gs.Tensor], Facts] = field(compare=False, repr=False)

    @property
    def neighbours(self) -> str:
        """Which samples may share a run."""
        if any(refusal.cause is not Cause.PADDING for refusal in self.refusals):
            return NONE
        return SAME_LENGTH if self.refusals else ANY

    def explain(self) -> str:
        """The first nodes that are not proved, and why; "" where all are."""
        return explain(self.refusals)


def isolate(
    placed: PlacedGraph,
    masks: Sequence[str],
    width: int,
    crossing: Callable[[str], Values] = lambda name: ZERO,
    handed: Subsampling = WHOLE,
) -> Isolation:
    """Prove what can be proved of a packed graph.

    A mask that is applied on the packed side is lost at the Unpack, which fills with zeros. Where that is why a node
    is not proved, the nodes that apply the mask are moved to the unpacked side; ``placed`` is changed so.

    Args:
        placed: the graph before it is rewritten.
        masks: names of the inputs that serve as a mask alone.
        width: places of the longest sample.
        crossing: by name of a packed tensor, what stands in its padded places once it is unpacked.
        handed: how the places of the results follow from the tokens.
    """

    def prove() -> tuple[list[Unproved], Callable[[gs.Tensor], Facts]]:
        proof = IsolationProof(placed, masks, width, RULES, crossing, handed)
        return proof.run(), proof.facts

    unproved, facts = prove()
    applying = [mask_application(placed, node, masks) for node, _ in unproved]
    packed = placed.placement.packed
    # All together first: a sum of masked tokens and the sum of the mask share what applies it.
    for moved in [set().union(*applying), *applying]:
        moved &= packed
        if not unproved or not moved:
            continue
        packed -= moved
        fewer, better_facts = prove()
        if len(fewer) < len(unproved):
            unproved, facts = fewer, better_facts
        else:
            packed |= moved
    return Isolation(tuple(refusal for _, refusal in unproved), facts)


def mask_application(placed: PlacedGraph, sink: gs.Node, masks: Sequence[str]) -> set[int]:
    """Ids of the packed nodes between the masks and ``sink`` that apply a mask to what ``sink`` reads.

    Where(mask == 0, -1e9, h) -> max over L: the Equal and the Where. Matrix products are not among them.
    """
    before = _packed_ancestors(sink, placed)
    applying = set(masks)
    application: set[int] = set()
    for node in placed.graph.nodes:
        if id(node) not in before:
            continue
        if any(tensor.name in applying for tensor in node.inputs):
            application.add(id(node))
            applying.update(tensor.name for tensor in node.outputs)
    return application


def _packed_ancestors(sink: gs.Node, placed: PlacedGraph) -> set[int]:
    """Ids of the packed nodes that lead to ``sink`` with nothing but cheap ones, and none unpacked, between.

    A DequantizeLinear stands on the side of what reads it, and is passed on either.
    """
    seen: set[int] = set()
    todo = list(sink.inputs)
    while todo:
        for node in todo.pop().inputs:
            side = placed.runs_packed(node) or node.op == "DequantizeLinear"
            if id(node) in seen or not side or node.op not in _CHEAP:
                continue
            seen.add(id(node))
            todo.extend(node.inputs)
    return seen

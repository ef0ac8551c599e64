"""Which samples may share a run of a packed model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from passes.base import node_label
from passes.operators import ELEMENTWISE, Family, members
from passes.packing.isolation.facts import Facts
from passes.packing.isolation.proof import IsolationProof, Leak
from passes.packing.isolation.rules import RULES
from passes.packing.isolation.values import ZERO, Values
from passes.packing.tokens.axes import AxisMap
from passes.packing.tokens.sides import Placement

#: Samples that may share a run, from all to none: any others, those of the same length, no other.
ANY, SAME_LENGTH, NONE = "any", "same_length", "none"
_MOST_NAMED = 3
#: Operators that may apply a mask: they compute or move each place alone.
_CHEAP = ELEMENTWISE | members(Family.ORDER, Family.AXES) | {"Expand"}


@dataclass(frozen=True)
class Isolation:
    """What was proved.

    Attributes:
        leaks: nodes that are not proved to hide padding or neighbours, in order.
        facts: what is known of a tensor of the unpacked side.
    """

    leaks: tuple[Leak, ...]
    facts: Callable[[gs.Tensor], Facts] = field(compare=False, repr=False)

    @property
    def neighbours(self) -> str:
        """Which samples may share a run."""
        if any(leak.mixes for leak in self.leaks):
            return NONE
        return SAME_LENGTH if self.leaks else ANY

    def explain(self) -> str:
        """The first nodes that are not proved, and why; "" where all are."""
        shown = [f"{node_label(leak.node)}: {leak.reason}" for leak in self.leaks[:_MOST_NAMED]]
        more = len(self.leaks) - _MOST_NAMED
        return "; ".join(shown) + (f" (and {more} more)" if more > 0 else "")


def isolate(
    graph: gs.Graph,
    axes: AxisMap,
    placement: Placement,
    masks: Sequence[str],
    width: int,
    crossing: Callable[[str], Values] = lambda name: ZERO,
) -> Isolation:
    """Prove what can be proved of a packed graph.

    A mask that is applied on the packed side is lost at the Unpack, which fills with zeros. Where that is why a node
    is not proved, the nodes that apply the mask are moved to the unpacked side; ``placement`` is changed so.

    Args:
        graph: in topological order, before it is rewritten.
        axes: shapes of its tensors.
        placement: which nodes run packed.
        masks: names of the inputs that serve as a mask alone.
        width: places of the longest sample.
        crossing: by name of a packed tensor, what stands in its padded places once it is unpacked.
    """

    def prove() -> Isolation:
        proof = IsolationProof(graph, axes, placement, masks, width, RULES, crossing)
        return Isolation(tuple(proof.run()), proof.facts)

    proved = prove()
    applying = [mask_application(graph, leak.node, placement, masks) for leak in proved.leaks]
    # All together first: a sum of masked tokens and the sum of the mask share what applies it.
    for moved in [set().union(*applying), *applying]:
        moved &= placement.packed
        if not proved.leaks or not moved:
            continue
        placement.packed -= moved
        better = prove()
        if len(better.leaks) < len(proved.leaks):
            proved = better
        else:
            placement.packed |= moved
    return proved


def mask_application(graph: gs.Graph, sink: gs.Node, placement: Placement, masks: Sequence[str]) -> set[int]:
    """Ids of the packed nodes between the masks and ``sink`` that apply a mask to what ``sink`` reads.

    Where(mask == 0, -1e9, h) -> max over L: the Equal and the Where. Matrix products are not among them.
    """
    before = _packed_ancestors(sink, placement)
    applying = set(masks)
    found: set[int] = set()
    for node in graph.nodes:
        if id(node) not in before:
            continue
        if any(tensor.name in applying for tensor in node.inputs):
            found.add(id(node))
            applying.update(tensor.name for tensor in node.outputs)
    return found


def _packed_ancestors(sink: gs.Node, placement: Placement) -> set[int]:
    """Ids of the packed nodes that lead to ``sink`` with nothing but cheap ones, and none unpacked, between."""
    seen: set[int] = set()
    todo = list(sink.inputs)
    while todo:
        for node in todo.pop().inputs:
            if id(node) in seen or not placement.runs_packed(node) or node.op not in _CHEAP:
                continue
            seen.add(id(node))
            todo.extend(node.inputs)
    return seen

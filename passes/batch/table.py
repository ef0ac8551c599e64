"""The table of the rules that say where an operator leads the batch, and what several of them ask.

A rule takes the node and what is known, and gives the batch axis of all outputs, or one for each, None where an output
has none. It proves that a sample's result is made of that sample alone, or raises RefusedError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import onnx_graphsurgeon as gs

from passes.batch.batch_axes import BatchAxes, BatchAxis, Rule
from passes.refusal import refused

#: Domain and operator -> its rule.
RULES: dict[tuple[str, str], Rule] = {}


def find_rule(node: gs.Node) -> Rule:
    """The rule of a node's operator.

    Raises:
        RefusedError: there is none.
    """
    domain = "" if node.domain in (None, "ai.onnx") else node.domain
    rule = RULES.get((domain, node.op))
    if rule is None:
        raise refused("it may look along the batch")
    return rule


def rule(*ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Decorator: the rule of these operators."""

    def note(own: Rule) -> Rule:
        RULES.update(dict.fromkeys(((domain, op) for op in ops), own))
        return own

    return note


def broadcast(node: gs.Node, batch: BatchAxes, indices: Iterable[int]) -> BatchAxis:
    """The batch axis of operands that broadcast against each other."""
    ranks = {index: len(batch.shape(node.inputs[index])) for index in indices if not node.inputs[index].is_empty()}
    places = {
        (place.axis - rank, place.inner)
        for index, rank in ranks.items()
        if (place := batch.of(node.inputs[index])) is not None
    }
    if len(places) != 1:
        raise refused("its operands keep their samples in other axes")
    from_end, inner = places.pop()
    for index, rank in ranks.items():
        if batch.of(node.inputs[index]) is None and rank + from_end >= 0:
            meet(node, batch, index, rank + from_end, inner)
    return BatchAxis(max(ranks.values()) + from_end, inner)


def meet(node: gs.Node, batch: BatchAxes, index: int, axis: int, inner: int) -> None:
    """An operand without samples has ``axis`` where the others have theirs."""
    extent = batch.shape(node.inputs[index])[axis]
    if extent == 1:
        return
    if extent != batch.size * inner:
        raise refused(f"pairs samples with the {extent} places of {node.inputs[index].name!r}")
    batch.settle(node, index, axis)


def apart_from(node: gs.Node, batch: BatchAxes, axes: Iterable[Any]) -> BatchAxis:
    """The batch axis of the first input, which must be none of ``axes``."""
    tensor = node.inputs[0]
    place = batch.require(tensor)
    if place.axis in normalised(axes, len(batch.shape(tensor))):
        raise refused(f"works along the samples of {tensor.name!r}")
    return place


def without(place: BatchAxis, removed: Sequence[int]) -> BatchAxis:
    """``place`` after the axes ``removed``, none of which it is, are gone."""
    return BatchAxis(place.axis - sum(axis < place.axis for axis in removed), place.inner)


def normalised(axes: Iterable[Any], rank: int) -> list[int]:
    """Axes counted from the front."""
    return [int(axis) + rank if axis < 0 else int(axis) for axis in axes]


def must_not_depend(tensors: Iterable[gs.Tensor], batch: BatchAxes) -> None:
    """Refuse arguments that depend on the samples."""
    for tensor in tensors:
        if batch.of(tensor) is not None:
            raise refused(f"is told by {tensor.name!r}, which depends on the samples, how to work")

"""Why a place of a graph was left alone: one record. Code asks its fields; people read its one rendering.

A rule that only judges returns ``Refusal | None``. One that computes something raises :class:`RefusedError`; whoever
walks the graph catches it and adds the node.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

MOST_NAMED = 3


class Cause(enum.Enum):
    """What code has to know of a refusal; what the node does stands in the reason, for people."""

    #: Nobody asks.
    OTHER = enum.auto()
    #: The node reads what a refused node gives, and does nothing wrong itself.
    FOLLOWS = enum.auto()
    #: What stands in padding may show in an answer.
    PADDING = enum.auto()
    #: Even samples of one length might see each other.
    SAMPLES = enum.auto()
    #: The node surely looks along the samples of a batch.
    BATCH = enum.auto()


@dataclass(frozen=True)
class NodeName:
    """How a node is called.

    Attributes:
        op: its operator; "" where a tensor, a function or the whole model is meant.
        name: its own name, or that of its first output where it has none.
    """

    op: str
    name: str

    @classmethod
    def of(cls, node: gs.Node) -> NodeName:
        """The name of ``node``."""
        outputs = [tensor.name for tensor in node.outputs if tensor.name]
        return cls(node.op, node.name or (outputs[0] if outputs else "(unnamed)"))

    def __str__(self) -> str:
        return f"{self.op} {self.name!r}" if self.op else self.name


@dataclass(frozen=True)
class Refusal:
    """A place that was looked at and left alone.

    Attributes:
        node: where; None until whoever walks the graph says so (:meth:`at`), or where no single node is meant.
        reason: what stands against it, to follow the node's name and a colon.
        cause: what code asks.
    """

    node: NodeName | None
    reason: str
    cause: Cause = Cause.OTHER

    def __str__(self) -> str:
        return self.reason if self.node is None else f"{self.node}: {self.reason}"

    def at(self, node: gs.Node) -> Refusal:
        """This refusal, said of ``node``; a node that it names already stays."""
        return self if self.node is not None else replace(self, node=NodeName.of(node))


class RefusedError(Exception):
    """A rule has no answer for its node.

    Args:
        refusal: why.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


def because(reason: str, cause: Cause = Cause.OTHER) -> Refusal:
    """A refusal of the node that is being looked at."""
    return Refusal(None, reason, cause)


def refused(reason: str, cause: Cause = Cause.OTHER) -> RefusedError:
    """The exception to raise for :func:`because`."""
    return RefusedError(because(reason, cause))


def first_refusal(answers: Iterable[Refusal | None]) -> Refusal | None:
    """The first refusal among the answers to several questions, all of which were asked; None where all are None."""
    return next((answer for answer in answers if answer is not None), None)


def explain(refusals: Sequence[Refusal], most: int = MOST_NAMED) -> str:
    """The first ``most`` of several refusals on one line, and how many more there are; "" where there are none."""
    more = len(refusals) - most
    return "; ".join(map(str, refusals[:most])) + (f" (and {more} more)" if more > 0 else "")

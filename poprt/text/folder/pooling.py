"""The ways to make one vector of a text's token vectors, as nodes that hide padding.

A mask is 1 for a token and 0 for padding. Each way multiplies by it, or puts a low number in its place: that is what
the proof of packing asks for (passes/packing/isolation).
"""

from __future__ import annotations

from collections.abc import Callable

from poprt.text.folder.building import Nodes

_SMALL = 1e-9
#: What sentence-transformers puts in the place of padding before it takes the maximum.
_LOW = -1e9


class Pooler:
    """Pools vectors of tokens.

    Args:
        nodes: where nodes are added.
        hidden: float32 [batch, sequence, hidden].
        mask: float32 [batch, sequence], 1 or 0.
    """

    def __init__(self, nodes: Nodes, hidden: str, mask: str) -> None:
        self._nodes = nodes
        self._hidden = hidden
        self._mask = mask
        self._ways: dict[str, Callable[[], str]] = {
            "cls": self._cls,
            "max": self._max,
            "mean": self._mean,
            "mean_sqrt_len": self._mean_sqrt_len,
            "weightedmean": self._weightedmean,
            "lasttoken": self._lasttoken,
        }

    def pool(self, way: str) -> str:
        """The pooled vectors [batch, hidden], by one of ``modules.POOLINGS``."""
        return self._ways[way]()

    def _cls(self) -> str:
        return self._nodes.add("Gather", [self._hidden, self._nodes.integers(0)], axis=1)

    def _max(self) -> str:
        nodes = self._nodes
        real = nodes.add("Greater", [self._column(self._mask), nodes.floats(0.0)])
        return nodes.reduce("ReduceMax", nodes.add("Where", [real, self._hidden, nodes.floats(_LOW)]))

    def _mean(self) -> str:
        return self._nodes.add("Div", [self._sum(self._mask), self._count(self._mask)])

    def _mean_sqrt_len(self) -> str:
        return self._nodes.add("Div", [self._sum(self._mask), self._nodes.add("Sqrt", [self._count(self._mask)])])

    def _weightedmean(self) -> str:
        """Token i of n weighs i / n, so that the sum of the weights of a long text stays small."""
        nodes = self._nodes
        places = nodes.add("Mul", [self._places(), self._mask])
        weights = nodes.add("Div", [places, self._count(self._mask)])
        return nodes.add("Div", [self._sum(weights), self._count(weights)])

    def _lasttoken(self) -> str:
        """The vectors times 1 at the last token and 0 elsewhere, added up: no place is counted from the row's end."""
        nodes = self._nodes
        behind = nodes.add("Sub", [self._count(self._mask), self._places()])
        last = nodes.add("Cast", [nodes.add("Less", [behind, nodes.floats(0.5)])], to=1)
        return self._sum(nodes.add("Mul", [last, self._mask]))

    def _places(self) -> str:
        """1 for the first token, 2 for the next one."""
        return self._nodes.add("CumSum", [self._mask, self._nodes.integers(1)])

    def _column(self, weights: str) -> str:
        return self._nodes.add("Unsqueeze", [weights, self._nodes.integers([2])])

    def _sum(self, weights: str) -> str:
        return self._nodes.reduce("ReduceSum", self._nodes.add("Mul", [self._hidden, self._column(weights)]))

    def _count(self, weights: str) -> str:
        """The sum of the weights, [batch, 1]."""
        total = self._nodes.reduce("ReduceSum", weights, keep=True)
        return self._nodes.add("Max", [total, self._nodes.floats(_SMALL)])

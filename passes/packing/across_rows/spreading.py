"""Give each token what its sample has: one Gather of the samples' rows by the number of each token's sample.

a row a sample [n, 1, H], the sample of each token [R, C]  ->  [R, C, H]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.building import add_node
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap, TokenAxes
from passes.packing.tokens.extents import Extents

_PREFIX = "sample_of_token"


class SampleSpread:
    """Spreads tensors of the unpacked side that are the same at all tokens of a sample.

    Args:
        graph: the graph that gets the nodes.
        axes: token axes of the graph's tensors.
        extents: of the unpacked side (samples, longest).
        repack: brings a tensor [samples, longest] to [R, C].
    """

    def __init__(
        self, graph: gs.Graph, axes: AxisMap, extents: Extents, repack: Callable[[gs.Tensor], gs.Tensor]
    ) -> None:
        self._graph, self._axes, self._extents, self._repack = graph, axes, extents, repack
        self._made: gs.Tensor | None = None

    def applies(self, tensor: gs.Tensor, token: TokenAxes, rank: int) -> bool:
        """Whether ``tensor`` has a row a sample that broadcasts over a [.., batch, .., seq, ..] of ``rank``.

        [n, 1, H] does for [n, L, H]; [1, L, H], a row a place, does not.
        """
        shape = self._axes.shape(tensor)
        if shape is None or token.flat or len(shape) != rank:
            return False
        return bool(shape[token.batch] == BATCH and shape[token.seq] == 1)

    def spread(self, tensor: gs.Tensor, token: TokenAxes, rank: int) -> gs.Tensor:
        """The packed form of a tensor that :meth:`applies`: [n, 1, H] -> [R, C, H]."""
        others = [axis for axis in range(rank) if axis not in token.positions]
        name = f"{tensor.name}_spread_{rank}_{token.batch}_{token.seq}"
        rows = self._add("Squeeze", f"{name}_rows", [tensor, self._extents.constant([token.seq])], tensor.dtype)
        batch = token.batch - (token.seq < token.batch)
        order = [batch, *(axis for axis in range(rank - 1) if axis != batch)]
        back = np.argsort([token.batch, token.seq, *others]).tolist()
        if order != list(range(rank - 1)):
            rows = self._add("Transpose", f"{name}_samples_first", [rows], tensor.dtype, perm=order)
        spread = self._add("Gather", name, [rows, self._index()], tensor.dtype, axis=0)
        if back != list(range(rank)):
            spread = self._add("Transpose", f"{name}_laid_out", [spread], tensor.dtype, perm=back)
        return spread

    def _index(self) -> gs.Tensor:
        """int64 [R, C]: the number of each token's sample; 0 where there is no token."""
        if self._made is None:
            zero, one = self._extents.constant(0), self._extents.constant(1)
            count = self._extents.known_scalar(BATCH)
            assert count is not None  # the batch follows from the batch
            numbers = self._add("Range", f"{_PREFIX}_numbers", [zero, count, one], np.int64)
            column = self._add("Unsqueeze", f"{_PREFIX}_column", [numbers, self._extents.constant([1])], np.int64)
            grid = self._add("Expand", f"{_PREFIX}_grid", [column, self._extents.vector([BATCH, SEQ])], np.int64)
            self._axes.record(grid, (BATCH, SEQ))
            self._made = self._repack(grid)
        return self._made

    def _add(self, op: str, name: str, inputs: list[gs.Tensor], dtype: Any, **attrs: Any) -> gs.Tensor:
        return add_node(self._graph.nodes, op, name, inputs, dtype, **attrs)

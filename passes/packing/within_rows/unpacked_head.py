"""``within_rows`` with a head: what needs one row a sample is fed through Unpack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.errors import PackingError
from passes.packed_model import UNPACK_INFO
from passes.packing.across_rows.crossings import Crossings
from passes.packing.across_rows.known_contents import rebuilt
from passes.packing.across_rows.rewrite import declared_shape, name_extents
from passes.packing.opening.pack_args import PackArgs
from passes.packing.tokens.axes import UNPACKED_NAMES, AxisMap, show
from passes.refusal import Refusal


class UnpackedHead:
    """Moves the nodes that mix the samples of a row to one row a sample.

    Args:
        graph: the graph to change; it gets the input ``unpack_info``.
        axes: token axes of its tensors.
        refused: ``id(node)`` -> why, of the nodes that mix samples and of all that follow them.
        mask: the mask input.
        args: the size of a pack.
        columns: places of a row; a sample's entry in ``unpack_info`` steps over the rest of its row.
        of_run: names of tensors that are the same for all samples of a run; the head reads them as they are.
    """

    def __init__(
        self,
        graph: gs.Graph,
        axes: AxisMap,
        refused: Mapping[int, Refusal],
        mask: gs.Variable,
        args: PackArgs,
        columns: int,
        of_run: frozenset[str] = frozenset(),
    ) -> None:
        self._of_run = of_run
        self._graph, self._axes, self._refused, self._args = graph, axes, refused, args
        self._info = gs.Variable(UNPACK_INFO, np.int32, [args.max_valid_num, 1])
        self._crossings = Crossings(graph, axes, args, self._info, mask, room=columns)

    @property
    def count(self) -> int:
        """How many Unpacks were made."""
        return self._crossings.unpack_count

    def cut(self) -> dict[str, str]:
        """Unpack what the head reads.

        Returns:
            Output name -> "packed" (kept in the rows' layout), or "tokens" or "sample" (one row a sample).

        Raises:
            PackingError: the head reads something that is not [batch, sequence, ...].
        """
        for node in [node for node in self._graph.nodes if id(node) in self._refused]:
            name_extents(node, self._axes, UNPACKED_NAMES)
            for index, tensor in enumerate(node.inputs):
                if not tensor.is_empty() and not self._axes.is_free(tensor) and not self._is_head(tensor):
                    node.inputs[index] = self._head_input(node, tensor)
        if self.count:
            self._graph.inputs.append(self._info)
        return {tensor.name: self._declare(tensor) for tensor in self._graph.outputs}

    def _is_head(self, tensor: gs.Tensor) -> bool:
        return tensor.name in self._of_run or (bool(tensor.inputs) and id(tensor.inputs[0]) in self._refused)

    def _head_input(self, node: gs.Node, tensor: gs.Tensor) -> gs.Tensor:
        extents = rebuilt(tensor, self._axes, self._crossings.unpacked_extents)
        if extents is not None:
            return extents
        token = self._axes.axes(tensor)
        if token is None or not token.canonical:
            refusal = self._refused[id(node)]
            raise PackingError(
                f"{refusal}; and its input {tensor.name!r} "
                f"{show(self._axes.shape(tensor))} is not [batch, sequence, ...], so it cannot be unpacked for it",
                [refusal],
            )
        return self._crossings.unpacked(tensor)

    def _declare(self, tensor: Any) -> str:
        if not self._is_head(tensor):
            return "packed"
        shape, token = self._axes.shape(tensor), self._axes.axes(tensor)
        if shape is None:
            raise PackingError(f"the shape of output {tensor.name!r} is not known; remove it with --remove_outputs")
        tensor.shape = declared_shape(shape, self._args)
        return "tokens" if token is not None and token.canonical else "sample"

"""The tensors that pass between the packed and the unpacked side: one Unpack or Repack a tensor, made on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import sympy

from passes.building import add_node
from passes.cleanup.rewiring import is_op
from passes.ops import DOMAIN
from passes.packing.across_rows.spreading import SampleSpread
from passes.packing.opening.pack_args import PackArgs
from passes.packing.tokens.axes import BATCH, PACKED_NAMES, SEQ, UNPACKED_NAMES, AxisMap, TokenAxes
from passes.packing.tokens.extents import Extents

#: The packed tensor [R, C] with the number of each token's sample.
_INDEX = "sample_of_token"


class Crossings:
    """Makes Unpack and Repack nodes in ``graph``.

    Args:
        graph: the graph that gets the nodes.
        axes: token axes of the graph's tensors.
        args: the size of a pack.
        info: the input that holds the lengths, int32 [max_valid_num, segments].
        anchor: a packed input [R, C, ...]; R and C are read from it, and batch and seq from its unpacked form.
        room: places that a row of ``info`` may step over, where that is more than the longest sample has: to the
            beginning of the next row. What is behind the longest sample is cut.
    """

    def __init__(
        self,
        graph: gs.Graph,
        axes: AxisMap,
        args: PackArgs,
        info: gs.Variable,
        anchor: gs.Variable,
        room: int = 0,
    ) -> None:
        self._graph, self._axes, self._args = graph, axes, args
        self._room = room if room > args.width else 0
        self._info, self._anchor = info, anchor
        self._unpacked: dict[str, gs.Tensor] = {}
        self._packed: dict[str, gs.Tensor] = {}
        self.unpack_count = 0
        #: extents of the unpacked side (samples, longest) and of the packed side (R, C)
        self.unpacked_extents = Extents(graph, lambda: self.unpacked(anchor), "unpacked_extent")
        self.packed_extents = Extents(graph, lambda: anchor, "packed_extent")
        self._samples = SampleSpread(graph, axes, self.unpacked_extents, self._index)

    def unpacked(self, tensor: gs.Tensor) -> gs.Tensor:
        """The unpacked form of a tensor that the packed side makes."""
        if tensor.name not in self._unpacked:
            unpacked = self._unpack(tensor, self._axes.require(tensor))
            self._unpacked[tensor.name] = self._cut(unpacked) if self._room else unpacked
        return self._unpacked[tensor.name]

    def _cut(self, tensor: gs.Tensor) -> gs.Tensor:
        """[samples, room, ...] -> [samples, longest, ...]."""
        bounds = [self.packed_extents.constant([number]) for number in (0, self._args.width, 1)]
        return self._add("Slice", f"{tensor.name}_cut", [tensor, *bounds], tensor.dtype)

    def packed(self, tensor: gs.Tensor) -> gs.Tensor:
        """The packed form of a tensor that the unpacked side makes."""
        if tensor.name not in self._packed:
            token, rank = self._axes.require(tensor), len(self._axes.require_shape(tensor))
            source = self._repeated_row(tensor, token, rank)
            self._packed[tensor.name] = (
                self._repack(tensor, token) if source is None else self.lifted(source, token, rank)
            )
        return self._packed[tensor.name]

    def lifted(self, tensor: gs.Tensor, token: TokenAxes, rank: int) -> gs.Tensor:
        """The packed form of a tensor that broadcasts over the tokens of a [.., batch, .., seq, ..] of ``rank``."""
        shape = self._axes.require_shape(tensor)
        full = list((1,) * (rank - len(shape)) + shape)
        full[token.batch], full[token.seq] = BATCH, SEQ
        key = f"{tensor.name}:{full}"
        if key not in self._packed and self._samples.applies(tensor, token, rank):
            self._packed[key] = self._samples.spread(tensor, token, rank)
        if key not in self._packed:
            target = self.unpacked_extents.vector(full)
            name = f"{tensor.name}_expanded_{len(full)}_{token.batch}_{token.seq}"
            expanded = self._add("Expand", name, [tensor, target], tensor.dtype)
            self._axes.record(expanded, tuple(full))
            self._packed[key] = self._repack(expanded, token)
        return self._packed[key]

    def _repeated_row(self, tensor: gs.Tensor, token: TokenAxes, rank: int) -> gs.Tensor | None:
        """The row a sample [n, 1, H] that ``tensor`` [n, L, H] repeats along the sequence, if it does."""
        source = _repeated(tensor)
        if source is None or not self._samples.applies(source, token, rank):
            return None
        shapes = self._axes.require_shape(source), self._axes.require_shape(tensor)
        pairs = enumerate(zip(*shapes, strict=True))
        return source if all(own == other for axis, (own, other) in pairs if axis != token.seq) else None

    def _index(self, grid: gs.Tensor) -> gs.Tensor:
        return self._repack_node(grid, _INDEX, ())

    def unpack_into(self, tensor: gs.Tensor, output: gs.Variable) -> None:
        """Unpack ``tensor`` into ``output``, a graph output."""
        add_node(self._graph.nodes, "Identity", output.name, [self.unpacked(tensor)], into=output)

    def looked_up(self, lookup: gs.Node, indices: gs.Tensor) -> gs.Tensor:
        """The packed form of what ``lookup`` gives, by packed ``indices``."""
        tensor = lookup.outputs[0]
        key = f"{tensor.name} by {indices.name}"
        if key not in self._packed:
            name = f"{tensor.name}_by_{indices.name}"
            inputs = [lookup.inputs[0], indices, *lookup.inputs[2:]]
            self._packed[key] = add_node(
                self._graph.nodes, lookup.op, name, inputs, tensor.dtype, domain=lookup.domain, **lookup.attrs
            )
        return self._packed[key]

    def _unpack(self, tensor: gs.Tensor, token: TokenAxes) -> gs.Tensor:
        shape = self._axes.require_shape(tensor)
        if token.flat:
            grid = self._reshape(tensor, tensor.name + "_rows", self._grid(shape[1:]))
            unpacked = self._crossing("Unpack", tensor.name + "_unpacked_rows", [grid, self._info], _numbers(shape[1:]))
            return self._reshape(unpacked, tensor.name + "_unpacked", [-1, *map(int, shape[1:])])
        if token.canonical:
            return self._crossing("Unpack", tensor.name + "_unpacked", [tensor, self._info], _numbers(shape[2:]))
        there, back = _to_front(token, len(shape))
        front = self._add("Transpose", tensor.name + "_tokens_first", [tensor], tensor.dtype, perm=there)
        unpacked = self._crossing(
            "Unpack", tensor.name + "_unpacked_tokens_first", [front, self._info], _numbers(_others(shape, token))
        )
        return self._add("Transpose", tensor.name + "_unpacked", [unpacked], tensor.dtype, perm=back)

    def _repack(self, tensor: gs.Tensor, token: TokenAxes) -> gs.Tensor:
        shape = self._axes.require_shape(tensor)
        if token.flat:
            grid_shape = self.unpacked_extents.vector([BATCH, SEQ, *shape[1:]])
            grid = self._add("Reshape", tensor.name + "_rows", [tensor, grid_shape], tensor.dtype)
            repacked = self._repack_node(grid, tensor.name + "_packed_rows", shape[1:])
            return self._reshape(repacked, tensor.name + "_packed", [-1, *map(int, shape[1:])])
        if token.canonical:
            return self._repack_node(tensor, tensor.name + "_packed", shape[2:])
        there, back = _to_front(token, len(shape))
        front = self._add("Transpose", tensor.name + "_tokens_first", [tensor], tensor.dtype, perm=there)
        repacked = self._repack_node(front, tensor.name + "_packed_tokens_first", _others(shape, token))
        return self._add("Transpose", tensor.name + "_packed", [repacked], tensor.dtype, perm=back)

    def _repack_node(self, tensor: gs.Tensor, name: str, rest: Sequence[Any]) -> gs.Tensor:
        return self._crossing("Repack", name, [tensor, self._anchor, self._info], _numbers(rest))

    def _crossing(self, op: str, name: str, inputs: list[gs.Tensor], rest: Sequence[Any]) -> gs.Tensor:
        dtype = inputs[0].dtype
        self.unpack_count += op == "Unpack"
        longest = [self._room] if self._room else list(self._args.segment_max_size)
        sizes = {"segment_max_size": longest, "max_valid_num": self._args.max_valid_num}
        result = self._add(op, name, inputs, dtype, domain=DOMAIN, **sizes)
        names = list((UNPACKED_NAMES if op == "Unpack" else PACKED_NAMES).values())
        result.shape = [names[0], self._room or names[1], *rest]
        return result

    def _grid(self, rest: Any) -> gs.Tensor:
        return self.packed_extents.vector([BATCH, SEQ, *rest])

    def _reshape(self, tensor: gs.Tensor, name: str, target: Any) -> gs.Tensor:
        shape = self.packed_extents.constant(target) if isinstance(target, list) else target
        return self._add("Reshape", name, [tensor, shape], tensor.dtype)

    def _add(self, op: str, name: str, inputs: list[gs.Tensor], dtype: Any, **attrs: Any) -> gs.Tensor:
        return add_node(self._graph.nodes, op, name, inputs, dtype, **attrs)


def _repeated(tensor: gs.Tensor) -> gs.Tensor | None:
    """What ``tensor`` repeats; None where it is not made so."""
    producer = tensor.inputs[0] if tensor.inputs else None
    return producer.inputs[0] if producer is not None and is_op(producer, "Expand", "Tile") else None


def _others(shape: Sequence[Any], token: TokenAxes) -> list[Any]:
    return [extent for axis, extent in enumerate(shape) if axis not in token.positions]


def _numbers(extents: Sequence[Any]) -> list[Any]:
    """Extents as a value_info holds them; an unknown one gets a name of its own."""
    return [int(e) if isinstance(e, (int, sympy.Integer)) else f"unknown_{e}" for e in extents]


def _to_front(token: TokenAxes, rank: int) -> tuple[list[int], list[int]]:
    there = [token.batch, token.seq, *(axis for axis in range(rank) if axis not in token.positions)]
    return there, np.argsort(there).tolist()

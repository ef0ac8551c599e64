"""Unpack straight to heads: what a Gather moves anyway, it can move to where attention wants it.

Attention reshapes the unpacked [B, S, H] to [B, S, N, D] and transposes to [B, N, S, D]; afterwards it transposes back
and the result is repacked. Each transpose copies the whole tensor again. Gathering rows of D numbers instead of H does
both moves in one. The finer indices are the same for all layers and are computed once.

Works on the graph that :class:`~poprt.compiler.ragged.LowerPacking` makes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult
from poprt.compiler.ragged import INDEX, PLACES, WIDTH
from poprt.compiler.reshapes import entries, maker, only_reader

_PREFIX = "poprt_heads_"
#: Names of the finer indices, but for the number of heads; see :meth:`_Indices.unpack` and :meth:`_Indices.repack`.
UNPACK, REPACK = f"{_PREFIX}unpack_", f"{_PREFIX}repack_"
_BACK = [0, 2, 1, 3]  # [B, N, S, D] to [B, S, N, D]


class GatherHeads(GraphPass):
    """Replaces Gather, Reshape and Transpose by a Gather of finer rows, wherever nothing else reads what is between."""

    name = "gather_heads"

    def apply(self, graph: gs.Graph) -> PassResult:
        """Gather finer rows; see the module."""
        result = PassResult()
        indices = _Indices(graph)
        for node in [node for node in graph.nodes if node.op == "Gather"]:
            if node.inputs[1].name == INDEX:
                result.count("unpacked to heads", _split(node, graph, indices))
            elif node.inputs[1].name == PLACES:
                result.count("repacked from heads", _merge(node, graph, indices))
        if result.modified:
            graph.cleanup(remove_unused_graph_inputs=False).toposort(mode="nodes")
        return result


class _Indices:
    """The nodes that are added; those of an index are made once for equal arguments."""

    def __init__(self, graph: gs.Graph) -> None:
        self._graph = graph
        self._tensors = graph.tensors()

    def node(self, op: str, inputs: Sequence[gs.Tensor], name: str, **attributes: Any) -> gs.Tensor:
        """The output, called ``name``, of a node; the one there is where it was made before."""
        if name not in self._tensors:
            self._tensors[name] = gs.Variable(name)
            self._graph.nodes.append(gs.Node(op, name, attributes, list(inputs), [self._tensors[name]]))
        return self._tensors[name]

    def ints(self, values: int | Sequence[int], name: str) -> gs.Tensor:
        """An int64 initializer."""
        if name not in self._tensors:
            self._tensors[name] = gs.Constant(name, np.array(values, np.int64))
        return self._tensors[name]

    def rows(self, tensor: gs.Tensor, size: int) -> gs.Tensor:
        """``tensor`` seen as rows of ``size`` numbers."""
        target = self.ints([-1, size], f"{_PREFIX}rows_of_{size}")
        return self.node("Reshape", [tensor, target], f"{tensor.name}_rows_of_{size}")

    def unpack(self, heads: int) -> gs.Tensor:
        """[B, S, heads]: the row of each head of each place in a zero-first stream of heads."""
        name = f"{UNPACK}{heads}"
        last = self.node("Unsqueeze", [self._tensors[INDEX], self.ints([2], f"{_PREFIX}axis_2")], f"{_PREFIX}places")
        first = self.node("Mul", [last, self.ints(heads, f"{_PREFIX}count_{heads}")], f"{name}_first")
        return self.node("Add", [first, self.ints(range(heads), f"{_PREFIX}number_{heads}")], name)

    def moved(self, index: gs.Tensor, target: gs.Tensor, order: list[int], allow_zero: int = 0) -> gs.Tensor:
        """``index`` in the shape that ``target`` says but for its last entry, its axes in ``order``."""
        axis, end = self.ints([0], f"{_PREFIX}axis_0"), self.ints([len(order)], f"{_PREFIX}end_{len(order)}")
        shape = self.node("Slice", [target, axis, end, axis], f"{_PREFIX}of_{len(order)}_{target.name}")
        name = f"{index.name}_as_{target.name}_{allow_zero}"
        attributes = {"allowzero": 1} if allow_zero else {}
        shaped = self.node("Reshape", [index, shape], name, **attributes)
        return self.node("Transpose", [shaped], f"{name}_{'_'.join(map(str, order))}", perm=order)

    def repack(self, heads: int) -> gs.Tensor:
        """[T, heads]: the row of each head of each token in [B, heads, S] rows."""
        name = f"{REPACK}{heads}"
        places, width = self._tensors[PLACES], self._tensors[WIDTH]
        sample = self.node("Div", [places, width], f"{_PREFIX}sample")
        start = self.node("Mul", [sample, width], f"{_PREFIX}start")  # of the sample, in rows of one head
        skipped = self.node("Mul", [start, self.ints(heads - 1, f"{_PREFIX}others_{heads}")], f"{name}_skipped")
        first = self.node("Add", [places, skipped], f"{name}_first")
        column = self.node("Unsqueeze", [first, self.ints([1], f"{_PREFIX}axis_1")], f"{name}_column")
        step = self.node("Mul", [self.ints(range(heads), f"{_PREFIX}number_{heads}"), width], f"{name}_step")
        return self.node("Add", [column, step], name)


def _split(gather: gs.Node, graph: gs.Graph, indices: _Indices) -> bool:
    """Unpack to heads: Gather, Reshape and Transpose become one Gather; a flip of the last axis follows it."""
    extents = _held_by_place(gather)
    reader = only_reader(gather, graph)
    reshape = reader if reader is not None and reader.op == "Reshape" and len(extents) == 1 else None
    transpose = reader if reshape is None else only_reader(reshape, graph)
    if not extents or transpose is None or transpose.op != "Transpose" or "perm" not in transpose.attrs:
        return False
    perm = [int(axis) for axis in transpose.attrs["perm"]]
    last = len(perm) - 1
    order = [axis for axis in perm if axis != last]
    size = extents[-1] if reshape is None else _row_size(reshape, extents[0], len(perm))
    if size is None or order == sorted(order):
        return False
    index = indices.unpack(math.prod(extents) // size)
    if reshape is None:
        target = indices.ints([0, 0, *extents], f"{_PREFIX}held_{'_'.join(map(str, extents))}")
        index = indices.moved(index, target, order)
    else:
        index = indices.moved(index, reshape.inputs[1], order, int(reshape.attrs.get("allowzero", 0)))
    flip = [[*order, last].index(axis) for axis in perm]
    _write(transpose, [indices.rows(gather.inputs[0], size), index], flip, graph)
    return True


def _write(transpose: gs.Node, inputs: list[gs.Tensor], flip: list[int], graph: gs.Graph) -> None:
    """Make the output of ``transpose`` by a Gather of ``inputs``, and a flip where there is anything to move."""
    output = transpose.outputs[0]
    transpose.outputs.clear()
    moves = flip != sorted(flip)
    heads = gs.Variable(f"{output.name}_heads") if moves else output
    graph.nodes.append(gs.Node("Gather", f"{output.name}_heads", {"axis": 0}, inputs, [heads]))
    if moves:
        graph.nodes.append(gs.Node("Transpose", transpose.name, {"perm": flip}, [heads], [output]))


def _held_by_place(gather: gs.Node) -> list[int]:
    """The extents of what a place holds; none where they are not known."""
    concat = maker(gather)
    if concat is None or concat.op != "Concat" or not isinstance(concat.inputs[0], gs.Constant):
        return []
    return [int(extent) for extent in concat.inputs[0].shape[1:]]


def _row_size(reshape: gs.Node, numbers: int, rank: int) -> int | None:
    """D, where a reshape of [B, S, numbers] to ``rank`` axes makes rows of D whatever the first two extents are.

    The same reshape of [B, S, numbers / D] then gives those rows' order. Zeros in the target would copy other extents.
    """
    tail = [entry for entry in entries(reshape.inputs[1])[2 - rank :] if isinstance(entry, int)] if rank > 2 else []
    if len(tail) != rank - 2 or 0 in tail:
        return None
    size = tail[-1]
    if size == -1:  # the first two extents decide then; the packing pass knows them
        inferred = reshape.outputs[0].shape
        size = numbers // math.prod(tail[:-1])
        if not inferred or inferred[-1] != size:
            return None
    return size if size > 0 and numbers % size == 0 else None


def _merge(gather: gs.Node, graph: gs.Graph, indices: _Indices) -> bool:
    """Repack from heads: Transpose, Reshape and Gather become one Gather."""
    rows = maker(gather)
    transpose = maker(rows)
    if rows is None or rows.op != "Reshape" or transpose is None:
        return False
    if transpose.op != "Transpose" or list(transpose.attrs.get("perm", [])) != _BACK:
        return False
    shape = transpose.outputs[0].shape or []
    if len(shape) != 4 or not all(isinstance(extent, int) and extent > 0 for extent in shape[2:]):
        return False
    if only_reader(rows, graph) is None or not _leads_only_to(rows, transpose.outputs[0], graph):
        return False
    gather.inputs = [indices.rows(transpose.inputs[0], shape[3]), indices.repack(shape[2])]
    return True


def _leads_only_to(last: gs.Node, tensor: gs.Tensor, graph: gs.Graph) -> bool:
    """Whether ``tensor`` is read by ``last`` and for its target shape alone."""
    return not any(tensor is output for output in graph.outputs) and all(
        node is last or (node.op in ("Shape", "Concat") and _leads_only_to(last, node.outputs[0], graph))
        for node in tensor.outputs
    )

"""Memory of the unpacked side: what a run holds at once of the tensors that are padded to the pack's longest sample."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
import sympy

from passes.numbers import LARGEST_EXTENT
from passes.packing.tokens.axes import BATCH, SEQ
from passes.packing.tokens.sides import PlacedGraph

#: Bytes of a float, whatever the model's type is: engines on a CPU compute in float32.
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class PaddedMemory:
    """Bytes of the padded tensors that are alive at once, where they need the most.

    Attributes:
        cell_bytes: bytes a place: times samples x longest.
        pair_bytes: bytes a pair of places of one sample: times samples x longest².
    """

    cell_bytes: int
    pair_bytes: int


def padded_memory(placed: PlacedGraph, longest: int) -> PaddedMemory:
    """Follow the life of each tensor of the unpacked side, from the node that makes it to the last that reads it.

    Scores [batch, 12, seq, seq] in float32 are 48 bytes a pair; while a Softmax reads them, 96 are alive. An input of
    pairs is alive throughout.

    Args:
        placed: its nodes are in topological order.
        longest: length at which cells and pairs are weighed against each other.
    """
    sizes = {name: size for name, size in _sizes(placed).items() if size != 0}
    pairs = {tensor.name for tensor in placed.graph.inputs if placed.axes.axes(tensor) is None} & sizes.keys()
    last_read = _last_reads(placed, sizes) | dict.fromkeys(pairs, len(placed.graph.nodes))
    alive: dict[str, sympy.Expr] = {name: sizes[name] for name in pairs}
    most, peak = 0.0, sympy.Integer(0)
    for number, node in enumerate(placed.graph.nodes):
        if placed.runs_packed(node):
            continue
        for tensor in (*node.inputs, *node.outputs):
            if tensor.name in sizes:
                alive[tensor.name] = sizes[tensor.name]
        weight = sum(float(size.subs({BATCH: 1, SEQ: longest})) for size in alive.values())
        if weight > most:
            most, peak = weight, sympy.Add(*alive.values())
        alive = {name: size for name, size in alive.items() if last_read[name] > number}
    return _by_degree(_at_most(peak), longest)


def _sizes(placed: PlacedGraph) -> dict[str, sympy.Expr]:
    """Bytes of each tensor that the unpacked side makes or reads and that grows with the sequence."""
    unpacked = [node for node in placed.graph.nodes if not placed.runs_packed(node)]
    return {
        tensor.name: _bytes(placed, tensor)
        for node in unpacked
        for tensor in (*node.inputs, *node.outputs)
        if tensor.name and not isinstance(tensor, gs.Constant)
    }


def _bytes(placed: PlacedGraph, tensor: gs.Tensor) -> sympy.Expr:
    shape = placed.axes.shape(tensor)
    size = sympy.sympify(sympy.prod(shape)) if shape else sympy.Integer(0)
    if SEQ not in size.free_symbols or not size.free_symbols <= {BATCH, SEQ}:
        return sympy.Integer(0)
    dtype = np.dtype(tensor.dtype) if tensor.dtype is not None else np.dtype(np.float32)
    return size * (_FLOAT_BYTES if dtype.kind == "f" else dtype.itemsize)


def _last_reads(placed: PlacedGraph, names: Iterable[str]) -> dict[str, int]:
    """Position of the last node that reads or makes each tensor."""
    last = dict.fromkeys(names, -1)
    for number, node in enumerate(placed.graph.nodes):
        if not placed.runs_packed(node):
            last.update({t.name: number for t in (*node.inputs, *node.outputs) if t.name in last})
    return last


def _at_most(size: sympy.Expr) -> sympy.Expr:
    """``size``, or more where a Slice, a stride or a window makes it no polynomial: an upper bound is what is asked."""
    size = size.replace(sympy.floor, lambda extent: extent)
    size = size.replace(sympy.ceiling, lambda extent: extent + 1)
    size = size.replace(sympy.Min, lambda *extents: extents[0])
    return size.replace(sympy.Max, lambda *extents: sympy.Add(*extents))


def _by_degree(size: sympy.Expr, longest: int) -> PaddedMemory:
    """Split bytes by how they grow with the sequence: like it, or like its square or faster."""
    if not size.is_polynomial(SEQ):
        size = size.subs(SEQ, longest) / longest * SEQ
    by_degree = sympy.Poly(sympy.expand(size), SEQ).as_dict() if SEQ in size.free_symbols else {}
    # A window takes places away, floor(seq / 2) - 1: the bound is without it.
    most = [(degree, max(0, coefficient.subs(BATCH, 1))) for (degree,), coefficient in by_degree.items()]
    cells, pairs = (sum(size for degree, size in most if (degree >= 2) == pair) for pair in (False, True))
    return PaddedMemory(*(min(int(sympy.ceiling(bytes_)), LARGEST_EXTENT) for bytes_ in (cells, pairs)))

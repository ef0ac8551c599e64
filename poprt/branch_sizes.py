"""Sizes of open dimensions at which a comparison inside a model comes out otherwise than at those of the sample data.

A model may ask whether an extent is 1, and go another way if so. One set of sizes tries one of the ways.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
import sympy

from passes.graph_io import import_graph
from passes.node_protos import walk_nodes
from passes.shapes.decided import COMPARISONS, Comparison
from passes.shapes.symbolic import infer_symbolic_shapes
from poprt.input_info import InputInfo, sample_shapes

#: Operators that go by what was compared.
_DECIDING = frozenset({"If", "Loop", "Where"})
#: The largest size to try: attention scores of that many places still fit in memory.
_LARGEST = 1 << 11
#: How many sizes to give for one comparison, and how many comparisons to look at.
_SIZES, _COMPARISONS = 3, 16

logger = logging.getLogger("poprt")


def named_extents(infos: Sequence[InputInfo]) -> list[InputInfo]:
    """The inputs with a name for each open extent, as inference calls it."""
    return [
        replace(info, shape=tuple(f"{info.name}_d{axis}" if n is None else n for axis, n in enumerate(info.shape)))
        for info in infos
    ]


def sizes_for_other_branches(model: onnx.ModelProto, infos: Sequence[InputInfo]) -> list[list[dict[str, int]]]:
    """For each comparison of an open extent, the sizes to try, the likeliest first; a name stands for an extent.

    Args:
        model: with its weights; they are not read.
        infos: the inputs of :func:`named_extents`. Those of a known shape are left alone.
    """
    operators = {node.op_type for node in walk_nodes(model.graph.node)}
    if not operators & _DECIDING or not operators & set(COMPARISONS) or any(info.any_rank for info in infos):
        return []
    usual = _usual_sizes(infos)
    if not usual:
        return []
    comparisons = infer_symbolic_shapes(import_graph(model)).open_comparisons
    firsts = (info.shape[0] for info in infos if info.shape)
    alone = {extent: 1 for extent in firsts if isinstance(extent, str)}
    tries = [_also_alone(_other_sizes(comparison, usual), alone) for comparison in comparisons[:_COMPARISONS]]
    return [sizes for index, sizes in enumerate(tries) if sizes and sizes not in tries[:index]]


def _also_alone(tries: Iterable[dict[str, int]], alone: Mapping[str, int]) -> list[dict[str, int]]:
    """What to try, and then the same with a batch of one: the way that a model seldom takes may hold for that alone."""
    listed = list(tries)
    return [*listed, *({**alone, **sizes} for sizes in listed if alone.keys() - sizes.keys())]


def _usual_sizes(infos: Sequence[InputInfo]) -> dict[str, int]:
    shapes = sample_shapes(infos)
    pairs = (pair for info in infos for pair in zip(info.shape, shapes[info.name], strict=True))
    return {extent: size for extent, size in pairs if isinstance(extent, str)}


def _other_sizes(comparison: Comparison, usual: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Sizes of one dimension, the others as usual, at which ``comparison`` comes out otherwise."""
    left, right = sympy.sympify(comparison.left), sympy.sympify(comparison.right)
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    if not {str(symbol) for symbol in symbols} <= set(usual):
        return
    for symbol in symbols:
        fixed = {other: usual[str(other)] for other in symbols if other is not symbol}
        try:
            outcomes = _outcomes(comparison.kind, left.subs(fixed), right.subs(fixed), symbol)
        except Exception as error:  # what numpy has no function for, reported by errors of every kind
            logger.debug("%s %s %s was not tried: %s", left, comparison.kind, right, error)
            continue
        size = min(usual[str(symbol)], _LARGEST)
        others = np.flatnonzero(outcomes != outcomes[size - 1]) + 1
        nearest = others[np.argsort(np.abs(others - size), kind="stable")]
        for other in dict.fromkeys([*others[:1], *nearest[:_SIZES]][:_SIZES]):
            yield {str(symbol): int(other)}


def _outcomes(kind: str, left: sympy.Expr, right: sympy.Expr, symbol: sympy.Symbol) -> npt.NDArray[np.bool_]:
    """What the comparison comes to for each size from 1 to the largest one."""
    sizes = np.arange(1, _LARGEST + 1)
    values = [np.broadcast_to(sympy.lambdify(symbol, side, "numpy")(sizes), sizes.shape) for side in (left, right)]
    return np.asarray(COMPARISONS[kind](*values), bool)

"""Tensors that depend on the inputs' shapes alone: position numbers, sinusoids, relative distances, causal masks.

They are a function of the sequence length, so they can be computed for any length without running the model. That
shows whether position p has the same value in every row that is long enough, and whether a pair of places counts only
by its distance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import sympy

from passes.base import subgraphs
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap, mentions_tokens
from passes.packing.tokens.evaluation import evaluate
from passes.refusal import Cause, refused

Extents: TypeAlias = Mapping[sympy.Symbol, int]


class Positional:
    """Finds and evaluates positional tensors of ``graph``, whose nodes must be in topological order."""

    def __init__(self, graph: gs.Graph, axes: AxisMap) -> None:
        self._graph, self._axes = graph, axes
        self._names = {tensor.name for node in graph.nodes for tensor in node.outputs if self._is_extent(tensor)}
        self._cache: dict[tuple[str, int, int], np.ndarray[Any, Any]] = {}
        for node in graph.nodes:
            if any(True for _ in subgraphs(node)) or not node.inputs:
                continue
            if all(axes.is_free(tensor) or tensor.name in self._names for tensor in node.inputs):
                self._names.update(tensor.name for tensor in node.outputs if not axes.is_free(tensor))

    def __contains__(self, tensor: gs.Tensor) -> bool:
        return tensor.name in self._names

    def value(self, tensor: gs.Tensor, seq: int, batch: int = 1) -> np.ndarray[Any, Any]:
        """The tensor's value for a batch of ``batch`` and a sequence of ``seq`` places.

        Raises:
            RefusedError: the model cannot compute it, as where a table is shorter than the sequence.
        """
        key = (tensor.name, seq, batch)
        if key not in self._cache:
            try:
                self._cache[key] = self._evaluate(tensor, {BATCH: batch, SEQ: seq})
            except Exception as error:  # the engine has no one class for what it cannot run
                reason = f"{tensor.name!r} cannot be computed for a sequence of {seq} places ({error})"
                raise refused(reason, Cause.SAMPLES) from error
        return self._cache[key]

    def inputs_of(self, tensor: gs.Tensor) -> set[str]:
        """Names of the inputs on whose values ``tensor`` depends; what is known of extents alone does not count."""
        needed = {tensor.name}
        self._makers(needed, self._is_extent)
        return needed & {item.name for item in self._graph.inputs}

    def value_for(
        self, tensor: gs.Tensor, seq: int, batch: int, inputs: Mapping[str, np.ndarray[Any, Any]]
    ) -> np.ndarray[Any, Any]:
        """The value of a tensor that depends on the extents and on ``inputs`` alone.

        Raises:
            RefusedError: the model cannot compute it.
        """
        try:
            return self._evaluate(tensor, {BATCH: batch, SEQ: seq}, inputs)
        except Exception as error:  # the engine has no one class for what it cannot run
            raise refused(f"{tensor.name!r} cannot be computed ({error})", Cause.SAMPLES) from error

    def table(self, tensor: gs.Tensor, axis: int, seq: int) -> np.ndarray[Any, Any] | None:
        """The value at each position, [seq, other axes...]; None where it depends on the length of the sequence."""
        whole = self.value(tensor, seq)
        for shorter in {1, max(1, seq // 2)}:
            part = np.take(whole, range(shorter), axis=axis)
            if not _same(part, self.value(tensor, shorter)):
                return None
        return np.moveaxis(whole, axis, 0)

    def is_relative(self, tensor: gs.Tensor, axis_pair: tuple[int, int], seq: int) -> bool:
        """Whether the value at (i, j) depends on i - j alone, in a sequence of any length up to ``seq``."""
        whole = np.moveaxis(self.value(tensor, seq), axis_pair, (-2, -1))
        if not _same(whole[..., 1:, 1:], whole[..., :-1, :-1]):
            return False
        shorter = max(1, seq // 2)
        part = np.moveaxis(self.value(tensor, shorter), axis_pair, (-2, -1))
        return _same(whole[..., :shorter, :shorter], part)

    def is_constant(self, tensor: gs.Tensor, seq: int) -> bool:
        """Whether the value is the same for every length."""
        return _same(self.value(tensor, seq), self.value(tensor, max(1, seq // 2)))

    def _is_extent(self, tensor: gs.Tensor) -> bool:
        return not self._axes.is_free(tensor) and tensor.name in self._extents()

    def _extents(self) -> Mapping[str, Any]:
        return self._axes.shapes.contents

    def _evaluate(
        self, tensor: gs.Tensor, extents: Extents, inputs: Mapping[str, np.ndarray[Any, Any]] | None = None
    ) -> np.ndarray[Any, Any]:
        values = dict(inputs or {})

        def is_known(output: gs.Tensor) -> bool:
            value = self._extent_value(output, extents)
            if value is not None:
                values[output.name] = value
            return value is not None

        nodes = self._makers({tensor.name}, is_known)
        if tensor.name in values:
            return values[tensor.name]
        element = self._axes.shapes.dtypes.get(tensor.name, onnx.TensorProto.FLOAT)
        return evaluate(self._graph, nodes, tensor.name, element, values)

    def _makers(self, needed: set[str], is_start: Callable[[gs.Tensor], bool]) -> list[gs.Node]:
        """The nodes that make the tensors named ``needed``, which gets the names of what these read, and so on.

        Args:
            needed: names; it grows.
            is_start: whether a tensor needs no node, as its value is known.
        """
        makers = []
        for node in reversed(self._graph.nodes):
            output = next((output for output in node.outputs if output.name in needed), None)
            if output is not None and not is_start(output):
                makers.append(node)
                needed.update(item.name for item in node.inputs)
        return makers[::-1]

    def _extent_value(self, tensor: gs.Tensor, extents: Extents) -> np.ndarray[Any, Any] | None:
        contents = self._extents().get(tensor.name)
        shape = self._axes.shape(tensor)
        if contents is None or self._axes.is_free(tensor) or shape is None:
            return None
        values = list(contents) if isinstance(contents, (list, tuple)) else [contents]
        numbers = [sympy.sympify(value).subs(extents) for value in values]
        if not all(getattr(number, "is_Integer", False) for number in numbers):
            return None
        dtype = onnx.helper.tensor_dtype_to_np_dtype(self._axes.shapes.dtypes.get(tensor.name, onnx.TensorProto.INT64))
        flat = np.array([int(number) for number in numbers], dtype)
        return flat.reshape(()) if shape == () and len(flat) == 1 else flat


def sequence_axes(axes: AxisMap, tensor: gs.Tensor) -> tuple[int, ...] | None:
    """Axes whose extent is the sequence length; None where the shape is unknown or mentions it in another way."""
    shape = axes.shape(tensor)
    if shape is None:
        return None
    seq_axes = tuple(axis for axis, extent in enumerate(shape) if extent == SEQ)
    others = [extent for axis, extent in enumerate(shape) if axis not in seq_axes]
    if any(mentions_tokens(extent) and SEQ in sympy.sympify(extent).free_symbols for extent in others):
        return None
    return seq_axes


def own_places(picked: np.ndarray[Any, Any], batch: int, seq: Sequence[int]) -> int | None:
    """The axis along which indices (sample, place) name each sample's own places in order; None where they do not.

    [n, 1, L, L, 2] with (i, k) at [i, 0, j, k] -> 3: exporters index a mask [n, L] so.

    Args:
        picked: the indices, each a vector along the last axis.
        batch, seq: the batch axis and the sequence axes of what is picked.
    """
    places = np.indices(picked.shape[:-1])
    if picked.shape[-1] != 2 or not np.array_equal(picked[..., 0], places[batch]):
        return None
    return next((axis for axis in seq if np.array_equal(picked[..., 1], places[axis])), None)


def _same(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    if left.shape != right.shape:
        return False
    if np.issubdtype(left.dtype, np.floating):
        return bool(np.allclose(left, right, rtol=1e-5, atol=1e-6, equal_nan=True))
    return bool(np.array_equal(left, right))

"""Which inputs hold a value a token, a pair of places, a sample or a run, and how large the declared rows are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.errors import PackingError
from passes.packing.opening.other_inputs import OtherInputs, is_fixed
from passes.packing.opening.pair_inputs import PairInput, PairInputs, names_pairs
from passes.packing.tokens.axes import BATCH, SEQ
from passes.shapes.input_shapes import InputShapes


@dataclass(frozen=True)
class Geometry:
    """The inputs.

    Attributes:
        inputs: the inputs that hold one value a token, [rows, columns, ...].
        rows, columns: their declared extents; 0 where nothing declares them.
        samples: the inputs that hold a row a sample, [batch, ...], the others of their extents numbers.
        runs: the inputs that hold one value for all samples of a run.
        pairs: the inputs that hold a value for each pair of a sample's places.
    """

    inputs: tuple[gs.Variable, ...]
    rows: int
    columns: int
    samples: tuple[gs.Variable, ...] = ()
    runs: tuple[gs.Variable, ...] = ()
    pairs: tuple[PairInput, ...] = ()

    @property
    def narrow(self) -> list[gs.Variable]:
        """The packed inputs of one number a token; several, [rows, columns, k], are content and no mask."""
        return [tensor for tensor in self.inputs if all(extent == 1 for extent in tensor.shape[2:])]

    @property
    def names(self) -> list[str]:
        """Names of the packed inputs."""
        return [tensor.name for tensor in self.inputs]

    @property
    def fixed(self) -> tuple[int, int]:
        """The first two extents as the first input itself declares them; 0 where one is open."""
        rows, columns = map(_number, self.inputs[0].shape[:2])
        return rows, columns

    @property
    def shape_agnostic(self) -> bool:
        """Whether the model came with variable extents, so that none of them can be baked into its constants."""
        return not any(is_fixed(extent) for tensor in self.inputs for extent in tensor.shape[:2])

    def within(self, graph: gs.Graph) -> Geometry:
        """The same inputs of a copy of the graph."""
        tensors = {tensor.name: tensor for tensor in graph.inputs}

        def own(inputs: Sequence[gs.Variable]) -> tuple[gs.Variable, ...]:
            return tuple(tensors[tensor.name] for tensor in inputs)

        pairs = tuple(replace(pair, tensor=tensors[pair.tensor.name]) for pair in self.pairs)
        return replace(self, inputs=own(self.inputs), samples=own(self.samples), runs=own(self.runs), pairs=pairs)

    def symbolic_shapes(self) -> dict[str, list[int | str]]:
        """The inputs' shapes with the symbols of batch and sequence in place of these extents."""
        tokens = {tensor.name: [str(BATCH), str(SEQ), *tensor.shape[2:]] for tensor in self.inputs}
        pairs = {pair.tensor.name: pair.shape(str(BATCH), str(SEQ)) for pair in self.pairs}
        return tokens | pairs | {tensor.name: [str(BATCH), *tensor.shape[1:]] for tensor in self.samples}


class GeometryFinder:
    """Finds the packed inputs.

    Args:
        shapes: what the inputs will be fixed to.
        dynamic_inputs: names of inputs of variable length that the user gave; empty means to find them.
    """

    def __init__(self, shapes: InputShapes, dynamic_inputs: Sequence[str] = ()) -> None:
        self._shapes, self._dynamic_inputs = shapes, dynamic_inputs

    def find(self, graph: gs.Graph) -> Geometry:
        """The geometry of ``graph``.

        Raises:
            PackingError: no input has the axes [batch, sequence], or one has others that no sample and no run has.
            RewriteError: an input cannot be fixed to the shape given.
        """
        candidates = [tensor for tensor in graph.inputs if tensor.shape is not None and len(tensor.shape) >= 2]
        first = self._first(graph, candidates)
        _refuse_later_sequence(first)
        rows, columns = self._declared(first)
        pairs = PairInputs(self._shapes, first).find(candidates)
        candidates = _without(candidates, [pair.tensor for pair in pairs])
        shared = [t for t in candidates if self._declared(t) == (rows, columns) and self._same_sequence(t, first)]
        others = OtherInputs(self._shapes, shared)
        rest = _without(graph.inputs, [*shared, *(pair.tensor for pair in pairs)])
        samples = [tensor for tensor in rest if others.is_row(tensor)]
        runs = _without(rest, samples)
        for tensor in samples:
            tensor.shape = [tensor.shape[0], *self._shapes.by_name.get(tensor.name, tensor.shape)[1:]]
        return Geometry(tuple(shared), rows, columns, tuple(samples), tuple(runs), pairs)

    def _first(self, graph: gs.Graph, candidates: Sequence[gs.Variable]) -> gs.Variable:
        names = ", ".join(f"{tensor.name} {tensor.shape}" for tensor in graph.inputs) or "none"
        of_pairs = [tensor.name for tensor in candidates if names_pairs(tensor)]
        candidates = [tensor for tensor in candidates if tensor.name not in of_pairs]
        named = [next((t for t in candidates if t.name == name), None) for name in self._dynamic_inputs]
        for name, named_input in zip(self._dynamic_inputs, named, strict=True):
            if named_input is None:
                raise PackingError(
                    f"pack_args dynamic_groups names {name!r}, which is no input [batch, sequence]; inputs: {names}"
                )
        if named:
            return named[0]
        if not candidates:
            unranked = next((tensor.name for tensor in graph.inputs if tensor.shape is None), None)
            advice = f"; the model does not say the rank of {unranked!r}: give its input_shape" if unranked else ""
            advice += (
                f"; {of_pairs[0]!r} has one extent on two axes: a value for each pair of places" if of_pairs else ""
            )
            raise PackingError(f"no input has the axes [batch, sequence]; inputs: {names}{advice}")
        # An open sequence tells the ids from whole numbers a sample, [batch, 2].
        candidates = [tensor for tensor in candidates if not is_fixed(tensor.shape[1])] or candidates
        ids = [t for t in candidates if len(t.shape) == 2 and _is_whole(t.dtype)]
        return ids[0] if ids else candidates[0]

    def _declared(self, tensor: gs.Variable) -> tuple[int, int]:
        """Rows and columns that the user or the model declares; 0 where neither does."""
        may_change = tensor.name in self._shapes.by_name or not all(map(is_fixed, tensor.shape))
        extents = (self._shapes.fixed(tensor) or tensor.shape) if may_change else tensor.shape
        rows, columns = map(_number, extents[:2])
        return rows, columns

    def _same_sequence(self, tensor: gs.Variable, first: gs.Variable) -> bool:
        """Two inputs with named axes must name the same sequence, unless the user gave both the same shape."""
        ours, theirs = tensor.shape[1], first.shape[1]
        if is_fixed(ours) and not is_fixed(theirs):
            return False  # as many numbers a sample as there happen to be columns
        if tensor.name in self._shapes.by_name and first.name in self._shapes.by_name:
            return True
        return not (isinstance(ours, str) and isinstance(theirs, str)) or ours == theirs


def _refuse_later_sequence(first: gs.Variable) -> None:
    """Refuse [batch, 80, time]: axis 1 is fixed, and what varies lies behind it.

    The batch of such an input may be open, named or not, or fixed. An extent of which nothing is said is open.
    """
    varies = [str(axis) for axis, extent in enumerate(first.shape) if axis > 1 and not is_fixed(extent)]
    if varies and is_fixed(first.shape[1]):
        raise PackingError(
            f"input {first.name!r} {first.shape} varies along {'axis' if len(varies) == 1 else 'axes'} "
            f"{' and '.join(varies)}; packing takes [batch, sequence, ...]: export the model with its sequence on "
            "axis 1"
        )


def _without(tensors: Sequence[gs.Variable], left_out: Sequence[gs.Variable]) -> list[gs.Variable]:
    return [tensor for tensor in tensors if not any(tensor is other for other in left_out)]


def _number(extent: Any) -> int:
    return int(extent) if is_fixed(extent) else 0


def _is_whole(dtype: Any) -> bool:
    """Whether a type is one of whole numbers; one that numpy lacks is held as ONNX's number for it."""
    return dtype is not None and not isinstance(dtype, int) and bool(np.issubdtype(dtype, np.integer))

"""Which inputs hold a value for each pair of a sample's places: distances of atoms, relations, attention biases.

Beside ids [batch, seq] these are [batch, seq, seq], [batch, heads, seq, seq] and [batch, seq, seq, k]: the sequence is
the extent of two axes behind the batch. They stay on the unpacked side, where places of one sample meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from passes.errors import PackingError
from passes.packing.opening.other_inputs import is_fixed
from passes.shapes.input_shapes import InputShapes


@dataclass(frozen=True)
class PairInput:
    """An input [batch, ...] with the sequence on two of its axes.

    Attributes:
        tensor: the input.
        axes: the two, in order.
    """

    tensor: gs.Variable
    axes: tuple[int, int]

    def shape(self, batch: Any, sequence: Any) -> list[Any]:
        """The input's shape with these extents of its batch and of its sequence axes."""
        extents = [sequence if axis in self.axes else extent for axis, extent in enumerate(self.tensor.shape)]
        return [batch, *extents[1:]]


def names_pairs(tensor: gs.Variable) -> bool:
    """Whether an open extent has one name on two axes behind the first: no such input holds a value a token."""
    named = [extent for extent in tensor.shape[1:] if isinstance(extent, str) and extent]
    return len(named) > len(set(named))


class PairInputs:
    """Finds the inputs of pairs.

    Args:
        shapes: what the inputs will be fixed to.
        first: an input [batch, sequence, ...].
    """

    def __init__(self, shapes: InputShapes, first: gs.Variable) -> None:
        self._shapes, self._first = shapes, first

    def find(self, candidates: Sequence[gs.Variable]) -> tuple[PairInput, ...]:
        """Those of ``candidates`` that hold pairs, with numbers for the extents that the user gives.

        Raises:
            PackingError: one has the sequence on more than two axes, no batch of its own, or another open extent.
        """
        pairs = []
        for tensor in candidates:
            axes = [axis for axis in range(len(tensor.shape)) if self._is_sequence(tensor, axis)]
            if tensor is not self._first and len(axes) > 1:
                pairs.append(self._checked(tensor, axes))
        return tuple(pairs)

    def _is_sequence(self, tensor: gs.Variable, axis: int) -> bool:
        """Two named extents must have one name; of unnamed ones the user says whether they are the sequence."""
        own, sequence, by_name = tensor.shape[axis], self._first.shape[1], self._shapes.by_name
        if is_fixed(own) or is_fixed(sequence):
            return False
        if _is_named(own) and _is_named(sequence):
            return bool(own == sequence)
        said = by_name.get(tensor.name, ())[axis : axis + 1]
        return axis > 0 and bool(said) and list(said) == list(by_name.get(self._first.name, ())[1:2])

    def _checked(self, tensor: gs.Variable, axes: list[int]) -> PairInput:
        shape, batch = tensor.shape, self._first.shape[0]
        if axes[0] == 0 or not self._same_batch(tensor):
            raise _refused(
                tensor,
                f"axis 0 is {shape[0]!r}, and the batch is {batch!r}: samples of a run would share it, whatever their "
                "lengths; export the model with a batch axis in front of it",
            )
        if len(axes) > 2:
            raise _refused(tensor, f"it has the sequence on {len(axes)} axes, {axes}, and packing takes pairs alone")
        declared = list(self._shapes.fixed(tensor) or shape) if tensor.name in self._shapes.by_name else list(shape)
        others = [axis for axis in range(1, len(shape)) if axis not in axes]
        is_open = next((axis for axis in others if not is_fixed(declared[axis])), None)
        if is_open is not None:
            raise _refused(
                tensor,
                f"axis {is_open} is open ({shape[is_open]!r}) and not the sequence; give a number with --input_shape "
                f"{tensor.name}=...",
            )
        tensor.shape = [declared[axis] if axis in others else extent for axis, extent in enumerate(shape)]
        return PairInput(tensor, (axes[0], axes[1]))

    def _same_batch(self, tensor: gs.Variable) -> bool:
        own, batch, by_name = tensor.shape[0], self._first.shape[0], self._shapes.by_name
        if is_fixed(own) or is_fixed(batch):
            return bool(own == batch)
        if tensor.name in by_name and self._first.name in by_name:
            return bool(by_name[tensor.name][0] == by_name[self._first.name][0])
        return not (_is_named(own) and _is_named(batch)) or own == batch


def refuse_segments(pairs: Sequence[PairInput], segments: Sequence[int]) -> None:
    """Refuse pairs where a sample has several segments: padding would lie between its places too.

    Raises:
        PackingError: it names the first such input.
    """
    if pairs and len(segments) > 1:
        raise _refused(
            pairs[0].tensor,
            "a sample of several segments has padding between its places; give one segment_max_size, "
            f"{sum(segments)} for all that a sample holds",
        )


def refuse_before_encoder(pairs: Sequence[PairInput]) -> None:
    """Refuse pairs beside a front end that changes the length: they are of the tokens, not of the encoder's places.

    Raises:
        PackingError: it names the first such input.
    """
    if pairs:
        raise _refused(
            pairs[0].tensor,
            "the front end of this model leaves its encoder other places than the tokens have; compute the pairs "
            "inside the model, or pack the encoder without its front end",
        )


def _refused(tensor: gs.Variable, why: str) -> PackingError:
    return PackingError(f"input {tensor.name!r} {tensor.shape} has a value for each pair of places: {why}")


def _is_named(extent: Any) -> bool:
    return isinstance(extent, str) and bool(extent)

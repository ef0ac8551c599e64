"""A model's inputs: their shapes, and which values mean something to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from passes.extents import declared_extent
from poprt.errors import PoprtError
from poprt.input_meaning import Meaning, input_meanings, unread_meaning

#: Pixels along a side, samples of sound: fewer do not survive the strides of a network.
_PICTURE, _WAVEFORM = 64, 512
_CHANNELS = (1, 3, 4)
_ELEMENT_TYPES = frozenset(onnx.helper.get_all_tensor_dtypes())


@dataclass(frozen=True)
class InputInfo:
    """A model input.

    Attributes:
        shape: extents; a name or None where the model leaves one open.
        kind: which values mean something to it, see :class:`poprt.input_meaning.Meaning`.
        rows: for ids and positions, one more than the highest value that every table has; 0 where none is known. For
            lengths and places, the extent of the sequence; 0 before it is known.
        low: for ids and positions, the lowest value.
        values: what a setting may be.
        reason: what the input was followed to in the graph, or how its values were guessed.
        any_rank: the model does not say the rank; ``shape`` is empty then.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]
    kind: str
    rows: int = 0
    low: int = 0
    values: tuple[int, ...] = ()
    reason: str = ""
    any_rank: bool = False

    def concrete(self, sizes: Mapping[str, int] | None = None) -> tuple[int, ...]:
        """The shape, open extents filled in: by name from ``sizes``, else as :meth:`open_extent` says.

        Raises:
            PoprtError: the model does not say the rank.
        """
        if self.any_rank:
            raise PoprtError(
                f"input {self.name!r}: the model does not say its rank, so no sample data can be made; give its shape "
                f"with --input_shape {self.name}=..., or leave out what runs the model (check, run, int8)"
            )
        sizes = sizes or {}
        return tuple(
            extent if isinstance(extent, int) else sizes.get(extent or "", self.open_extent(axis))
            for axis, extent in enumerate(self.shape)
        )

    def open_extent(self, axis: int) -> int:
        """The size for an open extent: 2 for the first axis, enough for a picture or a waveform, 16 for others."""
        last = len(self.shape) - 1
        if axis == 0:
            return 2
        if self.kind in ("numbers", "bytes") and self._is_picture():
            return _PICTURE
        waveform = last == 1 or (last == 2 and self.shape[1] == 1)
        return _WAVEFORM if self.kind == "numbers" and waveform and axis == last else 16

    def _is_picture(self) -> bool:
        """Whether the shape is [n, channels, open, open] or [n, open, open, channels]."""
        if len(self.shape) != 4:
            return False
        fixed = [isinstance(extent, int) for extent in self.shape[1:]]
        sides = {(True, False, False): self.shape[1], (False, False, True): self.shape[3]}
        return sides.get((fixed[0], fixed[1], fixed[2])) in _CHANNELS

    def __str__(self) -> str:
        """What is fed, and why."""
        highest = self.rows - 1
        what = {
            "ids": f"ids {self.low} to {highest}",
            "positions": f"positions {self.low} to {highest}" if self.rows else "positions 0, 1, 2 ...",
            "mask": "1, then 0 to the end",
            "lengths": "lengths of a sequence",
            "places": "places of a sequence",
            "setting": " or ".join(map(str, self.values)),
            "bytes": f"any {self.dtype.name}",
            "factors": "factors 0.5 to 1.5",
            "numbers": "normal numbers",
        }.get(self.kind, self.kind)
        return f"{self.name}: {what}" + (f"; {self.reason}" if self.reason else "")


def model_inputs(model: onnx.ModelProto) -> list[InputInfo]:
    """The inputs that a caller has to feed, and what values mean something to each.

    Raises:
        PoprtError: an input is no tensor of a known type.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    values = {value.name: value for value in model.graph.input if value.name not in weights}
    dtypes = {name: element_type(value) for name, value in values.items()}
    try:
        meanings = input_meanings(model, dtypes)
    except (IndexError, ValueError, TypeError):  # the model is not valid, and its reader will say so
        meanings = {name: unread_meaning(name, dtype) for name, dtype in dtypes.items()}
    return [_info(value, dtypes[name], meanings[name]) for name, value in values.items()]


def _info(value: onnx.ValueInfoProto, dtype: np.dtype[Any], meaning: Meaning) -> InputInfo:
    return InputInfo(
        value.name,
        dtype,
        tensor_shape(value),
        meaning.kind,
        meaning.rows,
        meaning.low,
        meaning.values,
        meaning.reason,
        any_rank=not value.type.tensor_type.HasField("shape"),
    )


def element_type(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    """numpy's type of an input or output.

    Raises:
        PoprtError: it is no tensor, or its type is not said or unknown.
    """
    form = value.type.WhichOneof("value") or "tensor_type"
    if form != "tensor_type":
        raise PoprtError(
            f"{value.name!r} is no tensor but of the kind {form.removesuffix('_type')}, and sample data are made of "
            "tensors alone; leave out what runs the model (check, run, int8)"
        )
    number = value.type.tensor_type.elem_type
    if not value.type.HasField("tensor_type") or number not in _ELEMENT_TYPES:
        raise PoprtError(f"{value.name!r} is no tensor of a known type (element type {number}); export the model again")
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(number))


def tensor_shape(value: onnx.ValueInfoProto) -> tuple[int | str | None, ...]:
    """Declared extents: a number, the extent's name, or None where it is open and unnamed."""
    return tuple(declared_extent(dim) for dim in value.type.tensor_type.shape.dim)


def sample_shapes(infos: Sequence[InputInfo], sizes: Mapping[str, int] | None = None) -> dict[str, tuple[int, ...]]:
    """A shape for each input. An extent of one name has one size, that of the first input which has it.

    Raises:
        PoprtError: the model does not say the rank of an input.
    """
    by_name = dict(sizes or {})
    for info in infos:
        for axis, extent in enumerate(info.shape):
            if isinstance(extent, str) and "+" not in extent:
                by_name.setdefault(extent, info.open_extent(axis))
    for name in {extent for info in infos for extent in info.shape if isinstance(extent, str) and "+" in extent}:
        terms = [term.strip() for term in name.split("+")]
        if all(term.isdecimal() or term in by_name for term in terms):  # as in "past_sequence_length + 1"
            by_name.setdefault(name, sum(int(term) if term.isdecimal() else by_name[term] for term in terms))
    return {info.name: _batch_of_state(info, infos, info.concrete(by_name)) for info in infos}


def _batch_of_state(info: InputInfo, infos: Sequence[InputInfo], shape: tuple[int, ...]) -> tuple[int, ...]:
    """``shape``; of an input that lies as the state of a recurrence, [layers, open, size], with the others' batch."""
    first = next((other for other in infos if other.shape and not isinstance(other.shape[0], int)), None)
    lies_so = [isinstance(extent, int) for extent in info.shape] == [True, False, True] and info.shape[1] is None
    return (shape[0], first.open_extent(0), shape[2]) if first is not None and lies_so else shape

"""Random input data that means something to the model: ids within the vocabulary, masks of 0 and 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from poprt.errors import PoprtError
from poprt.input_info import InputInfo, element_type, model_inputs, sample_shapes, tensor_shape

__all__ = [
    "Array",
    "InputInfo",
    "check_size",
    "element_type",
    "model_inputs",
    "other_array",
    "random_array",
    "sample_feeds",
    "sample_shapes",
    "tensor_shape",
]

Array = npt.NDArray[Any]

#: Common vocabularies keep padding and other marks in their first places; a real token is none of them.
_SPECIAL_IDS = 5
#: Values of a string input.
_WORDS = ("a", "text", "of", "words")
#: The most elements of one input; a serving batch has thousands of times fewer.
_MOST_ELEMENTS = 1 << 27


def sample_feeds(
    infos: Sequence[InputInfo], shapes: Mapping[str, Sequence[int]], rng: np.random.Generator
) -> dict[str, Array]:
    """Values for all inputs of one run, which fit each other: masks and lengths of the same samples agree.

    Args:
        infos: the inputs.
        shapes: the shape of each.
        rng: where the values come from.
    """
    drawn: dict[tuple[int, int], Array] = {}
    return {info.name: _agreeing(info, infos, shapes, drawn, rng) for info in infos}


def _agreeing(
    info: InputInfo,
    infos: Sequence[InputInfo],
    shapes: Mapping[str, Sequence[int]],
    drawn: dict[tuple[int, int], Array],
    rng: np.random.Generator,
) -> Array:
    """One input of :func:`sample_feeds`; ``drawn`` has the lengths of the samples by their number and the extent."""
    shape = tuple(shapes[info.name])
    if info.kind in ("lengths", "places"):
        info = replace(info, rows=info.rows or _sequence_extent(info, infos, shapes))
    of_samples = (math.prod(shape), info.rows) if info.kind == "lengths" else shape
    if info.kind not in ("mask", "lengths") or len(of_samples) != 2:
        return random_array(info, shape, rng)
    samples, extent = of_samples
    check_size(info.name, of_samples)
    lengths = drawn.setdefault((samples, extent), _draw_lengths(samples, extent, rng))
    if info.kind == "lengths":
        return lengths.reshape(shape).astype(info.dtype)
    return np.asarray(np.arange(extent) < lengths[:, None]).astype(info.dtype)


def _draw_lengths(samples: int, extent: int, rng: np.random.Generator) -> Array:
    """How many places of each sample count, int [samples]. The first has all: a batch is as long as its longest."""
    lengths = rng.integers(1, max(extent, 1) + 1, size=samples)
    lengths[:1] = extent
    return np.minimum(lengths, extent)


def _sequence_extent(info: InputInfo, infos: Sequence[InputInfo], shapes: Mapping[str, Sequence[int]]) -> int:
    """The extent that lengths count to: the smallest one that the other inputs leave open behind the first axis.

    Where none is open, the smallest of those that are fixed: no sequence is shorter.
    """
    others = [other for other in infos if other.name != info.name]
    behind = [
        (extent, declared)
        for other in others
        for extent, declared in zip(tuple(shapes[other.name])[1:], other.shape[1:], strict=False)
    ]
    extents = [extent for extent, declared in behind if not isinstance(declared, int)] or [e for e, _ in behind]
    return min(extents, default=1)


def random_array(info: InputInfo, shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Values for ``info`` in ``shape``. A mask is 1 up to a random length along its last axis, then 0.

    Of several samples the first has no padding, as in a batch that is padded to its longest.
    """
    shape = tuple(shape)
    check_size(info.name, shape)
    if info.dtype == object:
        return np.asarray(rng.choice(np.array(_WORDS, object), size=shape), object)
    make = _MAKERS.get(info.kind)
    if make is not None:
        return make(info, shape, rng).astype(info.dtype)
    return rng.standard_normal(shape).astype(info.dtype)


_Shape = tuple[int, ...]


def _mask(_: InputInfo, shape: _Shape, rng: np.random.Generator) -> Array:
    if not shape or not shape[-1]:
        return np.ones(shape)
    lengths = rng.integers(1, shape[-1] + 1, size=(*shape[:-1], 1))
    if len(shape) > 1 and shape[0] > 1:
        lengths[0] = shape[-1]
    return np.asarray(np.arange(shape[-1]) < lengths)


def _positions(info: InputInfo, shape: _Shape, _: np.random.Generator) -> Array:
    last = shape[-1] if shape else 1
    count = max(info.rows - info.low, 1) if info.rows else max(last, 1)
    return np.broadcast_to(info.low + np.arange(last) % count, shape) if shape else np.full(shape, info.low)


def _ids(info: InputInfo, shape: _Shape, rng: np.random.Generator) -> Array:
    return np.asarray(rng.integers(_least_id(info), info.rows, size=shape))


def _lengths(info: InputInfo, shape: _Shape, rng: np.random.Generator) -> Array:
    return _draw_lengths(math.prod(shape), max(info.rows, 1), rng).reshape(shape)


def _places(info: InputInfo, shape: _Shape, rng: np.random.Generator) -> Array:
    return np.asarray(rng.integers(0, max(info.rows, 1), size=shape))


def _setting(info: InputInfo, shape: _Shape, _: np.random.Generator) -> Array:
    return np.full(shape, info.values[0] if info.values else 1)


def _bytes(info: InputInfo, shape: _Shape, rng: np.random.Generator) -> Array:
    bounds = np.iinfo(info.dtype)
    return np.asarray(rng.integers(bounds.min, bounds.max, size=shape, dtype=info.dtype, endpoint=True))


def _factors(_: InputInfo, shape: _Shape, rng: np.random.Generator) -> Array:
    return np.asarray(rng.uniform(0.5, 1.5, size=shape))


_MAKERS: Mapping[str, Callable[[InputInfo, _Shape, np.random.Generator], Array]] = {
    "mask": _mask,
    "positions": _positions,
    "ids": _ids,
    "lengths": _lengths,
    "places": _places,
    "setting": _setting,
    "bytes": _bytes,
    "factors": _factors,
}


def other_array(info: InputInfo, array: Array, rng: np.random.Generator) -> Array:
    """Values of the same kind, another one at every place. Masks and positions stay: they are no content."""
    if info.kind == "numbers":
        return np.where(array == 0, 1, -array).astype(info.dtype)
    low = _least_id(info)
    count = info.rows - low
    if info.kind != "ids" or count < 2:
        return array
    return np.asarray((array - low + rng.integers(1, count, size=array.shape)) % count + low, info.dtype)


def _least_id(info: InputInfo) -> int:
    return info.low + (_SPECIAL_IDS if info.rows - info.low > 4 * _SPECIAL_IDS else 0)


def check_size(name: str, shape: Sequence[int]) -> None:
    """Refuse to make more sample data than a machine may be expected to hold.

    Raises:
        PoprtError: it names the input.
    """
    if math.prod(shape) > _MOST_ELEMENTS:
        raise PoprtError(
            f"input {name!r}: sample data of shape {list(shape)} would not fit in memory; give it smaller extents, or "
            "leave out what runs the model (check, run, int8)"
        )

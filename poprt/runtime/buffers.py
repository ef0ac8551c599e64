"""Checks and copies between the caller's arrays and the engine's."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poprt.errors import InputError
from poprt.executable import TensorSpec

Array = NDArray[Any]

logger = logging.getLogger("poprt")

#: The input that scripts feed to every form of a model, also to those that count positions by themselves.
POSITION_IDS = "position_ids"


def as_array(name: str, value: object) -> Array:
    """Return what a caller gives for an input as an array; raise InputError if it is none."""
    try:
        return np.asarray(value)
    except Exception as error:  # whatever the caller's object raises
        raise InputError(f"input {name!r}: {type(value).__name__} cannot be read as an array: {error}") from error


def check_dtype(name: str, array: Array, declared: str, *, values: bool = True) -> None:
    """Raise InputError unless the values can be given as the declared type.

    Integers may have any integer type that holds them, floats any float type; no float passes for an integer.

    Args:
        values: look at the values of integers; off where ``check_ids`` does.
    """
    dtype = np.dtype(declared)
    if array.dtype == dtype or np.can_cast(array.dtype, dtype, "safe"):
        return
    if array.dtype.kind in "iu" and dtype.kind in "iu":
        if values:
            _check_range(name, array, dtype)
    elif not np.can_cast(array.dtype, dtype, "same_kind"):
        raise InputError(f"input {name!r}: expected {dtype}, got {array.dtype}; convert it with .astype('{dtype}')")


def _check_range(name: str, array: Array, dtype: np.dtype[Any]) -> None:
    if array.size == 0:
        return
    low, high = int(array.min()), int(array.max())
    limits = np.iinfo(dtype)
    if low < limits.min or high > limits.max:
        raise InputError(f"input {name!r}: values from {low} to {high} do not fit {dtype}")


def check_ids(spec: TensorSpec, array: Array) -> None:
    """Raise InputError for the first value of an input that is no row of the table that the input indexes.

    A negative one is refused as well: the engine would count it from the table's end.
    """
    limit = spec.id_limit
    if not limit or array.size == 0 or array.dtype.kind not in "iu" or _all_below(array, limit):
        return
    flat = array.reshape(-1)
    place = int(np.flatnonzero((flat < 0) | (flat >= limit))[0])
    raise InputError(
        f"input {spec.name!r}: the value {flat[place]} in place {place} is no row of the model's table; "
        f"expected 0 to {limit - 1}"
    )


def _all_below(array: Array, limit: int) -> bool:
    """Tell whether integers are at least 0 and below the limit."""
    if array.dtype.kind == "i" and limit <= np.iinfo(array.dtype).max:
        # Read as unsigned, negative numbers are larger than any limit: one pass finds both faults.
        return int(array.view(array.dtype.str.replace("i", "u")).max()) < limit
    return int(array.min()) >= 0 and int(array.max()) < limit


class InputNames:
    """The names of the inputs, for judging what a caller feeds.

    Args:
        names: in the order in which messages list them.
        dispensable: names that may be fed where there is no such input.
    """

    def __init__(self, names: Iterable[str], dispensable: Collection[str] = (POSITION_IDS,)) -> None:
        self._names = list(names)
        self._dispensable = dispensable
        self._warned: set[str] = set()

    def check(self, names: Iterable[str]) -> None:
        """Raise InputError for the first name that is no input. A dispensable one is a warning, given once."""
        for name in names:
            if name in self._names or name in self._warned:
                continue
            if name not in self._dispensable:
                check_known("input", [name], self._names)
            self._warned.add(name)
            logger.warning("input %r is not used: the executable has %s", name, ", ".join(self._names))


def check_buffer(name: str, buffer: object) -> Array:
    """Return an output buffer as an array; raise InputError if results cannot be written to it."""
    if not isinstance(buffer, np.ndarray):
        raise InputError(f"output {name!r}: expected a numpy array to fill, got {type(buffer).__name__}")
    if not buffer.flags.writeable:
        raise InputError(f"output {name!r}: the array is read-only; give one that can be written")
    return buffer


def check_known(kind: str, asked: Iterable[str], declared: Iterable[str]) -> None:
    """Raise InputError for the first given name that the executable does not have."""
    names = list(declared)
    for name in asked:
        if name not in names:
            raise InputError(f"unknown {kind} {name!r}: the executable has {', '.join(names)}")


def fill(name: str, buffer: Array, values: Array) -> None:
    """Write values from the buffer's start, whatever its shape, cast to its type; zero the rest.

    Raises:
        InputError: the buffer has too little room.
    """
    count = values.size
    if buffer.size < count:
        raise InputError(
            f"output {name!r}: the result has shape {list(values.shape)} ({count} values), "
            f"the buffer of shape {list(buffer.shape)} has room for {buffer.size}"
        )
    flat: Any = buffer.reshape(-1) if buffer.flags.c_contiguous else buffer.flat
    flat[:count] = values.reshape(-1)
    flat[count:] = 0


def copy_whole(name: str, buffer: Array, values: Array) -> None:
    """Copy a result into a buffer of as many values, cast to its type; raise InputError if the sizes differ."""
    if buffer.shape == values.shape:
        np.copyto(buffer, values, casting="unsafe")
    elif buffer.size == values.size:
        buffer.flat[:] = values.reshape(-1)
    else:
        raise InputError(f"output {name!r}: expected shape {list(values.shape)}, got {list(buffer.shape)}")


def with_rows(array: Array, count: int) -> Array:
    """``array`` [n, ...] with zeros behind it, [count, ...]."""
    padded = np.zeros((count, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded


def stacked(rows: Sequence[Array], shape: Sequence[int], dtype: str | np.dtype[Any]) -> Array:
    """Rows of one sample each under each other, zeros from their ends to a row of ``shape``."""
    array: Array = np.zeros((len(rows), *shape), dtype)
    for number, row in enumerate(rows):
        array[number, ...][tuple(slice(extent) for extent in row.shape)] = row
    return array

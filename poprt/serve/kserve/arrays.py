"""Arrays from the values and bytes of a request: everything is checked before an array of its shape is made."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poprt.serve.errors import BadRequest
from poprt.serve.kserve.datatypes import BYTES, Datatype

Array = NDArray[Any]

#: Most axes of a tensor, and the largest extent of one.
MOST_AXES, MOST_EXTENT = 16, 2**31 - 1
#: The types of JSON values that a tensor may have, by the kind of its array.
_VALUES: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}, "O": {str}}
_LENGTH = struct.Struct("<I")


def check_shape(name: str, shape: object) -> tuple[int, ...]:
    """The extents of a tensor.

    Raises:
        BadRequest: it is no list of whole numbers, one is negative or too large, or there are too many.
    """
    if not isinstance(shape, Sequence) or isinstance(shape, (str, bytes)):
        raise BadRequest(f"tensor {name!r}: shape {shape!r:.50}, expected a list of whole numbers such as [2, 16]")
    if len(shape) > MOST_AXES:
        raise BadRequest(f"tensor {name!r}: the shape has {len(shape)} axes, at most {MOST_AXES} are taken")
    for extent in shape:
        if type(extent) is not int or not 0 <= extent <= MOST_EXTENT:
            raise BadRequest(
                f"tensor {name!r}: shape holds {extent!r:.50}, expected whole numbers from 0 to {MOST_EXTENT}"
            )
    return tuple(shape)


def from_values(name: str, kind: Datatype, shape: tuple[int, ...], values: object) -> Array:
    """An array of JSON values, flat in row-major order or nested as the shape says.

    Raises:
        BadRequest: they are no list, ragged, too many or too few, of another type, or beyond its range.
    """
    if not isinstance(values, list):
        raise BadRequest(f"tensor {name!r}: data is {type(values).__name__}, expected a list of values")
    flat = _flat(name, shape, values)
    return from_flat(name, kind, shape, flat)


def from_flat(name: str, kind: Datatype, shape: tuple[int, ...], flat: Sequence[Any]) -> Array:
    """An array of values in row-major order; raise BadRequest as :func:`from_values` does."""
    if kind.name == "FP16":
        raise BadRequest(f"tensor {name!r}: FP16 values are taken in binary form alone; send them so, or as FP32")
    if len(flat) != math.prod(shape):
        raise _wrong_count(name, shape, f"{len(flat)} values")
    _check_values(name, kind, flat)
    with np.errstate(over="ignore"):
        array = np.array(flat, kind.dtype) if flat else np.empty(0, kind.dtype)
    if kind.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadRequest(f"tensor {name!r}: a value is beyond {kind.name}, or no number")
    return _shaped(name, array, shape)


def from_bytes(name: str, kind: Datatype, shape: tuple[int, ...], data: bytes | memoryview) -> Array:
    """An array of its bytes in row-major order: little-endian numbers; texts of UTF-8, each behind its length (uint32).

    The array shares the memory of ``data`` and is read-only, but for texts.

    Raises:
        BadRequest: there are too many bytes or too few, or a text is cut short or no UTF-8.
    """
    if kind.name == BYTES:
        return _shaped(name, _texts(name, shape, memoryview(data)), shape)
    size = math.prod(shape) * kind.dtype.itemsize
    if len(data) != size:
        raise _wrong_count(name, shape, f"{len(data)} bytes", f"{size} bytes of {kind.name}")
    if kind.name == "BOOL" and size and np.frombuffer(data, np.uint8).max() > 1:
        raise BadRequest(f"tensor {name!r}: a byte of BOOL is neither 0 nor 1")
    return _shaped(name, np.frombuffer(data, kind.dtype.newbyteorder("<")).astype(kind.dtype, copy=False), shape)


def to_bytes(array: Array) -> bytes:
    """The bytes of an array in row-major order, as :func:`from_bytes` reads them."""
    if array.dtype == object:
        return b"".join(part for text in map(str.encode, array.flat) for part in (_LENGTH.pack(len(text)), text))
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _flat(name: str, shape: tuple[int, ...], values: list[Any]) -> list[Any]:
    """Nested lists laid flat, level by level; a flat list as it is."""
    if not values or not isinstance(values[0], list):
        return values
    level: list[Any] = [values]
    for axis, extent in enumerate(shape):
        if set(map(type, level)) - {list}:
            raise BadRequest(f"tensor {name!r}: data mixes lists and values at depth {axis}")
        other = next((size for size in map(len, level) if size != extent), None)
        if other is not None:
            raise BadRequest(
                f"tensor {name!r}: data has a list of {other} at depth {axis}, shape {list(shape)} says {extent}"
            )
        level = list(chain.from_iterable(level))
    return level


def _check_values(name: str, kind: Datatype, flat: Sequence[Any]) -> None:
    """Refuse values of another type and those beyond the range of whole numbers."""
    others = set(map(type, flat)) - _VALUES[kind.dtype.kind]
    if others:
        names = ", ".join(sorted(item.__name__ for item in others))
        raise BadRequest(f"tensor {name!r}: data holds values of type {names}, expected {kind.name}")
    if flat and kind.dtype.kind in "iu":
        limits = np.iinfo(kind.dtype)
        if min(flat) < limits.min or max(flat) > limits.max:
            raise BadRequest(
                f"tensor {name!r}: a value is beyond {kind.name}, which holds {limits.min} to {limits.max}"
            )


def _texts(name: str, shape: tuple[int, ...], data: memoryview) -> Array:
    count, texts, at = math.prod(shape), list[str](), 0
    while at < len(data):
        start = at + _LENGTH.size
        if start > len(data):
            raise BadRequest(f"tensor {name!r}: the length of element {len(texts)} is cut short")
        at = start + _LENGTH.unpack_from(data, at)[0]
        if at > len(data):
            raise BadRequest(f"tensor {name!r}: element {len(texts)} goes beyond the tensor's {len(data)} bytes")
        texts.append(decoded(name, len(texts), bytes(data[start:at])))
    if len(texts) != count:
        raise _wrong_count(name, shape, f"{len(texts)} elements")
    return text_array(texts)


def decoded(name: str, number: int, data: bytes) -> str:
    """A text of its bytes; raise BadRequest."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"tensor {name!r}: element {number} is no UTF-8 at byte {error.start}") from None


def text_array(texts: Sequence[str]) -> Array:
    """Texts as an array of objects [n]."""
    array = np.empty(len(texts), object)
    array[:] = texts
    return array


def _shaped(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    try:
        return array.reshape(shape)
    except ValueError:  # an empty one, with extents that numpy does not take
        raise BadRequest(f"tensor {name!r}: shape {list(shape)} is too large") from None


def _wrong_count(name: str, shape: tuple[int, ...], count: str, expected: str = "") -> BadRequest:
    return BadRequest(
        f"tensor {name!r}: shape {list(shape)} holds {expected or f'{math.prod(shape)} values'}, the data has {count}"
    )

"""The wire format of protocol buffers: enough to walk a serialised model without a protobuf library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


class WireError(ValueError):
    """The bytes are no protobuf message, or one of more fields than may be read."""


class Field(NamedTuple):
    """One field: its number, and where its bytes lie; or, for a whole number, its value and an ``end`` of -1."""

    number: int
    start: int
    end: int


class WireReader:
    """Reads the fields of the messages in ``data``.

    Args:
        data: a serialised message, with those inside it.
        most_fields: how many fields are read in all before :class:`WireError` is raised.
    """

    def __init__(self, data: bytes, most_fields: int) -> None:
        self.data = data
        self._left = most_fields

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """The fields of the message from ``start`` to ``end``. Numbers of a fixed width are left out.

        Raises:
            WireError: a field does not end within the message, or is of a form that ONNX has not.
        """
        data, position = self.data, start
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise WireError("it has more fields than any model needs")
            key, position = self._varint(position, end)
            number, form = key >> 3, key & 7
            if form == _BYTES:
                size, position = self._varint(position, end)
                position += size
                if position > end:
                    raise WireError("a field does not end within its message")
                yield Field(number, position - size, position)
            elif form == _VARINT:
                value, position = self._varint(position, end)
                yield Field(number, value, -1)
            elif form in (_FIXED32, _FIXED64):
                position += 4 if form == _FIXED32 else 8
            else:
                raise WireError(f"a field has the wire type {form}, which ONNX does not use")
        if position != end or end > len(data):
            raise WireError("a field does not end within its message")

    def numbers(self, field: Field) -> Iterator[int]:
        """The whole numbers of a repeated field, which may be packed or not; negative ones as unsigned 64 bits."""
        if field.end < 0:
            yield field.start
            return
        position = field.start
        while position < field.end:
            value, position = self._varint(position, field.end)
            yield value

    def bytes_of(self, field: Field) -> bytes:
        """The contents of a field that holds bytes or a text."""
        return self.data[field.start : field.end]

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        """The number at ``position``, and the place after it."""
        data = self.data
        if position >= end:
            raise WireError("a number does not end within its message")
        byte = data[position]
        if byte < 0x80:
            return byte, position + 1
        value = shift = 0
        for at in range(position, min(end, position + _LONGEST_VARINT)):
            byte = data[at]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, at + 1
            shift += 7
        raise WireError("a number does not end within its message")

"""Bodies that are sent compressed, inflated no further than they may be large."""

from __future__ import annotations

import zlib
from typing import Any, ClassVar

from poprt.serve.errors import BadRequest, ServeError

#: Members of a gzip body: each costs some microseconds, however little it holds.
_MOST_MEMBERS = 1024
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class UnsupportedMediaType(ServeError):  # noqa: N818  # as the others are called
    """A body in an encoding that the server does not read."""

    status: ClassVar[int] = 415
    code: ClassVar[str] = "unsupported_media_type"


def inflater(encoding: str) -> Identity | Inflater:
    """What undoes a ``Content-Encoding``; a list has one coding beside identity. Raises UnsupportedMediaType."""
    codings = [coding for coding in map(str.strip, encoding.split(",")) if coding not in ("", "identity")]
    if not codings:
        return Identity()
    if len(codings) == 1 and codings[0] in ("gzip", "x-gzip", "deflate"):
        return Inflater(codings[0])
    raise UnsupportedMediaType(f"Content-Encoding is {encoding[:40]!r}, expected gzip, deflate or identity")


class Identity:
    """Leaves a body as it is."""

    def feed(self, part: bytes, room: int, *, last: bool) -> bytes:
        """The part."""
        return part


class Inflater:
    """Inflates gzip (several members, too) or deflate (with or without zlib's header)."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._stream: Any = None
        self._members = 0

    def feed(self, part: bytes, room: int, *, last: bool) -> bytes:
        """Inflate a part, up to ``room`` bytes; what is beyond is not looked at.

        Raises:
            BadRequest: the body is not so encoded, or ends too early (``last``).
        """
        inflated = b""
        while part and len(inflated) < room:
            if self._stream is None or (self._stream.eof and self._encoding != "deflate"):
                self._members += 1
                if self._members > _MOST_MEMBERS:
                    raise self._refusal(f"it has more than {_MOST_MEMBERS} members")
                self._stream = zlib.decompressobj(self._window(part[0]))
            elif self._stream.eof:
                raise self._refusal("something follows its end")
            try:
                inflated += self._stream.decompress(part, room - len(inflated))
            except zlib.error as error:
                raise self._refusal(str(error)) from error
            part = self._stream.unconsumed_tail or self._stream.unused_data
        if last and len(inflated) < room and not (self._stream is not None and self._stream.eof):
            raise self._refusal("it ends too early")
        return inflated

    def _window(self, first: int) -> int:
        if self._encoding != "deflate":
            return _GZIP
        return _ZLIB if first & 0x0F == 8 else _RAW  # zlib's header names the method, 8; many clients leave it out

    def _refusal(self, why: str) -> BadRequest:
        return BadRequest(f"the body is no {self._encoding}, as Content-Encoding says: {why}")

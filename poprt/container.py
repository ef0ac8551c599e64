"""A sealed zip file: members stored and aligned, every byte covered by a digest. This module writes it.

The file is an ordinary zip archive with these members, in this order: ``mimetype`` (a fixed text, so that the first
bytes of the file tell what it is), the payload members, and ``manifest.json``. The manifest holds length and sha256 of
each payload member. The archive comment holds the sha256 of everything else in the file (the *frame*: headers, padding,
manifest, directory), so no byte can change unseen.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from poprt.atomic_file import replacing

FORMAT_NAME = "poprt-executable"
#: The newest version that is read. A file has the oldest one that has what it holds.
FORMAT_VERSION = 2
ONE_MODEL, SEVERAL_MODELS = 1, 2
ALIGNMENT = 64
MANIFEST = "manifest.json"

MIMETYPE = "mimetype"
MEDIA_TYPE = b"application/vnd.poprt.executable"
HEADER_SIZE = 30  # of a zip local file header, before the name
SEAL_SIZE = 64  # hex digits of a sha256

_PAD_FIELD = 0xD935  # the extra field that Android's zipalign uses for the same purpose
_ZIP64_FIELD_SIZE = 20


@dataclass(frozen=True)
class Payload:
    """A member to write: its length in bytes and its contents, piece by piece."""

    size: int
    chunks: Iterable[bytes | memoryview]


@dataclass(frozen=True)
class Range:
    """Where the data of a member lies in the file."""

    start: int
    end: int


def write_container(
    path: str | Path, payloads: Mapping[str, Payload], body: Mapping[str, Any], *, version: int = ONE_MODEL
) -> None:
    """Write a container; ``body`` becomes the manifest, with the format, its version and the members' digests added.

    The file appears under ``path`` complete or not at all. The same contents give the same bytes.
    """
    with replacing(path) as file:
        ranges: list[Range] = []
        with zipfile.ZipFile(file, "w") as archive:
            archive.comment = b"0" * SEAL_SIZE
            _add(archive, file, MIMETYPE, Payload(len(MEDIA_TYPE), [MEDIA_TYPE]))
            members = {}
            for name, payload in payloads.items():
                start, digest = _add(archive, file, name, payload)
                ranges.append(Range(start, start + payload.size))
                members[name] = {"bytes": payload.size, "sha256": digest}
            head = {"format": FORMAT_NAME, "format_version": version, "members": members}
            manifest = json.dumps({**head, **body}, indent=1, sort_keys=True).encode()
            _add(archive, file, MANIFEST, Payload(len(manifest), [manifest]))
        size = file.seek(0, os.SEEK_END)
        seal = frame_digest(_file_reader(file), ranges, size - SEAL_SIZE)
        file.seek(size - SEAL_SIZE)
        file.write(seal)


def _add(archive: zipfile.ZipFile, file: IO[bytes], name: str, payload: Payload) -> tuple[int, str]:
    """Append a member; give the offset of its data and its sha256."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o644 << 16  # the same on every system
    info.file_size = payload.size
    zip64 = payload.size >= zipfile.ZIP64_LIMIT // 2
    header = file.tell() + HEADER_SIZE + len(name) + _ZIP64_FIELD_SIZE * zip64 + 4
    pad = -header % ALIGNMENT
    info.extra = struct.pack("<HH", _PAD_FIELD, pad) + bytes(pad)
    digest = hashlib.sha256()
    with archive.open(info, "w", force_zip64=zip64) as member:
        start = file.tell()
        for chunk in payload.chunks:
            digest.update(chunk)
            member.write(chunk)
    if file.tell() - start != payload.size:
        raise ValueError(f"member {name!r} was announced with {payload.size} bytes, got {file.tell() - start}")
    return start, digest.hexdigest()


def frame_digest(pieces: Callable[[int, int], Iterable[bytes | memoryview]], payloads: list[Range], end: int) -> bytes:
    """The sha256 of the first ``end`` bytes without the payload members, as hex digits.

    Args:
        pieces: gives the bytes from one offset to another, piece by piece.
        payloads: where the payload members lie; none lies over another.
        end: where the frame ends.
    """
    digest, position = hashlib.sha256(), 0
    for part in [*sorted(payloads, key=lambda part: part.start), Range(end, end)]:
        for piece in pieces(position, part.start):
            digest.update(piece)
        position = part.end
    return digest.hexdigest().encode()


def _file_reader(file: IO[bytes]) -> Callable[[int, int], Iterable[bytes]]:
    def read(start: int, stop: int) -> Iterable[bytes]:
        file.seek(start)
        yield file.read(stop - start)

    return read

"""A sealed zip file: members stored and aligned, every byte covered by a digest.

The file is an ordinary zip archive with these members, in this order: ``mimetype`` (a fixed text, so that the first
bytes of the file tell what it is), the payload members, and ``manifest.json``. The manifest holds length and sha256 of
each payload member. The archive comment holds the sha256 of everything else in the file (the *frame*: headers, padding,
manifest, directory), so no byte can change unseen.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from poprt.atomic_file import replacing
from poprt.errors import DamagedExecutableError, NewerFormatError, NotAnExecutableError

FORMAT_NAME = "poprt-executable"
FORMAT_VERSION = 1
ALIGNMENT = 64
MANIFEST = "manifest.json"

_MIMETYPE = "mimetype"
_MEDIA_TYPE = b"application/vnd.poprt.executable"
_HEADER_SIZE = 30  # of a zip local file header, before the name
_PAD_FIELD = 0xD935  # the extra field that Android's zipalign uses for the same purpose
_ZIP64_FIELD_SIZE = 20
_SEAL_SIZE = 64  # hex digits of a sha256
_UNREADABLE = (zipfile.BadZipFile, struct.error, ValueError, KeyError, IndexError, RuntimeError, EOFError, OSError)

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Payload:
    """A member to write: its length in bytes and its contents, piece by piece."""

    size: int
    chunks: Iterable[bytes | memoryview]


@dataclass(frozen=True)
class _Range:
    start: int
    end: int


def write_container(path: str | Path, payloads: Mapping[str, Payload], body: Mapping[str, Any]) -> None:
    """Write a container; ``body`` becomes the manifest, with the format and the members' digests added.

    The file appears under ``path`` complete or not at all. The same contents give the same bytes.
    """
    with replacing(path) as file:
        ranges: list[_Range] = []
        with zipfile.ZipFile(file, "w") as archive:
            archive.comment = b"0" * _SEAL_SIZE
            _add(archive, file, _MIMETYPE, Payload(len(_MEDIA_TYPE), [_MEDIA_TYPE]))
            members = {}
            for name, payload in payloads.items():
                start, digest = _add(archive, file, name, payload)
                ranges.append(_Range(start, start + payload.size))
                members[name] = {"bytes": payload.size, "sha256": digest}
            head = {"format": FORMAT_NAME, "format_version": FORMAT_VERSION, "members": members}
            manifest = json.dumps({**head, **body}, indent=1, sort_keys=True).encode()
            _add(archive, file, MANIFEST, Payload(len(manifest), [manifest]))
        size = file.seek(0, os.SEEK_END)
        seal = _frame_digest(_file_reader(file), ranges, size - _SEAL_SIZE)
        file.seek(size - _SEAL_SIZE)
        file.write(seal)


def _add(archive: zipfile.ZipFile, file: IO[bytes], name: str, payload: Payload) -> tuple[int, str]:
    """Append a member; give the offset of its data and its sha256."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o644 << 16  # the same on every system
    info.file_size = payload.size
    zip64 = payload.size >= zipfile.ZIP64_LIMIT // 2
    header = file.tell() + _HEADER_SIZE + len(name) + _ZIP64_FIELD_SIZE * zip64 + 4
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


def read_container(path: str | Path, *, check_hash: bool = True) -> tuple[dict[str, Any], dict[str, Bytes], mmap.mmap]:
    """Read a container: its manifest, each payload member as a read-only array of bytes, and the mapping behind them.

    Args:
        path: the file.
        check_hash: whether to hash the payload members. The frame and every length are checked in any case.

    Raises:
        FileNotFoundError: there is no such file.
        NotAnExecutableError: the file is something else.
        NewerFormatError: a newer version of poprt wrote it.
        DamagedExecutableError: a length or a digest does not match.
    """
    path = Path(path)
    if path.stat().st_size == 0:
        raise NotAnExecutableError(f"{path} is empty")
    with open(path, "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapped: Bytes = np.frombuffer(mapping, np.uint8)
    claims_to_be_ours = _MEDIA_TYPE in mapped[: 2 * ALIGNMENT].tobytes()
    try:
        manifest, ranges, comment = _read_directory(path)
    except _UNREADABLE as error:
        if claims_to_be_ours:
            raise DamagedExecutableError(
                f"{path} is truncated or altered ({error}); compile the model again"
            ) from error
        raise NotAnExecutableError(f"{path} is not a poprt executable ({error})") from error
    if not claims_to_be_ours and manifest.get("format") != FORMAT_NAME:
        raise NotAnExecutableError(f"{path} is a zip file but not a poprt executable")
    _check_version(path, manifest)
    _check_frame(path, mapped, list(ranges.values()), comment)
    members = {name: mapped[found.start : found.end] for name, found in ranges.items()}
    _check_members(path, manifest, members, check_hash)
    return manifest, members, mapping


def _read_directory(path: Path) -> tuple[dict[str, Any], dict[str, _Range], bytes]:
    """The manifest, where each payload member's data lies, and the archive comment."""
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        manifest = json.loads(archive.read(MANIFEST))
        if not isinstance(manifest, dict):
            raise ValueError(f"{MANIFEST} is no JSON object")
        ranges = {}
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"member {info.filename!r} is compressed")
            file.seek(info.header_offset)
            name_size, extra_size = struct.unpack("<26x2H", file.read(_HEADER_SIZE))
            start = info.header_offset + _HEADER_SIZE + name_size + extra_size
            if info.filename not in (_MIMETYPE, MANIFEST):
                ranges[info.filename] = _Range(start, start + info.file_size)
        return manifest, ranges, archive.comment


def _check_version(path: Path, manifest: dict[str, Any]) -> None:
    version = manifest.get("format_version")
    if not isinstance(version, int):
        raise DamagedExecutableError(f"{path}: the manifest has no format version")
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{path} has format version {version}, this poprt reads up to {FORMAT_VERSION}: update poprt"
        )


def _check_frame(path: Path, mapped: Bytes, ranges: list[_Range], comment: bytes) -> None:
    end = len(mapped) - len(comment)
    if len(comment) != _SEAL_SIZE or any(not 0 <= part.start <= part.end <= end for part in ranges):
        raise DamagedExecutableError(f"{path} is truncated or altered: its directory does not fit the file")
    seal = _frame_digest(lambda start, stop: mapped[start:stop], ranges, end)
    if seal != comment:
        raise DamagedExecutableError(f"{path} is altered: headers or manifest do not match their digest")


def _check_members(path: Path, manifest: dict[str, Any], members: dict[str, Bytes], check_hash: bool) -> None:
    declared = manifest.get("members")
    if not isinstance(declared, dict) or set(declared) != set(members):
        raise DamagedExecutableError(f"{path}: its members {sorted(members)} are not those of its manifest")
    for name, data in members.items():
        if declared[name]["bytes"] != len(data):
            raise DamagedExecutableError(
                f"{path}: member {name!r} has {len(data)} bytes, expected {declared[name]['bytes']}"
            )
        if check_hash and hashlib.sha256(data.data).hexdigest() != declared[name]["sha256"]:
            raise DamagedExecutableError(f"{path}: member {name!r} is altered, its sha256 does not match")


def _frame_digest(read: Callable[[int, int], Any], payloads: list[_Range], end: int) -> bytes:
    """The sha256 of the first ``end`` bytes without the payload members, as hex digits."""
    digest, position = hashlib.sha256(), 0
    for part in sorted(payloads, key=lambda part: part.start):
        digest.update(read(position, part.start))
        position = max(position, part.end)
    digest.update(read(position, end))
    return digest.hexdigest().encode()


def _file_reader(file: IO[bytes]) -> Callable[[int, int], bytes]:
    def read(start: int, stop: int) -> bytes:
        file.seek(start)
        return file.read(stop - start)

    return read

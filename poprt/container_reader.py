"""Read a container that anybody may have written: nothing is believed, and little is held in memory.

Only what :func:`poprt.container.write_container` writes is read: few members, stored, aligned, none over another. So no
byte of a member is looked at before its place and its size are checked.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poprt.container import (
    ALIGNMENT,
    FORMAT_NAME,
    FORMAT_VERSION,
    HEADER_SIZE,
    MANIFEST,
    MEDIA_TYPE,
    MIMETYPE,
    SEAL_SIZE,
    Range,
    frame_digest,
)
from poprt.errors import DamagedExecutableError, ExecutableError, NewerFormatError, NotAnExecutableError
from poprt.opened_file import REPLACE, Bytes, OpenedFile

#: The largest manifest that is read. Parsed, JSON takes up to 35 times the memory of its text.
MANIFEST_LIMIT = 2 << 20
#: The most bytes that the zip directory may take; the search for its end reads 64 KiB.
_DIRECTORY_LIMIT = 128 << 10
_LONGEST_NUMBER = 20  # digits; a long one takes Python minutes to read
_LOCAL_HEADER = struct.Struct("<4s22x2H")
_ENCRYPTED = 1

_UNREADABLE = (
    zipfile.BadZipFile,
    struct.error,
    ValueError,
    LookupError,
    RuntimeError,
    ArithmeticError,
    EOFError,
    OSError,
)


@dataclass
class Container:
    """A container that was checked.

    Attributes:
        manifest: the JSON object; only what the container itself needs of it is checked.
    """

    manifest: dict[str, Any]
    _file: OpenedFile
    _members: dict[str, Range]
    _digests: dict[str, str]

    @property
    def names(self) -> list[str]:
        """The payload members."""
        return list(self._members)

    @property
    def size(self) -> int:
        """The length of the whole file in bytes."""
        return self._file.size

    def read(self, name: str) -> bytes:
        """The contents of a member (a copy)."""
        place = self._members[name]
        return self._file.read(place.start, place.end)

    def view(self, name: str) -> Bytes:
        """The contents of a member as a read-only view of the mapped file."""
        place = self._members[name]
        return self._file.view(place.start, place.end)

    def advise(self, option: int) -> None:
        """Tell the operating system how the mapping is used (``mmap.MADV_...``)."""
        self._file.mapping.madvise(option)

    def check_size(self) -> None:
        """Raise DamagedExecutableError where the file was cut short or grew since it was opened."""
        self._file.check_size()

    def check_unchanged(self) -> None:
        """Raise DamagedExecutableError where the file changed since it was opened.

        Where its time stamp did, and digests are to be checked at all, the members are hashed again.
        """
        self.check_size()
        if self._file.was_written():
            self.check_digests(REPLACE)

    def check_digests(self, advice: str) -> None:
        """Raise DamagedExecutableError where the digest of a member is not the one that is declared."""
        for name, declared in self._digests.items():
            digest = hashlib.sha256()
            for piece in self._file.pieces(self._members[name].start, self._members[name].end):
                digest.update(piece)
            if digest.hexdigest() != declared:
                raise DamagedExecutableError(
                    f"{self._file.path}: member {name!r} is altered, its sha256 does not match; {advice}"
                )


def read_container(path: str | Path, *, check_hash: bool = True) -> Container:
    """Open a container and check it.

    Args:
        path: the file.
        check_hash: whether to hash the payload members. The frame and every length are checked in any case.

    Raises:
        FileNotFoundError: there is no such file.
        NotAnExecutableError: the file is something else.
        NewerFormatError: a newer version of poprt wrote it.
        DamagedExecutableError: a length or a digest does not match, or the file was changed meanwhile.
    """
    file = OpenedFile(Path(path))
    manifest, ranges, comment = _read_directory(file)
    _check_version(file.path, manifest)
    _check_frame(file, list(ranges.values()), comment)
    digests = _declared_digests(file.path, manifest, ranges)
    container = Container(manifest, file, ranges, digests if check_hash else {})
    container.check_digests("compile the model again")
    if file.was_written():
        raise DamagedExecutableError(f"{file.path} was written to while it was loaded; {REPLACE}")
    return container


def _read_directory(file: OpenedFile) -> tuple[dict[str, Any], dict[str, Range], bytes]:
    """The manifest, where each payload member's data lies, and the archive comment."""
    claims_to_be_ours = MEDIA_TYPE in file.read(0, min(2 * ALIGNMENT, file.size))
    try:
        with zipfile.ZipFile(_BoundedFile(file.descriptor, closefd=False)) as archive:
            ranges = _locate(file, archive.infolist())
            comment = archive.comment
        manifest = _parse(file, ranges.pop(MANIFEST))
        if not claims_to_be_ours and manifest.get("format") != FORMAT_NAME:
            raise NotAnExecutableError(f"{file.path} is a zip file but not a poprt executable")
        ranges.pop(MIMETYPE, None)
        return manifest, ranges, comment
    except ExecutableError:
        raise
    except _UNREADABLE as error:
        if claims_to_be_ours:
            raise DamagedExecutableError(
                f"{file.path} is truncated or altered ({_text(error)}); compile the model again"
            ) from error
        raise NotAnExecutableError(f"{file.path} is not a poprt executable ({_text(error)})") from error


def _text(error: Exception) -> str:
    text = f"it has no member {error}" if isinstance(error, KeyError) else str(error)
    return text[:300] or type(error).__name__


class _BoundedFile(io.FileIO):
    """A file from which no long piece is read at once: zipfile holds the whole directory in memory, several times."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read; what asks for the rest of the file looks for the end of the directory, and that is near."""
        if size is None or size < 0:
            size = _DIRECTORY_LIMIT
        if size > _DIRECTORY_LIMIT:
            raise zipfile.BadZipFile(f"its directory has {size} bytes, at most {_DIRECTORY_LIMIT} are read")
        return super().read(size)


def _locate(file: OpenedFile, members: list[zipfile.ZipInfo]) -> dict[str, Range]:
    """Where the data of each member lies: inside the file, aligned, and none over another."""
    ranges: dict[str, Range] = {}
    for info in members:
        name = info.filename
        if name in ranges:
            raise ValueError(f"member {name!r} is there twice")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ValueError(f"member {name!r} is compressed")
        if info.flag_bits & _ENCRYPTED:
            raise ValueError(f"member {name!r} is encrypted")
        ranges[name] = _data_range(file, info)
    end = 0
    for name, place in sorted(ranges.items(), key=lambda item: (item[1].start, item[1].end)):
        if place.start < end:
            raise ValueError(f"member {name!r} lies over another")
        end = place.end
    return ranges


def _data_range(file: OpenedFile, info: zipfile.ZipInfo) -> Range:
    at = info.header_offset
    if not 0 <= at <= file.size - HEADER_SIZE:
        raise ValueError(f"the header of member {info.filename!r} lies outside the file")
    signature, name_size, extra_size = _LOCAL_HEADER.unpack(file.read(at, at + HEADER_SIZE))
    start = at + HEADER_SIZE + name_size + extra_size
    if signature != b"PK\x03\x04" or start + info.file_size > file.size:
        raise ValueError(f"member {info.filename!r} does not lie where the directory says")
    return Range(start, start + info.file_size)


def _parse(file: OpenedFile, place: Range) -> dict[str, Any]:
    size = place.end - place.start
    if size > MANIFEST_LIMIT:
        raise ValueError(f"{MANIFEST} has {size} bytes, at most {MANIFEST_LIMIT} are read")
    manifest = json.loads(file.read(place.start, place.end).decode(), parse_int=_whole_number)
    if not isinstance(manifest, dict):
        raise ValueError(f"{MANIFEST} is no JSON object")
    return manifest


def _whole_number(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError(f"{MANIFEST} holds a number of {len(digits)} digits")
    return int(digits)


def _check_version(path: Path, manifest: dict[str, Any]) -> None:
    version = manifest.get("format_version")
    if type(version) is not int or version < 1:
        raise DamagedExecutableError(f"{path}: the manifest has no format version")
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{path} has format version {version}, this poprt reads up to {FORMAT_VERSION}: update poprt"
        )


def _check_frame(file: OpenedFile, ranges: list[Range], comment: bytes) -> None:
    end = file.size - SEAL_SIZE
    if len(comment) != SEAL_SIZE or any(part.end > end or part.start % ALIGNMENT for part in ranges):
        raise DamagedExecutableError(f"{file.path} is truncated or altered: its directory does not fit the file")
    if frame_digest(file.pieces, ranges, end) != comment:
        raise DamagedExecutableError(f"{file.path} is altered: headers or manifest do not match their digest")


def _declared_digests(path: Path, manifest: dict[str, Any], ranges: dict[str, Range]) -> dict[str, str]:
    """What the manifest declares of each member, after a look at the lengths."""
    declared = manifest.get("members")
    if not isinstance(declared, dict) or set(declared) != set(ranges):
        raise DamagedExecutableError(f"{path}: its members {sorted(ranges)} are not those of its manifest")
    digests = {}
    for name, place in ranges.items():
        member = declared[name]
        if not isinstance(member, dict) or not isinstance(member.get("sha256"), str):
            raise DamagedExecutableError(f"{path}: manifest field 'members.{name}' has no sha256")
        size = place.end - place.start
        if member.get("bytes") != size:
            raise DamagedExecutableError(f"{path}: member {name!r} has {size} bytes, expected {member.get('bytes')!r}")
        digests[name] = member["sha256"]
    return digests

"""Executables byte by byte: sealed as poprt seals them, whatever they hold."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Mapping
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


def sealed(
    manifest: bytes | Mapping[str, Any],
    graph: bytes,
    weights: bytes = b"",
    *,
    compression: int = zipfile.ZIP_STORED,
    extra: Mapping[str, bytes] | None = None,
) -> bytes:
    """An executable file whose digests are right. A manifest that is a mapping gets its head.

    Args:
        compression: of the manifest.
        extra: more members.
    """
    payloads = {"model.onnx": graph, "weights.bin": weights, **(extra or {})}
    text = manifest if isinstance(manifest, bytes) else json.dumps({**head(payloads), **manifest}).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.comment = b"0" * SEAL_SIZE
        for name, data in {MIMETYPE: MEDIA_TYPE, **payloads}.items():
            _add(archive, buffer, name, data)
        archive.writestr(MANIFEST, text, compression)
    return resealed(buffer.getvalue())


def head(payloads: Mapping[str, bytes]) -> dict[str, Any]:
    """What the container adds to a manifest."""
    members = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in payloads.items()
    }
    return {"format": FORMAT_NAME, "format_version": FORMAT_VERSION, "members": members}


def resealed(data: bytes) -> bytes:
    """``data`` with the digest of its frame made right, where it is still a zip file with room for one."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            payloads = [info for info in archive.infolist() if info.filename not in (MIMETYPE, MANIFEST)]
            ranges = [_range(data, info) for info in payloads]
    except Exception:
        return data
    end = len(data) - SEAL_SIZE
    return data[:end] + frame_digest(lambda start, stop: [data[start:stop]], ranges, end)


def _add(archive: zipfile.ZipFile, buffer: io.BytesIO, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name)
    pad = -(buffer.tell() + HEADER_SIZE + len(name) + 4) % ALIGNMENT
    info.extra = struct.pack("<HH", 0xD935, pad) + bytes(pad)
    archive.writestr(info, data)


def _range(data: bytes, info: zipfile.ZipInfo) -> Range:
    name_size, extra_size = struct.unpack_from("<2H", data, info.header_offset + 26)
    start = info.header_offset + HEADER_SIZE + name_size + extra_size
    return Range(start, start + info.file_size)

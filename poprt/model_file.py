"""Read an ONNX file: the model, and the weights that lie in other files. All that load models do it with these two."""

from __future__ import annotations

import os
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from passes.check.external import check_places, tensors_of
from passes.errors import RewriteError
from poprt.errors import PoprtError


def read_proto(model: bytes | str | PathLike[str]) -> onnx.ModelProto:
    """The model in a file, or in its bytes; weights that lie in other files are not read.

    Raises:
        PoprtError: it is no ONNX model, or truncated.
        OSError: the file cannot be read.
    """
    try:
        if isinstance(model, bytes):
            return onnx.load_model_from_string(model)
        return onnx.load(os.fspath(model), load_external_data=False)
    except (DecodeError, ValueError) as error:
        source = "the model in bytes" if isinstance(model, bytes) else repr(os.fspath(model))
        raise PoprtError(f"{source} cannot be read as an ONNX model, or is truncated: {error}") from error


def read_external_data(model: onnx.ModelProto, path: Path) -> set[str]:
    """Put into ``model``, which was read from ``path``, the weights that lie in files beside it.

    Returns:
        The real paths of these files.

    Raises:
        PoprtError: a file is missing or too short, or what the model says of it cannot be.
    """
    try:
        check_places(model)
        files = {os.path.realpath(path.parent / ExternalDataInfo(tensor).location) for tensor in _outside(model)}
        onnx.load_external_data_for_model(model, str(path.parent))
        return files
    except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError, RewriteError) as error:
        # RuntimeError: onnx, of a file name that is too long
        raise PoprtError(f"the external data of {str(path)!r} cannot be read: {error}") from error


def _outside(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    return filter(uses_external_data, tensors_of(model))

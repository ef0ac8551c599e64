"""Read a model with errors that say what is wrong with it; write one so that the old file survives a failure."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from passes.check.external import check_places
from passes.check.structure import check_structure
from passes.errors import RewriteError
from poprt.errors import PoprtError
from poprt.sizes import LARGEST_MESSAGE, weight_bytes
from poprt_cli.model_writer import write_model


def load_model(path: Path, *, outputs: Mapping[str, Path] | None = None) -> onnx.ModelProto:
    """Load an ONNX model with its external data.

    Args:
        path: the model's file.
        outputs: option -> file that will be written.

    Raises:
        PoprtError: the file is missing, no ONNX model, truncated, or uses an operator that ONNX does not have; or its
            external data is one of ``outputs``.
    """
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise PoprtError(f"input_model {str(path)!r} does not exist or is no file")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise PoprtError(f"{str(path)!r} is no ONNX model, or is truncated: {error}") from error
    if not model.graph.node or not model.opset_import:
        raise PoprtError(f"{str(path)!r} is no ONNX model, or is truncated: it has no nodes or no opset")
    try:
        check_places(model)
        _check_data_stays(model, path, outputs or {})
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError, RewriteError) as error:
        # RuntimeError: onnx, of a file name that is too long
        raise PoprtError(f"the external data of {str(path)!r} cannot be read: {error}") from error
    try:
        check_structure(model)
    except RewriteError as error:
        raise PoprtError(f"{str(path)!r} or its external data: {error}") from error
    _check_operators(model)
    return model


def _check_data_stays(model: onnx.ModelProto, path: Path, outputs: Mapping[str, Path]) -> None:
    read = {
        os.path.realpath(path.parent / entry.value)
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for option, output in outputs.items():
        if os.path.realpath(output) in read:
            raise PoprtError(
                f"{option} would overwrite {str(output)!r}, which holds weights of {str(path)!r}; give --output_model "
                "another name, or another folder in --output_dir"
            )


def _check_operators(model: onnx.ModelProto) -> None:
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    for node in _nodes(model.graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        try:
            onnx.defs.get_schema(node.op_type, opset)
        except onnx.defs.SchemaError as error:
            label = node.name or next(iter(node.output), "")
            raise PoprtError(
                f"node {label!r}: ONNX has no operator {node.op_type!r} in opset {opset}; "
                "correct the model, or give the operator a domain and a function body"
            ) from error


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for nested in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _nodes(nested)


def prepare_folder(folder: Path) -> None:
    """Make ``folder`` and see that files can be made in it, before any work is done.

    Raises:
        PoprtError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PoprtError(f"output_dir {str(folder)!r} cannot be written to: {error.strerror or error}") from error


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write ``model``; a file that is there is replaced once the new one is complete.

    Weights of a model near 2 GB go to ``<name>.<digest>.data`` beside it. ``model`` then holds references to that file.

    Raises:
        PoprtError: it cannot be written.
    """
    try:
        write_model(model, path, weights_beside=weight_bytes(model) > LARGEST_MESSAGE)
    except OSError as error:
        raise PoprtError(
            f"the converted model cannot be written to {str(path)!r}: {error.strerror or error}"
        ) from error

"""Read a model with errors that say what is wrong with it; write one so that the old file survives a failure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import onnx

from passes.check.structure import check_structure
from passes.errors import RewriteError
from passes.folders import make_folder
from passes.node_protos import opset_of, walk_nodes
from poprt.errors import PoprtError
from poprt.model_file import read_external_data, read_proto
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
    model = read_proto(path)
    if not model.graph.node or not model.opset_import:
        raise PoprtError(f"{str(path)!r} is no ONNX model, or is truncated: it has no nodes or no opset")
    _check_data_stays(read_external_data(model, path), path, outputs or {})
    try:
        check_structure(model)
    except RewriteError as error:
        raise PoprtError(f"{str(path)!r} or its external data: {error}") from error
    _check_operators(model)
    return model


def _check_data_stays(read: set[str], path: Path, outputs: Mapping[str, Path]) -> None:
    for option, output in outputs.items():
        if os.path.realpath(output) in read:
            raise PoprtError(
                f"{option} would overwrite {str(output)!r}, which holds weights of {str(path)!r}; give --output_model "
                "another name, or another folder in --output_dir"
            )


def _check_operators(model: onnx.ModelProto) -> None:
    opset = opset_of(model)
    for node in walk_nodes(model.graph.node):
        if node.domain not in ("", "ai.onnx"):
            continue
        try:
            onnx.defs.get_schema(node.op_type, opset)
        except onnx.defs.SchemaError as error:
            if _engine_has(node.op_type):
                continue
            label = node.name or next(iter(node.output), "")
            raise PoprtError(
                f"node {label!r}: ONNX has no operator {node.op_type!r} in opset {opset}; "
                "correct the model, or give the operator a domain and a function body"
            ) from error


def _engine_has(op_type: str) -> bool:
    """Whether onnxruntime has the operator beside ONNX's: its optimiser writes LayerNormalization in opset 14."""
    from poprt.engine.plain import has_operator  # here: only a rare model needs the engine this early

    return has_operator("", op_type)


def prepare_folder(folder: Path) -> None:
    """Make ``folder`` and see that files can be made in it, before any work is done.

    Raises:
        PoprtError: it cannot be made or written to.
    """
    try:
        make_folder(folder)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise PoprtError(f"output_dir {str(folder)!r} cannot be written to: {why}") from error


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

"""Weights outside a model: whether what is said of their files can be meant, and whether they were loaded at all."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx.external_data_helper import uses_external_data

from passes.errors import RewriteError
from passes.node_protos import subgraphs

_MOST_DIGITS = 30  # of a number of bytes; Python reads no endless ones


def check_places(model: onnx.ModelProto) -> None:
    """Refuse a tensor that says of its file what cannot be: before the file is looked for.

    Raises:
        RewriteError: it names the tensor and what it says.
    """
    for tensor in filter(uses_external_data, tensors_of(model)):
        said: dict[str, str | bytes] = {entry.key: entry.value for entry in tensor.external_data}
        location = said.get("location", "")
        if isinstance(location, bytes) or not location or "\0" in location:  # bytes: protobuf's form of no UTF-8
            raise RewriteError(
                f"tensor {tensor.name!r} has its data in a file of no possible name: {location[:60]!r}; export the "
                "model again"
            )
        for key in said.keys() & {"offset", "length"}:
            number = said[key]
            if not (isinstance(number, str) and number.isdecimal() and len(number) <= _MOST_DIGITS):
                raise RewriteError(
                    f"tensor {tensor.name!r} has its data in {location!r} with {key} {number[:60]!r}, which is no "
                    "number of bytes; export the model again"
                )


def check_loaded(model: onnx.ModelProto) -> None:
    """Refuse a model with a tensor whose data still lie in a file.

    Raises:
        RewriteError: it names the tensor and the file.
    """
    reason = why_not_loaded(model)
    if reason is not None:
        raise RewriteError(reason)


def why_not_loaded(model: onnx.ModelProto) -> str | None:
    """Which tensor of ``model`` has its data in a file, on one line; None where all of them hold their own."""
    tensor = next(filter(uses_external_data, tensors_of(model)), None)
    if tensor is None:
        return None
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    return (
        f"tensor {tensor.name!r} has its data in the file {location!r}, which was not loaded; load the model with "
        "onnx.load(path), or call onnx.load_external_data_for_model(model, folder)"
    )


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Each tensor that holds values, of the main graph, of subgraphs and of functions."""
    holders: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    for holder in holders:
        if isinstance(holder, onnx.GraphProto):
            yield from holder.initializer
            for sparse in holder.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for node in holder.node:
            holders.extend(subgraphs(node))
            for attribute in node.attribute:
                yield from [attribute.t] if attribute.HasField("t") else attribute.tensors

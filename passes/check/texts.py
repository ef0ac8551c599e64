"""Texts of a model that are no UTF-8: protobuf hands them out as bytes, and takes no bytes back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]

from passes.errors import RewriteError

#: What may hold a comment in any encoding: comments on these are not carried from one model to the next.
_COMMENTED = (onnx.NodeProto, onnx.AttributeProto, onnx.TensorProto, onnx.ValueInfoProto)


def check_texts(model: onnx.ModelProto) -> None:
    """Refuse a model with a text that is no UTF-8, wherever it stands; comments on nodes and tensors are left out.

    Raises:
        RewriteError: it says where, as in ``graph.node[3].op_type``.
    """
    waiting: list[tuple[str, Any]] = [("", model)]
    while waiting:
        place, message = waiting.pop()
        for name, value in _fields(message):
            if isinstance(value, bytes):
                raise RewriteError(
                    f"the model is not valid: its field {place}{name} is no UTF-8: {value[:60]!r}; export it again"
                )
            if isinstance(value, Message):
                waiting.append((f"{place}{name}.", value))


def _fields(message: Any) -> Iterator[tuple[str, Any]]:
    """Each text and each message in ``message``, with its name; "node[3]" for one of several."""
    for field, value in _set_fields(message):
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE) or _is_comment(message, field.name):
            continue
        if isinstance(value, (str, bytes, Message)):
            yield field.name, value
        else:
            yield from ((f"{field.name}[{index}]", item) for index, item in enumerate(value))


def _set_fields(message: Any) -> list[tuple[Any, Any]]:
    if not isinstance(message, onnx.TensorProto):
        fields: list[tuple[Any, Any]] = message.ListFields()
        return fields
    descriptors = onnx.TensorProto.DESCRIPTOR.fields_by_name  # ListFields would copy the data
    return [(descriptors[name], getattr(message, name)) for name in ("name", "external_data", "metadata_props")]


def _is_comment(message: Any, name: str) -> bool:
    return name == "doc_string" and isinstance(message, _COMMENTED)

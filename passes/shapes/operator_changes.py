"""What changed in the standard operators from one opset to another, as far as their schemas say it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import onnx

#: Operators that onnxruntime knows in the default domain beside the standard. They have one version.
ENGINE_OPERATORS = frozenset(
    [
        "Affine",
        "Crop",
        "DynamicSlice",
        "GRUUnit",
        "GivenTensorFill",
        "ImageScaler",
        "ParametricSoftplus",
        "Scale",
        "ScaledTanh",
        "SimplifiedLayerNormalization",
    ]
)

_Option = onnx.defs.OpSchema.FormalParameterOption


@cache
def breaking_versions(op: str, old: int, new: int) -> tuple[int, ...]:
    """The opsets in (``old``, ``new``] from which a node of ``op`` that was valid before may mean something else.

    Attributes and optional inputs that are new, and types that are newly allowed, break nothing: without them the
    operator does what it did. That a new attribute's default changes the numbers, no schema says.

    Raises:
        KeyError: onnx knows no such operator at opset ``new``.
    """
    return tuple(later.since_version for earlier, later in _steps(op, old, new) if not _extends(later, earlier))


def _steps(op: str, old: int, new: int) -> Iterator[tuple[onnx.defs.OpSchema, onnx.defs.OpSchema]]:
    later = _schema(op, new)
    if later is None:
        raise KeyError(op)
    while later.since_version > old:
        earlier = _schema(op, later.since_version - 1)
        if earlier is None:  # used before its time, as the engine allows: there is nothing to compare with
            return
        yield earlier, later
        later = earlier


def _schema(op: str, version: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op, version, "")
    except onnx.defs.SchemaError:
        return None


def _extends(new: onnx.defs.OpSchema, old: onnx.defs.OpSchema) -> bool:
    if new.deprecated and not old.deprecated:
        return False
    kept = all(
        name in new.attributes and _default(new.attributes[name]) == _default(attribute)
        for name, attribute in old.attributes.items()
    )
    added = [attribute for name, attribute in new.attributes.items() if name not in old.attributes]
    return (
        kept
        and not any(attribute.required for attribute in added)
        and len(new.inputs) >= len(old.inputs)
        and len(new.outputs) >= len(old.outputs)
        and all(formal.option != _Option.Single for formal in new.inputs[len(old.inputs) :])
    )


def _default(attribute: onnx.defs.OpSchema.Attribute) -> bytes:
    value: bytes = attribute.default_value.SerializeToString()
    return value

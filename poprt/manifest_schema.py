"""Read a manifest from JSON, or another record. Its dataclasses are the schema, by their annotations."""

from __future__ import annotations

import dataclasses
import functools
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from poprt.errors import DamagedExecutableError
from poprt.manifest import FusedManifest, Manifest
from poprt_format.packing import from_former_words

#: Fields that belong to the container around the manifest.
_OF_THE_CONTAINER = frozenset({"format", "format_version", "members"})
_LARGEST = 2**63 - 1

R = TypeVar("R")


def read_manifest(body: Mapping[str, Any]) -> Manifest:
    """The manifest that ``body`` holds. Names, types and signs are checked here, what they mean in ``manifest_rules``.

    Raises:
        DamagedExecutableError: a field is missing, unknown or of another type; the message names it.
    """
    own = _own_fields(body)
    if type(own.get("packing")) is dict:
        own["packing"] = from_former_words(own["packing"])
    return read_record(Manifest, own, "manifest")


def is_fused(body: Mapping[str, Any]) -> bool:
    """Whether ``body`` is that of an executable of several models."""
    return "models" in body


def read_fused_manifest(body: Mapping[str, Any]) -> FusedManifest:
    """The manifest of several models that ``body`` holds, as :func:`read_manifest` reads that of one."""
    fused = read_record(FusedManifest, _own_fields(body), "manifest")
    if not fused.models:
        raise wrong("models", [], "at least one")
    return fused


def _own_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in _OF_THE_CONTAINER}


def read_record(kind: type[R], body: object, document: str) -> R:
    """The dataclass ``kind`` that ``body``, parsed JSON, holds.

    Args:
        kind: texts, flags, whole numbers of 0 or more, and tuples, tables and dataclasses of these.
        document: what messages call it.

    Raises:
        DamagedExecutableError: a field is missing, unknown or of another type; the message names it.
    """
    try:
        record: R = _read_object(kind, body, "")
    except _FieldError as error:
        raise DamagedExecutableError(f"{document} field {error.field} {error.complaint}") from None
    return record


class _FieldError(Exception):
    """A field that is not as its annotation says."""

    def __init__(self, field: str, complaint: str) -> None:
        super().__init__(field, complaint)
        self.field, self.complaint = field, complaint


def wrong(field: str, value: object, expected: str) -> DamagedExecutableError:
    """The error for a field of the manifest that holds something else than expected."""
    return DamagedExecutableError(f"manifest field {field!r} {_complaint(value, expected)}")


def _wrong(field: str, value: object, expected: str) -> _FieldError:
    return _FieldError(repr(field), _complaint(value, expected))


def _complaint(value: object, expected: str) -> str:
    return f"is {reprlib.repr(value)}, expected {expected}"


def _read(hint: Any, value: Any, field: str) -> Any:
    """``value`` as the annotation ``hint`` says; raise where it is something else."""
    if hint is Any:
        return value
    if hint in _SIMPLE:
        return _SIMPLE[hint](value, field)
    if dataclasses.is_dataclass(hint):
        return _read_object(hint, value, field)
    form, of = typing.get_origin(hint), typing.get_args(hint)
    if form is tuple:
        return _read_list(of[0], value, field)
    if form is dict:
        return _read_table(of[1], value, field)
    if form in (types.UnionType, typing.Union) and of[1:] == (type(None),):
        return None if value is None else _read(of[0], value, field)
    raise TypeError(f"{field}: manifests hold no {hint}")


def _read_object(kind: Any, value: Any, field: str) -> Any:
    if type(value) is not dict:
        raise _wrong(field, value, "an object")
    start = f"{field}." if field else ""
    fields = _fields(kind)
    unknown = next((name for name in value if name not in fields), None)
    if unknown is not None:
        raise _FieldError(reprlib.repr(start + unknown), "is not known to this poprt")
    missing = next((name for name, (_, required) in fields.items() if required and name not in value), None)
    if missing is not None:
        raise _FieldError(repr(start + missing), "is missing")
    return kind(**{name: _read(fields[name][0], item, start + name) for name, item in value.items()})


@functools.cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """The annotation of each field of a dataclass, and whether the field must be there."""
    hints = typing.get_type_hints(kind)
    absent = dataclasses.MISSING
    return {
        item.name: (hints[item.name], item.default is absent and item.default_factory is absent)
        for item in dataclasses.fields(kind)
    }


def _read_list(hint: Any, value: Any, field: str) -> tuple[Any, ...]:
    if type(value) is not list:
        raise _wrong(field, value, "a list")
    return tuple(_read(hint, item, f"{field}[{number}]") for number, item in enumerate(value))


def _read_table(hint: Any, value: Any, field: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise _wrong(field, value, "an object")
    return {_text(name, field): _read(hint, item, f"{field}[{reprlib.repr(name)}]") for name, item in value.items()}


def _text(value: Any, field: str) -> str:
    if type(value) is not str:
        raise _wrong(field, value, "a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong(field, value, "a text of whole characters") from None
    return value


def _flag(value: Any, field: str) -> bool:
    if type(value) is not bool:
        raise _wrong(field, value, "true or false")
    return value


def _count(value: Any, field: str) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise _wrong(field, value, "a whole number of 0 or more")
    return value


_SIMPLE: dict[Any, Callable[[Any, str], Any]] = {str: _text, bool: _flag, int: _count}

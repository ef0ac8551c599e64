"""Texts as callers give them: checked before any work is done for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from poprt.errors import InputError

#: A text, or two that belong together.
Text: TypeAlias = str | tuple[str, str]
T = TypeVar("T")


def check_text(value: object, what: str) -> str:
    """A text that a tokenizer can read.

    Args:
        value: what the caller gives.
        what: what messages call it.

    Raises:
        InputError: it is no string, or holds half of a surrogate pair, which is no character.
    """
    if not isinstance(value, str):
        raise InputError(f"{what}: expected a string, got {type(value).__name__}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{what}: U+{ord(value[error.start]):04X} at character {error.start} is half of a surrogate pair; "
                "decode the text again, or replace it"
            ) from None
    return value


def check_texts(values: object, what: str) -> list[str]:
    """A list of such texts.

    Raises:
        InputError: it is one string or no sequence, or an item is wrong; the message has its number.
    """
    return [check_text(item, f"{what} {number}") for number, item in enumerate(as_list(values, what))]


def as_list(values: object, what: str) -> list[Any]:
    """The items of a sequence that is no string; raise InputError."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise InputError(f"{what}s: expected a list of strings, got {type(values).__name__}")
    return list(values)


def check_pair(value: object, what: str) -> Text:
    """A text, two in a tuple, or a mapping with ``text`` and ``text_pair`` as transformers' pipelines take it.

    Raises:
        InputError: it is something else.
    """
    if isinstance(value, Mapping):
        value = (value.get("text"), value["text_pair"]) if "text_pair" in value else value.get("text")
    if isinstance(value, tuple):
        if len(value) != 2:
            raise InputError(f"{what}: expected a text or a pair of texts, got {len(value)}")
        return check_text(value[0], what), check_text(value[1], what)
    return check_text(value, what)


def chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """``items`` in parts of ``size``, the last one maybe smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def characters(texts: Sequence[Text]) -> int:
    """Characters of texts and pairs, all together."""
    return sum(len(text) if isinstance(text, str) else len(text[0]) + len(text[1]) for text in texts)

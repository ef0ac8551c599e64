"""Seeded mutations of bytes, for machines without a fuzzer: what breaks readers of lengths, tags and text."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

#: Numbers at the edges of what fields hold, and pieces of the formats that the targets read.
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
_PIECES = (
    *(b"null", b"[]", b"{}", b"-1", b"1e999", b'"x"', b"true", b"9223372036854775808", b"NaN", b'"\\ud800"'),
    *(b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"\xff\xff\xff\xff\x0f", b"\x00", b"--", b"=", b",", b"\n"),
)

_VALUES = (
    *(None, True, -1, 0, 1, 2, 64, 2**31, 2**40, 2**63, 2**64, 1.5, 1e308, "", "x", "float16", "object", "\ud800"),
    *([], {}, [None], [[]], ["x", 3_000_000_000], [2**31, 2**31], [0, 2**60, 2**60], {"": ""}, {"x": {}}),
)

_Change = Callable[[random.Random, bytes, bytes], bytes]


def mutations(seeds: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Mutations of ``seeds`` without end; the same for the same ``seed``."""
    chance = random.Random(seed)
    while True:
        data = chance.choice(seeds)
        for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
            data = chance.choice(_CHANGES)(chance, data, chance.choice(seeds))
        yield data


def _flip(chance: random.Random, data: bytes, other: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]


def _number(chance: random.Random, data: bytes, other: bytes) -> bytes:
    at, size = chance.randrange(len(data) + 1), chance.choice((1, 2, 4, 8))
    number = chance.choice(_NUMBERS) & (256**size - 1)
    return data[:at] + number.to_bytes(size, "little") + data[at + size :]


def _insert(chance: random.Random, data: bytes, other: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(_PIECES) + data[at + chance.choice((0, 1, 4)) :]


def _cut(chance: random.Random, data: bytes, other: bytes) -> bytes:
    start = chance.randrange(len(data) + 1)
    return data[:start] + data[start + chance.choice((1, 2, 8, 64, len(data))) :]


def _repeat(chance: random.Random, data: bytes, other: bytes) -> bytes:
    start = chance.randrange(len(data) + 1)
    piece = data[start : start + chance.choice((1, 4, 16, 64))]
    return data[:start] + piece * chance.choice((2, 3, 50)) + data[start:]


def _splice(chance: random.Random, data: bytes, other: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    start = chance.randrange(len(other) + 1)
    return data[:at] + other[start : start + chance.choice((8, 64, 512))] + data[at:]


def _field(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """Put another value into one place of a JSON text; anything else stays as it is."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return data
    places = list(_places(tree))
    if not places:
        return data
    holder, key = chance.choice(places)
    if chance.random() < 0.2:
        del holder[key]
    else:
        replacement = chance.choice((*_VALUES, *(value[at] for value, at in places[:50])))
        holder[key] = json.loads(json.dumps(replacement))  # a copy: a tree that holds itself is no JSON
    return json.dumps(tree).encode()


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Each place in a JSON value that can hold another one: the list or object, and the index or key."""
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in items:
        yield tree, key
        yield from _places(value)


_CHANGES: Sequence[_Change] = (_flip, _number, _insert, _cut, _repeat, _splice, *[_field] * 6)

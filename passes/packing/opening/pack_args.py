"""What ``--pack_args`` says, checked."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from passes.errors import PackingError, RewriteError
from passes.numbers import LARGEST_EXTENT, whole_number
from passes.pattern import parse_pattern

if TYPE_CHECKING:
    from passes.packing.opening.room import Room
    from passes.packing.tokens.subsampling import Subsampling

logger = logging.getLogger("poprt")

_KNOWN = (
    "max_valid_num",
    "segment_max_size",
    "head_pattern",
    "dynamic_groups",
    "enable_double_batch_unpack",
    "efficiency_priority",
)
_NO_EFFECT = ("enable_double_batch_unpack", "efficiency_priority")
_EXAMPLE = "for example: --pack_args max_valid_num=40 segment_max_size=256"


@dataclass(frozen=True)
class PackArgs:
    """The size of a pack.

    Attributes:
        max_valid_num: most samples in one pack.
        segment_max_size: longest sample, one number a segment.
        dynamic_inputs: one input of each group whose length varies; empty means to find them.
        head_pattern: where the user expects the per-sample head (:mod:`passes.pattern.language`); only reported on.
    """

    max_valid_num: int
    segment_max_size: tuple[int, ...]
    dynamic_inputs: tuple[str, ...] = ()
    head_pattern: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Columns of an unpacked row."""
        return sum(self.segment_max_size)

    def behind(self, subsampling: Subsampling, agnostic: bool) -> PackArgs:
        """The packs of an encoder behind a front end that changes the length of a sample.

        Raises:
            PackingError: it leaves nothing of the longest sample, or the model or the pack is of a kind that cannot.
        """
        places = subsampling.places(self.width)
        if places < 1:
            shortest = subsampling.stride - subsampling.add
            raise PackingError(
                f"the front end of this model leaves nothing of segment_max_size={self.sizes} tokens; use "
                f"segment_max_size={shortest} or more"
            )
        if not agnostic or len(self.segment_max_size) > 1:
            why = "samples have several segments" if agnostic else "its batch and length are fixed"
            advice = "give segment_max_size one number" if agnostic else "export it with dynamic axes"
            raise PackingError(f"the front end of this model changes the length of a sample, and {why}; {advice}")
        return replace(self, segment_max_size=(places,), dynamic_inputs=())

    @property
    def sizes(self) -> str:
        """``segment_max_size`` as the user writes it: 13+51."""
        return "+".join(map(str, self.segment_max_size))

    def check_capacity(self, rows: int, columns: int) -> None:
        """Refuse packs that could not use the declared rows.

        Raises:
            PackingError: ``max_valid_num`` of the longest samples hold fewer tokens than [rows, columns], or so many
                samples cannot have a token each.
        """
        self.check_samples(rows, columns)
        if self.max_valid_num * self.width < rows * columns:
            needed = math.ceil(rows * columns / self.width)
            raise PackingError(
                f"pack_args are too small for inputs of shape [{rows}, {columns}]: {self.max_valid_num} samples "
                f"of at most {self.width} tokens never fill {rows * columns} places; use max_valid_num={needed} or more"
            )

    def check_room(self, room: Room | None) -> None:
        """Refuse samples that are longer than the model has room for.

        Raises:
            PackingError: it names the node and the longest sample.
        """
        if room is not None and self.width > room.places:
            raise PackingError(
                f"{room.node} has room for {room.places} tokens, and segment_max_size={self.sizes} is longer; use "
                f"segment_max_size={room.places} or less"
            )

    def check_samples(self, rows: int, columns: int) -> None:
        """Refuse more samples than [rows, columns] has places; 0 is an extent that is not known.

        Raises:
            PackingError: it names the most samples.
        """
        if rows and columns and self.max_valid_num > rows * columns:
            raise PackingError(
                f"pack_args max_valid_num={self.max_valid_num} samples do not fit inputs of shape [{rows}, {columns}]: "
                f"each has at least one token; use max_valid_num={rows * columns} or less"
            )


def parse_pack_args(pack_args: PackArgs | Mapping[str, Any]) -> PackArgs:
    """Read ``pack_args``.

    Args:
        pack_args: the KEY=VALUE words as a mapping; values are strings or already numbers or lists. What was read
            before stays as it is.

    Raises:
        PackingError: a key is unknown or missing, a value is no positive whole number, or the pattern is malformed.
    """
    if isinstance(pack_args, PackArgs):
        return pack_args
    for key in pack_args:
        if key not in _KNOWN:
            near = difflib.get_close_matches(str(key), _KNOWN, n=1)
            offer = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(_KNOWN)}"
            raise PackingError(f"unknown key {key!r} in pack_args{offer}")
    for key in ("max_valid_num", "segment_max_size"):
        if key not in pack_args:
            raise PackingError(f"pack_args lacks {key}; {_EXAMPLE}")
    for key in _NO_EFFECT:
        if key in pack_args:
            logger.warning("pack_args %s steers the IPU only: it has no effect here", key)
    sizes = pack_args["segment_max_size"]
    parts = str(sizes).split("+") if isinstance(sizes, (str, int)) else list(sizes)
    return PackArgs(
        max_valid_num=_positive("max_valid_num", pack_args["max_valid_num"]),
        segment_max_size=tuple(_positive("segment_max_size", part) for part in parts),
        dynamic_inputs=_dynamic_groups(pack_args.get("dynamic_groups")),
        head_pattern=_head_pattern(pack_args.get("head_pattern")),
    )


def _positive(key: str, value: Any) -> int:
    number = whole_number(value)
    if number is None or not 1 <= number <= LARGEST_EXTENT:
        raise PackingError(f"pack_args {key}={value!r} is no positive whole number up to {LARGEST_EXTENT}; {_EXAMPLE}")
    return number


def _head_pattern(value: Any) -> tuple[str, ...]:
    """A pattern string, several in ``[a, b]``, or a list of them."""
    if not value:
        return ()
    strings = value.strip(" []").split(",") if isinstance(value, str) else list(value)
    try:
        return parse_pattern([text.strip(" '\"") if isinstance(text, str) else text for text in strings]).text
    except RewriteError as error:
        raise PackingError(f"pack_args head_pattern: {error}") from error


def _dynamic_groups(value: Any) -> tuple[str, ...]:
    """``[[input_ids,]]`` or nested lists -> the input names."""
    if value is None:
        return ()
    if isinstance(value, str):
        words = value.replace("[", " ").replace("]", " ").replace(",", " ").split()
        return tuple(word.strip("'\"") for word in words)
    return tuple(name for group in value for name in ([group] if isinstance(group, str) else group))

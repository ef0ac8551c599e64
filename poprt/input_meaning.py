"""What values mean something to a model's inputs: by what the graph does with them, at last by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from poprt.flat_graph import FlatGraph, flatten
from poprt.input_clues import Clue, Clues, find_clues

#: An int8 image, a waveform of bytes: whole numbers of the type's range mean something.
_LEAST_RANK_OF_BYTES = 3
_LENGTH = re.compile(r"(^|[^a-z])(len|lens|length|lengths)($|[^a-z])|lengths?$")
_IDS = re.compile(r"(^|[^a-z])(ids?|tokens?|words?|prefix|src|tgt)($|[^a-z])|input_?ids|token")
_RATE = re.compile(r"^sr$|sampl\w*_?rate")
_TYPES = re.compile(r"token_?type|segment")
#: Where a table is not found: ids that any has, and the rate that speech models know.
_FEW_IDS, _SAMPLE_RATE = 8, 16000


@dataclass(frozen=True)
class Meaning:
    """Which values an input takes, and how that is known.

    Attributes:
        kind: "ids" (low <= value < rows), "positions" (low, low + 1, ...), "mask" (1, then 0 to the end), "lengths"
            (up to the extent of a sequence), "places" (0 to that extent less one), "setting" (one of ``values``),
            "bytes" (any of the type's numbers), "factors" (0.5 to 1.5) or "numbers" (normal).
        low, rows: for ids and positions: the lowest value, and one more than the highest.
        values: for a setting.
        reason: what it was followed to, or how it was guessed.
    """

    kind: str
    reason: str
    low: int = 0
    rows: int = 0
    values: tuple[int, ...] = ()


def input_meanings(model: onnx.ModelProto, dtypes: Mapping[str, np.dtype[Any]]) -> dict[str, Meaning]:
    """What each input of ``model`` takes.

    Args:
        model: any model; of its weights only shapes and small ones are read.
        dtypes: the types of the inputs to ask about.
    """
    flat = flatten(model)
    ranks = {name: len(flat.shapes[name]) if name in flat.shapes else None for name in flat.inputs}
    clues = find_clues(flat, ranks)
    return {name: _meaning(name, dtype, flat, clues.get(name, Clues())) for name, dtype in dtypes.items()}


def unread_meaning(name: str, dtype: np.dtype[Any]) -> Meaning:
    """What is said of an input by its name and type alone."""
    return _meaning(name, dtype, FlatGraph(), Clues())


def _meaning(name: str, dtype: np.dtype[Any], flat: FlatGraph, clues: Clues) -> Meaning:
    if dtype.kind == "O":
        return Meaning("texts", "texts")
    shape = flat.shapes.get(name)
    rank = None if shape is None else len(shape)
    if clues.rows[1]:
        return _rows(name, clues)
    if dtype.kind == "b":
        return Meaning("mask", clues.evidence.get(Clue.MASK, "true or false"))
    if dtype.kind in "iu":
        per_sample = shape is None or len(shape) <= 1 or shape[-1] == 1
        return _used_whole(clues, dtype, rank, per_sample) or _guessed_whole(name, clues, per_sample)
    return _floats(name, clues, rank)


def _rows(name: str, clues: Clues) -> Meaning:
    low, rows = clues.rows
    reason = clues.evidence[Clue.ROW]
    if rows <= 2 and "mask" in name.lower():
        return Meaning("mask", f"two {reason}; by its name a mask")
    positions = Clue.POSITION in clues.evidence or "position" in name.lower()
    return Meaning("positions" if positions else "ids", f"{rows - low} {reason}", low, rows)


def _used_whole(clues: Clues, dtype: np.dtype[Any], rank: int | None, per_sample: bool) -> Meaning | None:
    """What is known of whole numbers that index no table as they are; the surest clue first."""
    evidence = clues.evidence
    settings = tuple(clues.constants)
    if rank is not None and rank <= 1 and settings and not set(settings) <= {0, 1}:
        return Meaning("setting", evidence[Clue.CONSTANT], values=settings)
    if Clue.LENGTH in evidence and per_sample:
        return Meaning("lengths", evidence[Clue.LENGTH])
    if Clue.POSITION in evidence:
        return Meaning("positions", evidence[Clue.POSITION])
    if Clue.QUANTISED in evidence or (dtype.itemsize == 1 and (rank or 0) >= _LEAST_RANK_OF_BYTES):
        return Meaning("bytes", evidence.get(Clue.QUANTISED, f"{dtype.name} of rank {rank}"))
    if Clue.MASK in evidence:
        return Meaning("mask", evidence[Clue.MASK])
    if clues.computed_rows:
        return Meaning("ids", f"an index is computed from it, {evidence[Clue.COMPUTED_ROW]}", rows=clues.computed_rows)
    if Clue.PLACE in evidence:
        return Meaning("places", evidence[Clue.PLACE])
    if Clue.COUNT in evidence:
        return Meaning("setting", evidence[Clue.COUNT], values=(1,))
    return None


def _named_whole(name: str, per_sample: bool) -> Meaning | None:
    """What a name says of whole numbers; the graph says nothing sure."""
    lower = name.lower()
    if "mask" in lower:
        return Meaning("mask", "by its name")
    if _RATE.search(lower):
        return Meaning("setting", "by its name a sample rate", values=(_SAMPLE_RATE,))
    if per_sample and _LENGTH.search(lower):
        return Meaning("lengths", "by its name")
    if "position" in lower:
        return Meaning("positions", "by its name; no table was found")
    if _TYPES.search(lower):
        return Meaning("ids", "by its name; no table was found", rows=1)
    if _IDS.search(lower):
        return Meaning("ids", "by its name; no table was found", rows=_FEW_IDS)
    return None


def _guessed_whole(name: str, clues: Clues, per_sample: bool) -> Meaning:
    """Whole numbers that may be a mask, by their use; where the name says something else, it decides."""
    named = _named_whole(name, per_sample)
    if named is not None and (named.kind != "mask" or Clue.FLAG not in clues.evidence):
        return named
    return Meaning("mask", clues.evidence.get(Clue.FLAG, "nothing is known of it"))


def _floats(name: str, clues: Clues, rank: int | None) -> Meaning:
    if Clue.MASK in clues.evidence:
        return Meaning("mask", clues.evidence[Clue.MASK])
    if "mask" in name.lower():
        return Meaning("mask", "by its name")
    if Clue.SETTING in clues.evidence and rank is not None and rank <= 1:
        return Meaning("factors", clues.evidence[Clue.SETTING])
    return Meaning("numbers", "")

"""The pattern language: ``s:0->MatMul:1->Add:2->e:3``.

A word is ``OpType:label``; ``A->B`` says that some output of A feeds some input of B. A label may be any word and means
one node wherever it stands, also across strings; distinct labels mean distinct nodes. ``s`` is any producer (a node, a
graph input, an initializer) and starts a string; ``e`` is any consumer (a node, a graph output) and ends one. Both may
be left out, and neither has to be distinct from anything. Blanks are ignored. ``WhereV2``, ``ErfV2`` and their like,
which PopRT's passes put in the place of standard operators, also mean the standard ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from passes.errors import RewriteError

#: How any producer and any consumer are written.
PRODUCER, CONSUMER = "s", "e"

_ARROW = re.compile(r"-\s*>")
_WORD = re.compile(r"(?P<op>\w+):(?P<label>[^\s:>]+)")


@dataclass(frozen=True)
class Pattern:
    """A parsed pattern.

    Attributes:
        text: the strings as given.
        ops: label -> operator type, ``s`` or ``e``, in the order in which the labels first appear.
        edges: (producer's label, consumer's label), each once, in the order of the strings.
    """

    text: tuple[str, ...]
    ops: dict[str, str]
    edges: tuple[tuple[str, str], ...]

    def is_any(self, label: str) -> bool:
        """Whether the label stands for any producer or consumer."""
        return self.ops[label] in (PRODUCER, CONSUMER)

    @property
    def node_labels(self) -> list[str]:
        """The labels of operators, in the order in which they first appear."""
        return [label for label in self.ops if not self.is_any(label)]


def parse_pattern(strings: str | Sequence[str]) -> Pattern:
    """Read a pattern of one or several strings.

    Raises:
        RewriteError: a string is malformed, or a label is used for two operator types; the message shows the place.
    """
    texts = (strings,) if isinstance(strings, str) else tuple(strings)
    if not texts:
        raise RewriteError("the pattern is empty; write for example 's:0->MatMul:1->Add:2->e:3'")
    ops: dict[str, str] = {}
    edges: dict[tuple[str, str], None] = {}
    for text in texts:
        labels = [_read_word(text, place, word, ops) for place, word in _words(text)]
        edges.update(dict.fromkeys(pairwise(labels)))
    return Pattern(texts, ops, tuple(edges))


def _words(text: str) -> list[tuple[int, str]]:
    """(position in ``text``, word without blanks) of each word; checks where ``s`` and ``e`` stand."""
    if not isinstance(text, str):
        raise RewriteError(f"a pattern is a list of strings, not of {type(text).__name__}")
    arrows = list(_ARROW.finditer(text))
    starts = [0, *(arrow.end() for arrow in arrows)]
    ends = [*(arrow.start() for arrow in arrows), len(text)]
    words = [(start, re.sub(r"\s", "", text[start:end])) for start, end in zip(starts, ends, strict=True)]
    for number, (place, word) in enumerate(words):
        if word.startswith(f"{PRODUCER}:") and number > 0:
            raise _error(text, place, word, "'s' means any producer and can only start a string")
        if word.startswith(f"{CONSUMER}:") and number < len(words) - 1:
            raise _error(text, place, word, "'e' means any consumer and can only end a string")
    if all(word.startswith((f"{PRODUCER}:", f"{CONSUMER}:")) for _, word in words):
        raise RewriteError(f"pattern {text!r} names no operator, only any producer (s) or consumer (e)")
    return words


def _read_word(text: str, place: int, word: str, ops: dict[str, str]) -> str:
    """The label of ``word``, whose operator is added to ``ops``."""
    match = _WORD.fullmatch(word)
    if match is None:
        raise _error(text, place, word, "expected OpType:label")
    op, label = match["op"], match["label"]
    first_op = ops.setdefault(label, op)
    if first_op != op:
        raise _error(text, place, word, f"label {label!r} already means a node of type {first_op!r}")
    return label


def _error(text: str, place: int, word: str, problem: str) -> RewriteError:
    return RewriteError(f"pattern {text!r}, at character {place + 1} ({word!r}): {problem}")

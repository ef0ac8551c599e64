"""From a token's scores to entities, as transformers' token-classification pipeline gives them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from poprt.errors import InputError
from poprt.text.scores import Floats, softmax
from poprt.text.tokens import TextTokenizer, Tokens

#: How tokens become entities. "none" gives each token, "simple" joins neighbours of one label. The others first agree
#: on one label a word: that of its first token, of the highest score, or of the average scores.
STRATEGIES = ("none", "simple", "first", "average", "max")
Entity = dict[str, Any]


@dataclass(frozen=True)
class Token:
    """A token of the text, no special one: its scores [labels], and where it stands."""

    index: int
    word: str
    scores: Floats
    start: int
    end: int
    is_subword: bool


class Tagger:
    """Makes entities of logits.

    Args:
        tokenizer: that of the executable.
        labels: names of the logits; ``B-`` and ``I-`` before a name begin and continue an entity.
        unk_token: the token that stands for an unknown word; "" where there is none.
    """

    def __init__(self, tokenizer: TextTokenizer, labels: Sequence[str], unk_token: str) -> None:
        self._tokenizer = tokenizer
        self._labels = labels
        self._unk_token = unk_token

    def entities(
        self, text: str, tokens: Tokens, logits: Floats, strategy: str, ignore_labels: Collection[str]
    ) -> list[Entity]:
        """The entities of one text, in its order.

        Args:
            text: as it was tokenised.
            tokens: with offsets.
            logits: float32 [length, labels].
            strategy: one of :data:`STRATEGIES`.
            ignore_labels: what is left out.

        Raises:
            InputError: there is no such strategy.
        """
        check_strategy(strategy)
        parts = self._parts(text, tokens, softmax(logits.astype(np.float32)))
        if strategy in ("none", "simple"):
            entities = [self._entity(part) for part in parts]
        else:
            entities = [self._word(word, strategy) for word in _words(parts)]
        key = "entity"
        if strategy != "none":
            entities, key = [self._joined(group) for group in _groups(entities)], "entity_group"
        return [entity for entity in entities if entity[key] not in ignore_labels]

    def _parts(self, text: str, tokens: Tokens, scores: Floats) -> list[Token]:
        encoding, marks = tokens.encoding, self._tokenizer.marks_subwords
        parts = []
        rows = zip(encoding.tokens, encoding.offsets, encoding.special_tokens_mask, strict=True)
        for index, (word, (start, end), special) in enumerate(rows):
            if special:
                continue
            written = text[start:end]
            subword = len(word) != len(written) if marks else start > 0 and " " not in text[start - 1 : start + 1]
            if word == self._unk_token:
                word, subword = written, False
            parts.append(Token(index, word, scores[index], start, end, subword))
        return parts

    def _entity(self, part: Token) -> Entity:
        best = int(part.scores.argmax())
        return {
            "entity": self._labels[best],
            "score": float(part.scores[best]),
            "index": part.index,
            "word": part.word,
            "start": part.start,
            "end": part.end,
        }

    def _word(self, parts: Sequence[Token], strategy: str) -> Entity:
        """A word with the one label that its tokens agree on."""
        if strategy == "average":
            scores = np.nanmean(np.stack([part.scores for part in parts]), axis=0)
        else:
            part = parts[0] if strategy == "first" else max(parts, key=lambda part: part.scores.max())
            scores = part.scores
        best = int(scores.argmax())
        return {
            "entity": self._labels[best],
            "score": float(scores[best]),
            "word": self._tokenizer.words([part.word for part in parts]),
            "start": parts[0].start,
            "end": parts[-1].end,
        }

    def _joined(self, entities: Sequence[Entity]) -> Entity:
        """Neighbours of one label as one entity."""
        return {
            "entity_group": str(entities[0]["entity"]).split("-", 1)[-1],
            "score": float(np.nanmean([entity["score"] for entity in entities])),
            "word": self._tokenizer.words([entity["word"] for entity in entities]),
            "start": entities[0]["start"],
            "end": entities[-1]["end"],
        }


def check_strategy(strategy: str, stride: int | None = None) -> None:
    """Raise InputError unless there is such a strategy, and it can join what parts of a text share."""
    if strategy not in STRATEGIES:
        raise InputError(f"aggregation_strategy is {strategy!r}, expected one of {', '.join(STRATEGIES)}")
    if stride is None:
        return
    if type(stride) is not int:
        raise InputError(f"stride is {stride!r}, expected a whole number")
    if strategy == "none":
        raise InputError(
            "stride needs another aggregation_strategy than 'none': tokens that parts share would be given twice"
        )


def without_overlaps(entities: Sequence[Entity]) -> list[Entity]:
    """Entities of all parts of a text, in its order. Of two that overlap the longer stays, then the likelier."""
    apart: list[Entity] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if apart and apart[-1]["start"] <= entity["start"] < apart[-1]["end"]:
            apart[-1] = max(apart[-1], entity, key=lambda each: (each["end"] - each["start"], each["score"]))
        else:
            apart.append(entity)
    return apart


def _words(parts: Sequence[Token]) -> list[list[Token]]:
    words: list[list[Token]] = []
    for part in parts:
        if words and part.is_subword:
            words[-1].append(part)
        else:
            words.append([part])
    return words


def _groups(entities: Sequence[Entity]) -> list[list[Entity]]:
    """Neighbours of one label; a label with ``B-`` begins a new group."""
    groups: list[list[Entity]] = []
    for entity in entities:
        begins, tag = _tag(entity["entity"])
        if groups and not begins and tag == _tag(groups[-1][-1]["entity"])[1]:
            groups[-1].append(entity)
        else:
            groups.append([entity])
    return groups


def _tag(label: str) -> tuple[bool, str]:
    """Whether a label begins an entity, and its name without ``B-`` and ``I-``."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label

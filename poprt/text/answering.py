"""From the logits of start and end to answers, as transformers' question-answering pipeline gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from poprt.errors import InputError
from poprt.text.scores import Floats
from poprt.text.tokens import Tokens

Answer = dict[str, Any]

#: The longest window and the tokens that windows share, where the caller says nothing.
DEFAULT_WINDOW, DEFAULT_STRIDE = 384, 128
_MASKED = -10000.0


@dataclass(frozen=True)
class AnswerOptions:
    """How answers are looked for.

    Attributes:
        top_k: how many answers are given.
        max_answer_len: most tokens of one.
        handle_impossible_answer: whether "no answer" is one of them, as the text "".
        align_to_words: whether an answer begins and ends with whole words.
        max_seq_len: most tokens of a window; None takes 384 or what the model takes.
        doc_stride: tokens that neighbouring windows share; None takes 128 or half a window.
    """

    top_k: int = 1
    max_answer_len: int = 15
    handle_impossible_answer: bool = False
    align_to_words: bool = True
    max_seq_len: int | None = None
    doc_stride: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("top_k", 1), ("max_answer_len", 1), ("max_seq_len", 1), ("doc_stride", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise InputError(f"{name} is {value!r}, expected a whole number of {least} or more")

    def window(self, longest: int) -> tuple[int, int]:
        """Length and stride of windows for a model that takes ``longest`` tokens; raise InputError."""
        length = min(longest, DEFAULT_WINDOW) if self.max_seq_len is None else self.max_seq_len
        stride = min(length // 2, DEFAULT_STRIDE) if self.doc_stride is None else self.doc_stride
        if length > longest:
            raise InputError(f"max_seq_len is {length}, the model takes {longest} tokens at most")
        if stride >= length:
            raise InputError(f"doc_stride is {stride}, expected less than max_seq_len, which is {length}")
        return length, stride


@dataclass(frozen=True)
class Window:
    """A part of a context: its tokens, and the logits [length] of starts and ends."""

    tokens: Tokens
    start: Floats
    end: Floats


class Answerer:
    """Finds answers in windows.

    Args:
        question_first: whether the question stands before its context.
        cls_id: the id of the token that stands for "no answer"; None where there is none.
    """

    def __init__(self, question_first: bool, cls_id: int | None) -> None:
        self._sequence = 1 if question_first else 0
        self._cls_id = cls_id

    def answers(self, context: str, windows: Sequence[Window], options: AnswerOptions) -> list[Answer]:
        """The best answers of one context, the likeliest first; at most ``options.top_k``."""
        no_answer, by_text = 1_000_000.0, dict[str, Answer]()
        count = options.top_k * 2 + 10 if options.align_to_words else options.top_k  # some may turn out the same
        for window in windows:
            allowed = self._allowed(window.tokens)
            start, end = (_probabilities(logits, allowed) for logits in (window.start, window.end))
            no_answer = min(no_answer, float(start[0] * end[0]))
            start[0] = end[0] = 0.0
            for first, last, score in _spans(start, end, allowed, count, options.max_answer_len):
                begin, stop = self._place(window.tokens, first, last, options.align_to_words)
                _add(by_text, {"score": score, "start": begin, "end": stop, "answer": context[begin:stop]})
        answers = list(by_text.values())
        if options.handle_impossible_answer:
            answers.append({"score": no_answer, "start": 0, "end": 0, "answer": ""})
        return sorted(answers, key=lambda answer: answer["score"], reverse=True)[: options.top_k]

    def _allowed(self, tokens: Tokens) -> npt.NDArray[np.bool_]:
        """Which tokens may be in an answer: the context's, and the one for "no answer"."""
        allowed = np.array([number == self._sequence for number in tokens.encoding.sequence_ids])
        if self._cls_id is not None:
            allowed |= tokens.ids == self._cls_id
        return allowed

    def _place(self, tokens: Tokens, first: int, last: int, whole_words: bool) -> tuple[int, int]:
        """Where in the context the tokens from ``first`` to ``last`` stand."""
        encoding = tokens.encoding
        begin, stop = encoding.offsets[first][0], encoding.offsets[last][1]
        if whole_words:
            words = encoding.token_to_word(first), encoding.token_to_word(last)
            places = [None if word is None else encoding.word_to_chars(word, self._sequence) for word in words]
            if places[0] is not None and places[1] is not None:
                return places[0][0], places[1][1]
        return begin, stop


def _probabilities(logits: Floats, allowed: npt.NDArray[np.bool_]) -> Floats:
    masked = np.where(allowed, logits.astype(np.float32), np.float32(_MASKED))
    exponentials = np.exp(masked - masked.max())
    result: Floats = exponentials / exponentials.sum()
    return result


def _spans(
    start: Floats, end: Floats, allowed: npt.NDArray[np.bool_], count: int, longest: int
) -> list[tuple[int, int, float]]:
    """The likeliest spans: first token, last token, score."""
    scores = np.tril(np.triu(np.outer(start, end)), longest - 1)
    flat = scores.reshape(-1)
    if count == 1:
        chosen = np.array([flat.argmax()])
    elif len(flat) <= count:
        chosen = np.argsort(-flat)
    else:
        nearest = np.argpartition(-flat, count)[:count]
        chosen = nearest[np.argsort(-flat[nearest])]
    places = np.stack(np.unravel_index(chosen, scores.shape), axis=1)
    return [(int(a), int(b), float(scores[a, b])) for a, b in places if allowed[a] and allowed[b]]


def _add(answers: dict[str, Answer], answer: Answer) -> None:
    """Add an answer under its text in lower case; the one that stands there gets its score."""
    same = answers.setdefault(answer["answer"].lower(), answer)
    if same is not answer:
        same["score"] += answer["score"]

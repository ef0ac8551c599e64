"""From texts to token ids, by the tokenizer that the executable holds."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from poprt.errors import InputError, QueueFullError
from poprt.text.facts import TextFacts
from poprt.text.inputs import Text, characters
from poprt.text.library import load_tokenizer, panics_are_errors

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

#: A text is cut to so many characters a token before it is tokenised: 2 MB cost seconds, whatever is kept of them.
CHARACTERS_A_TOKEN = 250
#: Characters up to which texts are tokenised one by one: to wake the library's threads takes longer.
ONE_BY_ONE = 1000
#: Settings of truncation for which a tokenizer is kept.
_MOST_SETTINGS = 4


@dataclass(frozen=True, slots=True)
class Tokens:
    """One tokenised text or pair.

    Attributes:
        ids, type_ids: int32 [length].
        count: tokens that it has when nothing is cut off, special ones included; at least so many where it was cut at
            :data:`CHARACTERS_A_TOKEN`.
        encoding: the library's own, with offsets where they were asked for.
    """

    ids: npt.NDArray[np.int32]
    type_ids: npt.NDArray[np.int32]
    count: int
    encoding: Encoding

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def truncated(self) -> bool:
        """Whether something was cut off."""
        return self.count > len(self.ids)


@dataclass(frozen=True)
class _Truncation:
    max_length: int
    stride: int = 0
    strategy: str = "longest_first"


class TextTokenizer:
    """Tokenises for one executable. Every method may be called from any thread.

    A tokenizer object has its truncation set when it is made and never again: to set it is no matter of one thread.
    Another setting is another object.

    Args:
        data: the member ``tokenizer.json``.
        facts: what is said beside it.

    Raises:
        PoprtError: the library is not installed, or does not understand the member.
    """

    def __init__(self, data: bytes, facts: TextFacts) -> None:
        self._data = data
        self._facts = facts
        self._making = threading.Lock()
        self._tokenizers: dict[_Truncation, Tokenizer] = {}
        self._default = self._tokenizer(_Truncation(facts.max_length))
        self._special = {pair: self._default.num_special_tokens_to_add(pair) for pair in (False, True)}

    def tokenize(
        self, texts: Sequence[Text], *, offsets: bool = False, add_special_tokens: bool = True
    ) -> list[Tokens]:
        """Tokenise texts or pairs; what is longer than ``max_length`` is truncated.

        Args:
            texts: checked ones.
            offsets: whether the places of tokens in the text are wanted; without them it is faster.
            add_special_tokens: whether the tokens that frame a text are added.

        Raises:
            InputError: the library refuses a text.
        """
        tokenizer = self._default
        encode = tokenizer.encode_batch if offsets else tokenizer.encode_batch_fast
        prepared = [self._prepared(text, offsets) for text in texts]
        with panics_are_errors("the texts cannot be tokenised", InputError):
            parts = [[text] for text in prepared] if characters(prepared) <= ONE_BY_ONE else [prepared]
            encodings = [item for part in parts for item in encode(part, add_special_tokens=add_special_tokens)]
        special = self._special if add_special_tokens else {False: 0, True: 0}
        return [self._tokens(*item, special) for item in zip(prepared, encodings, strict=True)]

    def windows(
        self, question: str, context: str, max_length: int, stride: int, most: int | None = None
    ) -> list[Tokens]:
        """A question with each part of a context that is too long for one run; parts overlap.

        Args:
            question, context: checked texts; nothing of the context is cut off.
            max_length: most tokens of a window.
            stride: tokens of the context that two neighbouring windows share.
            most: more windows than these are not made; None: as many as it takes.

        Raises:
            InputError: the question leaves no room for a context.
            QueueFullError: there would be more than ``most``.
        """
        first = self._facts.question_first
        strategy = "only_second" if first else "only_first"
        tokenizer = self._tokenizer(_Truncation(max_length, stride, strategy))
        room = self._check_room(question, context, max_length, stride)
        if most is not None:
            self._check_windows(context, room, max(1, room - stride), most)
        pair = (question, context) if first else (context, question)
        with panics_are_errors("question and context cannot be tokenised", InputError):
            encoding = tokenizer.encode_batch([pair])[0]
        return [self._window(part) for part in (encoding, *encoding.overflowing)]

    def parts(self, texts: Sequence[str], stride: int) -> list[list[Tokens]]:
        """Texts as they are, read whole: one that is too long in parts of ``max_length`` that overlap, with offsets.

        Args:
            texts: checked ones.
            stride: tokens that two neighbouring parts share.

        Raises:
            InputError: the stride leaves no room for others, or the library refuses a text.
        """
        room = self._facts.max_length - self._special[False]
        if not 0 <= stride < room:
            raise InputError(f"stride is {stride}, expected 0 to {room - 1}, as a part has {room} tokens of the text")
        tokenizer = self._tokenizer(_Truncation(self._facts.max_length, stride))
        with panics_are_errors("the texts cannot be tokenised", InputError):
            encodings = tokenizer.encode_batch(list(texts))
        return [[self._window(part) for part in (whole, *whole.overflowing)] for whole in encodings]

    def _check_room(self, question: str, context: str, max_length: int, stride: int) -> int:
        """Tokens of a context in a window; raise InputError where windows would not reach beyond each other."""
        most = CHARACTERS_A_TOKEN * max_length
        with panics_are_errors("question and context cannot be tokenised", InputError):
            parts = self._default.encode_batch_fast([question[:most], context[:most]], add_special_tokens=False)
        asked, told = map(len, parts)
        room: int = max_length - asked - self._special[True]
        if room <= stride and told > room:
            raise InputError(
                f"the question has {asked} tokens, which leaves {max(room, 0)} of {max_length} for a context, and "
                f"windows share {stride}; shorten the question, or lower doc_stride"
            )
        return room

    def _check_windows(self, context: str, room: int, step: int, most: int) -> None:
        """Raise QueueFullError for too many windows, before they are made: each holds its tokens once more."""
        if len(context) <= most * step:  # few tokens are less than a character
            return
        count = self._count((context,), 0)
        windows = 1 + -(-(count - room) // step)
        if windows > most:
            raise QueueFullError(
                f"the context has {count} tokens, which are {windows} windows that go {step} tokens ahead each, and at "
                f"most {most} are taken: send it in parts, or lower doc_stride",
                can_retry=False,
            )

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids.

        Raises:
            InputError: an id is no whole number, or negative.
        """
        with panics_are_errors("the ids cannot be decoded", InputError):
            return str(self._default.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def words(self, tokens: Sequence[str]) -> str:
        """Tokens as the text that they spell."""
        decoder = self._default.decoder
        return " ".join(tokens) if decoder is None else str(decoder.decode(list(tokens)))

    def id_of(self, token: str) -> int | None:
        """The id of a token; None where there is no such token."""
        number: int | None = self._default.token_to_id(token) if token else None
        return number

    @property
    def marks_subwords(self) -> bool:
        """Whether a token shows that it goes on with a word, as WordPiece's do."""
        return bool(getattr(self._default.model, "continuing_subword_prefix", None))

    def _prepared(self, text: Text, offsets: bool) -> Text:
        if isinstance(text, tuple):
            return self._cut(text[0], offsets), self._cut(text[1], offsets)
        return self._cut(text, offsets)

    def _cut(self, text: str, offsets: bool) -> str:
        facts = self._facts
        text = text.strip() if facts.strip else text
        text = text.lower() if facts.lower else text
        most = CHARACTERS_A_TOKEN * facts.max_length
        if len(text) <= most:
            return text
        if facts.truncation_side == "right":
            return text[:most]
        return text if offsets else text[-most:]  # offsets count from the text's start

    def _tokens(self, text: Text, encoding: Encoding, special: dict[bool, int]) -> Tokens:
        ids = _int32(encoding.ids)
        count = len(ids) + sum(len(part) - special[False] for part in encoding.overflowing)
        if encoding.overflowing and isinstance(text, tuple):
            count = self._count(text, special[True])
        return Tokens(ids, self._type_ids(encoding), count, encoding)

    def _count(self, texts: Sequence[str], special: int) -> int:
        """Tokens of texts that are truncated together: what was cut off does not tell how long they are."""
        with panics_are_errors("the texts cannot be tokenised", InputError):
            parts = self._default.encode_batch_fast(list(texts), add_special_tokens=False)
        return special + sum(len(part) + sum(map(len, part.overflowing)) for part in parts)

    def _window(self, encoding: Encoding) -> Tokens:
        return Tokens(_int32(encoding.ids), self._type_ids(encoding), len(encoding), encoding)

    def _type_ids(self, encoding: Encoding) -> npt.NDArray[np.int32]:
        if self._facts.type_ids:
            return _int32(encoding.type_ids)
        return np.zeros(len(encoding), np.int32)

    def _tokenizer(self, truncation: _Truncation) -> Tokenizer:
        with self._making:
            tokenizer = self._tokenizers.get(truncation)
            if tokenizer is None:
                tokenizer = load_tokenizer(self._data, "the executable's tokenizer.json")
                tokenizer.enable_truncation(
                    truncation.max_length,
                    stride=truncation.stride,
                    strategy=truncation.strategy,
                    direction=self._facts.truncation_side,
                )
                if len(self._tokenizers) >= _MOST_SETTINGS:
                    self._tokenizers.pop(list(self._tokenizers)[1])  # the first is the default one
                self._tokenizers[truncation] = tokenizer
            return tokenizer


def _int32(ids: Sequence[int]) -> npt.NDArray[np.int32]:
    """Raises InputError where the tokenizer gives an id that no table has."""
    try:
        return np.array(ids, np.int32)
    except OverflowError as error:
        raise InputError(f"the tokenizer gives the id {max(ids)}, which no model has a row for") from error

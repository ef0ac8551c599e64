"""Texts that an int8 model is measured on, tokenised as those that it will be asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx

from passes.errors import RewriteError
from passes.packed_model import PackedModel
from passes.precision.int8_observation import SampleData
from poprt.errors import PoprtError
from poprt.sample_data import Array, model_inputs
from poprt.text.facts import EMBEDDING, QUESTION_ANSWERING, RERANKING, TextFacts
from poprt.text.inputs import Text, check_texts
from poprt.text.tokens import TextTokenizer, Tokens
from poprt.verify_packed import lay_out

_OWN = "sample_texts.txt"
_TEXTS_A_RUN = 8  # a converted model fills each up to the longest that it takes


def read_sample_texts(path: str | Path | None) -> list[str]:
    """The texts of a file, one a line; None reads the list that comes with the package.

    Raises:
        PoprtError: the file cannot be read as UTF-8, or holds no text.
    """
    if path is None:
        content = files(__package__).joinpath(_OWN).read_text(encoding="utf-8")
    else:
        try:
            content = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PoprtError(f"sample_texts: {str(path)!r} cannot be read as UTF-8: {error}") from error
    texts = [line for line in content.splitlines() if line.strip()]
    if not texts:
        raise PoprtError(f"sample_texts: {str(path)!r} holds no text; give it one a line")
    return check_texts(texts, "sample text")


def text_data(texts: Sequence[str], tokenizer: TextTokenizer, facts: TextFacts) -> SampleData:
    """Runs of texts for a packed text model, a few texts each.

    Args:
        texts: checked ones.
        tokenizer: of the model.
        facts: what the model is for; where that takes pairs, each text is paired with the next.
    """
    tokens = [item for item in tokenizer.tokenize(_as_asked(texts, facts)) if len(item)]

    def runs(signature: onnx.ModelProto) -> list[dict[str, Array]]:
        packed = PackedModel.read(signature)
        if packed is None:
            raise RewriteError("texts are given to a model that is not packed")
        packed = replace(packed, segment_max_size=(facts.max_length,))
        return [_laid_out(part, packed, signature) for part in _parts(tokens, packed)]

    return runs


def _as_asked(texts: Sequence[str], facts: TextFacts) -> list[Text]:
    if facts.task in (RERANKING, QUESTION_ANSWERING):
        return list(zip(texts, [*texts[1:], texts[0]], strict=True))
    prompt = facts.prompts.get(facts.default_prompt, "") if facts.task == EMBEDDING else ""
    return [prompt + text for text in texts]


def _parts(tokens: Sequence[Tokens], packed: PackedModel) -> Iterator[list[Tokens]]:
    """The texts of each run, of all kinds: neighbours in the list go to different runs.

    Where the extents are fixed, the texts that a run has no room for are left out.
    """
    room = packed.rows * packed.columns
    number = -(-len(tokens) // _TEXTS_A_RUN)
    for first in range(number):
        part = list(tokens[first::number])[: packed.max_valid_num]
        if not packed.shape_agnostic:
            lengths = np.cumsum([len(item) for item in part])
            part = part[: int(np.searchsorted(lengths, room, side="right"))]
        if part:
            yield part


def _laid_out(part: Sequence[Tokens], packed: PackedModel, signature: onnx.ModelProto) -> dict[str, Array]:
    if packed.shape_agnostic:
        rows = -(-sum(map(len, part)) // packed.columns)
        packed = replace(packed, rows=rows, max_valid_num=len(part))
    lengths = np.array([[len(item)] for item in part])
    return lay_out(packed, [_sample(item) for item in part], lengths, model_inputs(signature)).converted_feeds


def _sample(tokens: Tokens) -> dict[str, Array]:
    """One text as the original model takes it, [1, length] each."""
    columns = np.arange(len(tokens))
    arrays: dict[str, Array] = {
        "input_ids": tokens.ids,
        "token_type_ids": tokens.type_ids,
        "attention_mask": np.ones_like(columns),
        "position_ids": columns,
    }
    return {name: array[None] for name, array in arrays.items()}

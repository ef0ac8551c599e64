"""From the outputs of texts to what routes answer, by the same functions as ``TextModel``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from poprt.errors import InputError
from poprt.serve.calls import Call
from poprt.serve.errors import BadRequest
from poprt.serve.models import ServedModel
from poprt.text.answering import Answer, Answerer, AnswerOptions, Window
from poprt.text.dimensions import check_dimensions, shortened
from poprt.text.facts import CLASSIFICATION, EMBEDDING, QUESTION_ANSWERING, RERANKING, TOKEN_CLASSIFICATION
from poprt.text.inputs import Text
from poprt.text.scores import Floats, activate
from poprt.text.submission import Submission
from poprt.text.tagging import Entity, Tagger, check_strategy


async def embed(
    model: ServedModel, texts: Sequence[str], call: Call, *, truncate: bool, dimensions: int | None = None
) -> tuple[Floats, int]:
    """Embeddings of texts with their prompts before them.

    Args:
        dimensions: a size that the model declares; None is the whole one.

    Returns:
        float32 [n, dimensions], and the tokens of all texts.

    Raises:
        BadRequest: the model declares no such size; nothing has run then.
    """
    facts = model.text_model(EMBEDDING).facts
    try:
        size = check_dimensions(facts, dimensions)
    except InputError as error:
        raise BadRequest(f"model {model.name!r}: {error}", "dimensions") from error
    submission = await model.texts(texts, call, truncate=truncate)
    rows = shortened(rows_of(submission, facts.outputs[0]), size, facts)
    return rows, sum(map(len, submission.tokens))


async def score(
    model: ServedModel, texts: Sequence[Text], call: Call, *, truncate: bool, function: str | None = None
) -> Floats:
    """Scores float32 [n, labels] of texts or pairs, by the model's activation or another function."""
    text = model.text_model(CLASSIFICATION, RERANKING)
    name = text.facts.activation if function is None else function
    activate(np.zeros((0, 1), np.float32), name)  # now: nothing runs for a wrong one
    submission = await model.texts(texts, call, truncate=truncate)
    return activate(rows_of(submission, text.facts.outputs[0]), name)


async def tag(
    model: ServedModel, texts: Sequence[str], call: Call, *, truncate: bool, strategy: str, ignore_labels: Sequence[str]
) -> list[list[Entity]]:
    """The entities of each text."""
    text = model.text_model(TOKEN_CLASSIFICATION)
    check_strategy(strategy)
    submission = await model.texts(texts, call, truncate=truncate, offsets=True)
    tagger = Tagger(text.tokenizer, text.labels, text.facts.unk_token)
    name = text.facts.outputs[0]

    def read() -> list[list[Entity]]:
        return [
            tagger.entities(item, tokens, buffers[name], strategy, ignore_labels)
            for item, tokens, buffers in zip(texts, submission.tokens, submission.buffers, strict=True)
        ]

    entities: list[list[Entity]] = await model.in_pool(read, sum(map(len, texts)))
    return entities


async def answer(model: ServedModel, question: str, context: str, call: Call, options: AnswerOptions) -> list[Answer]:
    """The best answers, the likeliest first."""
    text = model.text_model(QUESTION_ANSWERING)
    for item, field in ((question, "question"), (context, "context")):
        if not item.strip():
            raise BadRequest(f"{field}: it is empty", field)
    length, stride = options.window(text.max_length)
    submission = await model.windows(question, context, length, stride, call)
    answerer = Answerer(text.facts.question_first, text.tokenizer.id_of(text.facts.cls_token))
    start, end = text.facts.outputs

    def read() -> list[Answer]:
        windows = [
            Window(tokens, buffers[start], buffers[end])
            for tokens, buffers in zip(submission.tokens, submission.buffers, strict=True)
        ]
        return answerer.answers(context, windows, options)

    answers: list[Answer] = await model.in_pool(read, len(context))
    return answers


def rows_of(submission: Submission, name: str) -> Floats:
    """An output with one row a text, float32 [n, values]."""
    arrays = [buffers[name] for buffers in submission.buffers]
    rows = arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
    result: Floats = rows.astype(np.float32, copy=False)
    return result


def token_output(model: ServedModel) -> str | None:
    """The output with a vector for each token; None where the graph has none."""
    packing = model.executable.packing
    text = model.text_model(EMBEDDING)
    for spec in model.executable.outputs:
        by_token = packing is not None and packing.outputs[spec.name] == "tokens"
        if by_token and len(spec.shape) == 3 and spec.name not in text.facts.outputs:
            return spec.name
    return None


def plain(value: Any) -> Any:
    """Numbers of numpy in entities and answers as Python's own."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value

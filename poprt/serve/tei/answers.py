"""What the routes of text-embeddings-inference answer, each from its checked body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import Response

from poprt.serve import reading
from poprt.serve.bodies import check_batch, dump_list, json_response, texts_of
from poprt.serve.calls import Call
from poprt.serve.errors import BadRequest, EmptyBatch, WrongTask
from poprt.serve.models import ServedModel
from poprt.serve.tei import bodies
from poprt.text.answering import AnswerOptions
from poprt.text.dimensions import of_length_one
from poprt.text.facts import CLASSIFICATION, EMBEDDING, RERANKING, TOKEN_CLASSIFICATION
from poprt.text.scores import labelled
from poprt.text.submission import Submission

if TYPE_CHECKING:
    from poprt.serve.options import ServeOptions
    from poprt.text.model import TextModel


def prepared(
    text: TextModel, texts: Sequence[str], prompt_name: str | None, options: ServeOptions, field: str = "inputs"
) -> list[str]:
    """Texts of a request that are few enough, with their prompts."""
    check_batch(len(texts), options, field)
    return text.with_prompt(texts, prompt_name)


def cuts(body: bodies.Truncating, text: TextModel, options: ServeOptions) -> bool:
    """Whether texts that are too long are cut."""
    bodies.check_direction(body, text.facts.truncation_side)
    return options.auto_truncate if body.truncate is None else body.truncate


async def embed(model: ServedModel, body: bodies.EmbedRequest, call: Call, options: ServeOptions) -> Response:
    """[[...], ...]: a vector for each text."""
    text = model.text_model(EMBEDDING)
    if text.facts.normalised and not body.normalize:
        raise BadRequest(
            f"normalize: model {model.name!r} brings its embeddings to length 1 itself, so false cannot be had",
            "normalize",
        )
    texts = prepared(text, texts_of(body.inputs, "inputs"), body.prompt_name, options)
    cut = cuts(body, text, options)
    rows, _ = await reading.embed(model, texts, call, truncate=cut, dimensions=body.dimensions)
    if body.normalize and not text.facts.normalised:
        rows = of_length_one(rows)
    return _json(await dump_list(rows, rows.shape[1]))


async def embed_all(model: ServedModel, body: bodies.EmbedAllRequest, call: Call, options: ServeOptions) -> Response:
    """[[[...], ...], ...]: a vector for each token of each text."""
    text, name = model.text_model(EMBEDDING), reading.token_output(model)
    if name is None:
        raise WrongTask(
            f"model {model.name!r} gives one vector a text, and its graph none for each token: use /embed, or pack a "
            "folder whose graph gives both"
        )
    texts = prepared(text, texts_of(body.inputs, "inputs"), body.prompt_name, options)
    submission = await model.texts(texts, call, truncate=cuts(body, text, options), outputs=[name])
    return _json(await dump_list(*_of_tokens(submission, name)))


def _of_tokens(submission: Submission, name: str) -> tuple[list[Any], int]:
    arrays = [buffers[name].astype(np.float32, copy=False) for buffers in submission.buffers]
    return arrays, max(array.size for array in arrays)


async def similarity(model: ServedModel, body: bodies.SimilarityRequest, call: Call, options: ServeOptions) -> Response:
    """[...]: the cosine between a sentence and each of the others."""
    text, inputs = model.text_model(EMBEDDING), body.inputs
    if not inputs.sentences:
        raise EmptyBatch("inputs.sentences: the list is empty", "inputs")
    check_batch(len(inputs.sentences), options, "inputs.sentences")
    texts = text.with_prompt([inputs.source_sentence, *inputs.sentences], body.prompt_name)
    rows, _ = await reading.embed(model, texts, call, truncate=cuts(body, text, options))
    rows = of_length_one(rows)
    return json_response(rows[1:] @ rows[0])


async def rerank(model: ServedModel, body: bodies.RerankRequest, call: Call, options: ServeOptions) -> Response:
    """[{"index": ..., "score": ...}, ...]: the texts, the best first."""
    text = model.text_model(RERANKING)
    if not body.texts:
        raise EmptyBatch("texts: the list is empty", "texts")
    check_batch(len(body.texts), options, "texts")
    pairs = [(body.query, item) for item in body.texts]
    function = "none" if body.raw_scores else None
    scores = await reading.score(model, pairs, call, truncate=cuts(body, text, options), function=function)
    ranking = [
        {"index": int(index), "score": scores[index, 0], **({"text": body.texts[index]} if body.return_text else {})}
        for index in np.argsort(-scores[:, 0], kind="stable")
    ]
    return json_response(ranking)


async def predict(
    model: ServedModel, body: bodies.PredictRequest, call: Call, options: ServeOptions, *, nested: bool = False
) -> Response:
    """[{"score": ..., "label": ...}, ...], the likeliest first; for a batch (or ``nested``) a list of these."""
    text = _classifier(model)
    texts, single = bodies.predict_inputs(body.inputs)
    check_batch(len(texts), options, "inputs")
    function = "none" if body.raw_scores else body.function_to_apply
    scores = await reading.score(model, texts, call, truncate=cuts(body, text, options), function=function)
    results = [labelled(row, text.labels, body.top_k) for row in scores]
    return json_response(results[0] if single and not nested else results)


def _classifier(model: ServedModel) -> TextModel:
    if model.text is not None and model.text.task == TOKEN_CLASSIFICATION:
        raise WrongTask(f"model {model.name!r} classifies tokens: use /tag")
    return model.text_model(CLASSIFICATION, RERANKING)


async def tag(model: ServedModel, body: bodies.TagRequest, call: Call, options: ServeOptions) -> Response:
    """[{"entity": ..., "score": ..., "start": ..., "end": ...}, ...]; for a list of texts a list of these."""
    text = model.text_model(TOKEN_CLASSIFICATION)
    texts = texts_of(body.inputs, "inputs")
    check_batch(len(texts), options, "inputs")
    entities = await reading.tag(
        model,
        texts,
        call,
        truncate=cuts(body, text, options),
        strategy=body.aggregation_strategy,
        ignore_labels=body.ignore_labels,
    )
    return json_response(entities[0] if isinstance(body.inputs, str) else entities)


async def answer(model: ServedModel, body: bodies.AnswerRequest, call: Call, options: ServeOptions) -> Response:
    """{"score": ..., "start": ..., "end": ..., "answer": ...}; with another ``top_k`` than 1 a list of these."""
    fields = body.model_dump(exclude={"question", "context"})
    answers = await reading.answer(model, body.question, body.context, call, AnswerOptions(**fields))
    return json_response(answers[0] if body.top_k == 1 and answers else answers)


def _json(data: bytes) -> Response:
    return Response(data, media_type="application/json")

"""The routes of text-embeddings-inference, and ``/tag`` and ``/answer`` for the tasks that it has not.

They ask the first model; the query ``?model=NAME`` or the header ``X-Model: NAME`` chooses another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter, Request, Response

from poprt.serve.bodies import Body, checked, json_response, read_object
from poprt.serve.calls import Call, call_for, watched
from poprt.serve.models import ServedModel
from poprt.serve.routing import route_class, state_of
from poprt.serve.tei import answers, bodies, documents, tokens
from poprt.serve.tei.errors import tei_form
from poprt.serve.tei.info import info
from poprt.text.facts import EMBEDDING, QUESTION_ANSWERING, TOKEN_CLASSIFICATION

if TYPE_CHECKING:
    from poprt.serve.options import ServeOptions

B = TypeVar("B", bound=Body)
Answering = Callable[[ServedModel, B, Call, "ServeOptions"], Awaitable[Response]]

MODEL_HEADER = b"x-model"

router = APIRouter(route_class=route_class(tei_form), tags=["text-embeddings-inference"])


@router.post("/embed", summary="Embeddings", **documents.EMBED)
async def embed(request: Request) -> Response:
    """A vector for each text."""
    return await _answered(request, bodies.EmbedRequest, answers.embed)


@router.post("/embed_all", summary="Embeddings of tokens", **documents.EMBED_ALL)
async def embed_all(request: Request) -> Response:
    """A vector for each token, where the model's graph gives them."""
    return await _answered(request, bodies.EmbedAllRequest, answers.embed_all)


@router.post("/similarity", summary="Cosine of a sentence with others", **documents.SIMILARITY)
async def similarity(request: Request) -> Response:
    """How near other sentences are to one."""
    fields = await read_object(request)
    return await _answered(request, bodies.SimilarityRequest, answers.similarity, _flat(fields))


@router.post("/rerank", summary="Texts by how well they answer a query", **documents.RERANK)
async def rerank(request: Request) -> Response:
    """The texts, the best first."""
    return await _answered(request, bodies.RerankRequest, answers.rerank)


@router.post("/predict", summary="Labels of texts", **documents.PREDICT)
async def predict(request: Request) -> Response:
    """Every label with its score. A list of two strings is a pair; a batch is a list of lists."""
    return await _answered(request, bodies.PredictRequest, answers.predict)


@router.post("/tag", summary="Labels of words", **documents.TAG)
async def tag(request: Request) -> Response:
    """Entities with their places, as transformers' token-classification pipeline gives them."""
    return await _answered(request, bodies.TagRequest, answers.tag, _flat(await read_object(request)))


@router.post("/answer", summary="Where a context answers a question", **documents.ANSWER)
async def answer(request: Request) -> Response:
    """The answer and its place, as transformers' question-answering pipeline gives it."""
    return await _answered(request, bodies.AnswerRequest, answers.answer, _flat(await read_object(request)))


@router.post("/tokenize", summary="Tokens of texts", **documents.TOKENIZE)
async def tokenize(request: Request) -> Response:
    """The tokens of each text; nothing is cut off."""
    return await _answered(request, bodies.TokenizeRequest, tokens.tokenize)


@router.post("/decode", summary="Text of token ids", **documents.DECODE)
async def decode(request: Request) -> Response:
    """The text of each list of token ids."""
    return await _answered(request, bodies.DecodeRequest, tokens.decode)


@router.get("/info", summary="What the model is", **documents.INFO)
async def model_info(request: Request) -> Response:
    """Task, limits and options."""
    call_for(request)
    return json_response(info(_model(request), state_of(request).options))


@router.post("/", summary="What the model is for", **documents.ANY)
async def any_task(request: Request) -> Response:
    """What ``/embed``, ``/predict``, ``/rerank``, ``/tag`` or ``/answer`` would give, as the model's task is.

    ``parameters`` may hold the fields beside ``inputs``, as transformers' pipelines have them; then one text to
    classify gets a list in a list, as it does there.
    """
    fields = await read_object(request)
    model, flat = _model(request), _flat(fields)
    task = model.text_model().task
    if task == TOKEN_CLASSIFICATION:
        return await _answered(request, bodies.TagRequest, answers.tag, flat)
    if task == QUESTION_ANSWERING:
        return await _answered(request, bodies.AnswerRequest, answers.answer, flat)
    if task == EMBEDDING:
        if isinstance(fields.get("inputs"), dict):
            return await _answered(request, bodies.SimilarityRequest, answers.similarity, flat)
        return await _answered(request, bodies.EmbedRequest, answers.embed, flat)
    if "query" in fields:
        return await _answered(request, bodies.RerankRequest, answers.rerank, flat)
    return await _answered(request, bodies.PredictRequest, _predict(nested="parameters" in fields), flat)


def _predict(*, nested: bool) -> Answering[bodies.PredictRequest]:
    async def predict(model: ServedModel, body: bodies.PredictRequest, call: Call, options: ServeOptions) -> Response:
        return await answers.predict(model, body, call, options, nested=nested)

    return predict


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields with those of ``parameters``, and of a question in ``inputs``, among them."""
    parameters, inputs = fields.get("parameters"), fields.get("inputs")
    flat = {**parameters, **fields} if isinstance(parameters, dict) else fields
    return {**inputs, **flat} if isinstance(inputs, dict) and "question" in inputs else flat


async def _answered(
    request: Request, kind: type[B], answering: Answering[B], fields: dict[str, Any] | None = None
) -> Response:
    """What a route answers: its body is checked, the model chosen, and the client watched."""
    call, options = call_for(request), state_of(request).options
    model = _model(request)
    call.model = model.name
    body = checked(kind, await read_object(request) if fields is None else fields)
    return await watched(call, request, answering(model, body, call, options))


def _model(request: Request) -> ServedModel:
    """The model that the query or the header names; else the first one."""
    name = request.query_params.get("model") if request.scope["query_string"] else None
    if name is None:
        name = next((value.decode("latin-1") for key, value in request.scope["headers"] if key == MODEL_HEADER), None)
    return state_of(request).models.find(name)

"""What the OpenAPI document says of the routes of text-embeddings-inference."""

from __future__ import annotations

from typing import Any

from poprt.serve.bodies import Body
from poprt.serve.routing import answer_schema, array_of, body_schema, errors_schema, object_of
from poprt.serve.tei import bodies
from poprt.serve.tei.errors import ERROR

_TEXT: dict[str, Any] = {"type": "string"}
_NUMBER: dict[str, Any] = {"type": "number"}
_WHOLE: dict[str, Any] = {"type": "integer"}
_PLACE: dict[str, Any] = {"type": ["integer", "null"]}
_CHOICE = [
    {"name": "model", "in": "query", "required": False, "schema": _TEXT, "description": "The model; else the first."},
    {"name": "X-Model", "in": "header", "required": False, "schema": _TEXT, "description": "The same as `model`."},
]
_PREDICTIONS = array_of(object_of({"score": _NUMBER, "label": _TEXT}))
_RANKS = array_of(object_of({"index": _WHOLE, "score": _NUMBER}, text=_TEXT))
_VECTORS = array_of(array_of(_NUMBER))
_ENTITY = object_of(
    {"score": _NUMBER, "word": _TEXT, "start": _PLACE, "end": _PLACE}, entity=_TEXT, entity_group=_TEXT, index=_WHOLE
)
_FOUND = object_of({"score": _NUMBER, "start": _WHOLE, "end": _WHOLE, "answer": _TEXT})
_TOKEN = object_of({"id": _WHOLE, "text": _TEXT, "special": {"type": "boolean"}, "start": _PLACE, "stop": _PLACE})
_INFO = object_of(
    {
        "model_id": _TEXT,
        "model_dtype": _TEXT,
        "model_type": {"type": "object"},
        "max_input_length": _PLACE,
        "max_client_batch_size": _WHOLE,
        "auto_truncate": {"type": "boolean"},
        "version": _TEXT,
    }
)


def _either(one: dict[str, Any]) -> dict[str, Any]:
    """The answer to one text, or to several."""
    return {"anyOf": [one, array_of(one)]}


def _route(answer: dict[str, Any], description: str, *kinds: type[Body]) -> dict[str, Any]:
    """The documents of a route with a body."""
    errors = errors_schema(ERROR, 400, 401, 404, 413, 415, 422, 424, 429, 500, 503, 504)
    return {
        "responses": {**answer_schema(answer, description), **errors},
        "openapi_extra": body_schema(*kinds, parameters=_CHOICE),
    }


EMBED = _route(_VECTORS, "A vector for each text.", bodies.EmbedRequest)
EMBED_ALL = _route(array_of(_VECTORS), "A vector for each token of each text.", bodies.EmbedAllRequest)
SIMILARITY = _route(array_of(_NUMBER), "A cosine for each sentence.", bodies.SimilarityRequest)
RERANK = _route(_RANKS, "The texts' numbers and scores, the best first.", bodies.RerankRequest)
PREDICT = _route(_either(_PREDICTIONS), "Labels, the likeliest first; of a batch for each text.", bodies.PredictRequest)
TAG = _route(_either(array_of(_ENTITY)), "Entities; of a list of texts for each.", bodies.TagRequest)
ANSWER = _route(_either(_FOUND), "The answer; with `top_k` a list, the likeliest first.", bodies.AnswerRequest)
TOKENIZE = _route(array_of(array_of(_TOKEN)), "The tokens of each text.", bodies.TokenizeRequest)
DECODE = _route(array_of(_TEXT), "The text of each list of ids.", bodies.DecodeRequest)
ANY = _route({}, "As the route of the model's task.", bodies.EmbedRequest, bodies.PredictRequest, bodies.AnswerRequest)
INFO = {
    "responses": {**answer_schema(_INFO, "The model."), **errors_schema(ERROR, 401, 404)},
    "openapi_extra": {"parameters": _CHOICE},
}

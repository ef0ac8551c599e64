"""What the routes of text-embeddings-inference take."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import FailFast, Field, WithJsonSchema

from poprt.serve.bodies import Body, TextsField, kind_of
from poprt.serve.errors import BadRequest, EmptyBatch, Unprocessable
from poprt.text.inputs import Text

#: Most answers to one question.
MOST_ANSWERS = 100
#: Each wrong item would be an error of its own, and a million of them take seconds to write.
_Strings = Annotated[list[str], FailFast()]
_PAIR: dict[str, Any] = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2}
_PREDICT_SCHEMA: dict[str, Any] = {
    "description": "one text, a pair of texts, or a batch of lists with one or two texts",
    "anyOf": [{"type": "string"}, _PAIR, {"type": "array", "items": _PAIR, "minItems": 1}],
}
_WHOLE: dict[str, Any] = {"type": "integer", "minimum": 0}
_IDS: dict[str, Any] = {"type": "array", "items": _WHOLE}
_IDS_SCHEMA: dict[str, Any] = {"anyOf": [_IDS, {"type": "array", "items": _IDS}]}


class Truncating(Body):
    """A request whose texts may be cut.

    Attributes:
        truncate: whether texts that are too long are cut; None as the server was told.
        truncation_direction: from which side; only the model's own is taken.
    """

    truncate: bool | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None


class EmbedRequest(Truncating):
    """Texts to embed."""

    inputs: TextsField
    normalize: bool = True
    prompt_name: str | None = None
    dimensions: int | None = None


class EmbedAllRequest(Truncating):
    """Texts whose tokens are embedded."""

    inputs: TextsField
    prompt_name: str | None = None


class Sentences(Body):
    """A sentence, and those that it is compared with."""

    source_sentence: str
    sentences: _Strings


class SimilarityRequest(Truncating):
    """What is compared."""

    inputs: Annotated[Sentences, WithJsonSchema(Sentences.model_json_schema())]
    prompt_name: str | None = None


class RerankRequest(Truncating):
    """A query, and the texts that may answer it."""

    query: str
    texts: _Strings
    raw_scores: bool = False
    return_text: bool = False


class PredictRequest(Truncating):
    """Texts to classify. The last two fields are those of transformers' pipelines."""

    inputs: Annotated[Any, WithJsonSchema(_PREDICT_SCHEMA)]
    raw_scores: bool = False
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None
    top_k: Annotated[int | None, Field(ge=1)] = None


class TagRequest(Truncating):
    """Texts whose tokens are classified."""

    inputs: TextsField
    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "none"
    ignore_labels: _Strings = Field(default_factory=lambda: ["O"])


class AnswerRequest(Body):
    """A question, and where its answer is looked for; see ``poprt.text.answering.AnswerOptions``."""

    question: str
    context: str
    top_k: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] = 1
    max_answer_len: Annotated[int, Field(ge=1)] = 15
    handle_impossible_answer: bool = False
    align_to_words: bool = True
    max_seq_len: Annotated[int | None, Field(ge=1)] = None
    doc_stride: Annotated[int | None, Field(ge=0)] = None


class TokenizeRequest(Body):
    """Texts to tokenise."""

    inputs: TextsField
    add_special_tokens: bool = True
    prompt_name: str | None = None


class DecodeRequest(Body):
    """Token ids, of one text or of several."""

    ids: Annotated[Any, WithJsonSchema(_IDS_SCHEMA)]
    skip_special_tokens: bool = True


def check_direction(body: Truncating, side: str) -> None:
    """Raise BadRequest where texts are to be cut from another side than the model's."""
    if body.truncation_direction is not None and body.truncation_direction.lower() != side:
        raise BadRequest(
            f"truncation_direction: the model's texts are cut from the {side}, and from no other side",
            "truncation_direction",
        )


def predict_inputs(value: Any) -> tuple[list[Text], bool]:
    """The texts and pairs to classify, and whether there is only one, without a list around it.

    Raises:
        EmptyBatch: the list is empty.
        Unprocessable: it is something else.
    """
    if isinstance(value, str):
        return [value], True
    if not isinstance(value, list):
        raise Unprocessable(f"inputs: expected a string or a list, got {kind_of(value)}", "inputs")
    if not value:
        raise EmptyBatch("inputs: the list is empty", "inputs")
    if all(isinstance(item, str) for item in value):
        if len(value) > 2:
            raise Unprocessable(
                f"inputs: a list of two strings is a pair, and this one has {len(value)}; a batch is a list of lists: "
                '[["one text"], ["another"]]',
                "inputs",
            )
        return ([(value[0], value[1])], True) if len(value) == 2 else ([value[0]], False)
    return [_text_or_pair(item, number) for number, item in enumerate(value)], False


def _text_or_pair(item: Any, number: int) -> Text:
    parts = [item] if isinstance(item, str) else item
    if not isinstance(parts, list) or len(parts) not in (1, 2) or not all(isinstance(part, str) for part in parts):
        raise Unprocessable(f"inputs[{number}]: expected a string, or a list of one or two", "inputs")
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def ids_of(value: Any) -> list[list[int]]:
    """Token ids of one text or of several, as of several; raise Unprocessable."""
    rows = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    for row in rows:
        if not isinstance(row, list) or not all(type(item) is int and 0 <= item < 1 << 32 for item in row):
            raise Unprocessable("ids: expected a list of token ids, or a list of such lists", "ids")
    return rows

"""``/tokenize`` and ``/decode``: the tokenizer alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from fastapi import Response

from poprt.errors import InputError
from poprt.executable import TOKENIZER
from poprt.serve.bodies import check_batch, json_response, texts_of
from poprt.serve.calls import Call
from poprt.serve.errors import TooLong
from poprt.serve.models import ServedModel
from poprt.serve.tei import bodies
from poprt.serve.tei.answers import prepared
from poprt.text.library import load_tokenizer, panics_are_errors
from poprt.text.tokens import CHARACTERS_A_TOKEN

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

    from poprt.serve.options import ServeOptions

#: Tokenizers that cut nothing off, by the model: whoever counts tokens wants all of them.
_WHOLE: WeakKeyDictionary[ServedModel, Tokenizer] = WeakKeyDictionary()


async def tokenize(model: ServedModel, body: bodies.TokenizeRequest, call: Call, options: ServeOptions) -> Response:
    """[[{"id": ..., "text": ..., "special": ..., "start": ..., "stop": ...}, ...], ...]; nothing is cut off."""
    text = model.text_model()
    texts = prepared(text, texts_of(body.inputs, "inputs"), body.prompt_name, options)
    most = CHARACTERS_A_TOKEN * text.max_length
    for number, item in enumerate(texts):
        if len(item) > most:
            raise TooLong(f"text {number} has {len(item)} characters, at most {most} are tokenised", "inputs")
    call.texts = len(texts)

    def work() -> Response:
        return json_response([_tokens(*item) for item in zip(texts, _encoded(model, texts, body), strict=True)])

    response: Response = await model.in_pool(work, sum(map(len, texts)))
    return response


async def decode(model: ServedModel, body: bodies.DecodeRequest, call: Call, options: ServeOptions) -> Response:
    """["...", ...]: the text of each list of ids."""
    text = model.text_model()
    rows = bodies.ids_of(body.ids)
    check_batch(len(rows), options, "ids")
    call.texts = len(rows)

    def work() -> Response:
        skip = body.skip_special_tokens
        return json_response([text.tokenizer.decode(row, skip_special_tokens=skip) for row in rows])

    response: Response = await model.in_pool(work, sum(map(len, rows)))
    return response


def _encoded(model: ServedModel, texts: list[str], body: bodies.TokenizeRequest) -> list[Encoding]:
    text = model.text_model()
    tokenizer = _WHOLE.get(model)
    if tokenizer is None:
        tokenizer = _WHOLE[model] = load_tokenizer(model.executable.texts[TOKENIZER], "the executable's tokenizer.json")
    read = [item.strip() if text.facts.strip else item for item in texts]
    read = [item.lower() if text.facts.lower else item for item in read]
    with panics_are_errors("the texts cannot be tokenised", InputError):
        return list(tokenizer.encode_batch(read, add_special_tokens=body.add_special_tokens))


def _tokens(text: str, encoding: Encoding) -> list[dict[str, Any]]:
    """The tokens of a text. ``start`` and ``stop`` count the characters of what was tokenised."""
    rows = zip(encoding.ids, encoding.tokens, encoding.offsets, encoding.special_tokens_mask, strict=True)
    return [
        {
            "id": number,
            "text": token,
            "special": bool(special),
            "start": None if special else start,
            "stop": None if special else stop,
        }
        for number, token, (start, stop), special in rows
    ]

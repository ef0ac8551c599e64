"""What the clients of the soak ask: right requests with their vectors, and wrong ones of many kinds."""

from __future__ import annotations

import base64
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from benchmarks.serve.http_client import Answer, post, request
from tests.text_folders import WORDS

MODEL = "tiny"
#: Largest difference of a number of an embedding from the same text's alone.
TOLERANCE = 1e-5
_JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Ask:
    """A request and how its answer is judged.

    Attributes:
        request: its bytes.
        right: whether an answer is the right one.
        may_close: whether the server may close the connection before the answer has arrived.
    """

    request: bytes
    right: Callable[[Answer], bool]
    may_close: bool = False


def distinct_texts(count: int) -> list[str]:
    """Texts of one to sixteen words and a number, no two of them alike."""
    rng, words = random.Random(0), [word for word in WORDS if word.isalpha()]  # a token each
    return [f"{' '.join(rng.choices(words, k=1 + number % 16))} {number}" for number in range(count)]


def right_asks(texts: Sequence[str], vectors: np.ndarray, count: int) -> list[Ask]:
    """Requests of one to three of the texts, on each route and in each form."""
    rng = random.Random(1)
    forms = itertools.cycle((_openai_floats, _openai_base64, _tei))
    asks = []
    for form in itertools.islice(forms, count):
        numbers = [rng.randrange(len(texts)) for _ in range(rng.choice((1, 1, 1, 1, 2, 3)))]
        asks.append(form([texts[number] for number in numbers], vectors[numbers]))
    return asks


def _openai_floats(texts: list[str], vectors: np.ndarray) -> Ask:
    sent = post("/v1/embeddings", {"model": MODEL, "input": texts if len(texts) > 1 else texts[0]})
    return Ask(sent, _equals(vectors, lambda body: [item["embedding"] for item in orjson.loads(body)["data"]]))


def _openai_base64(texts: list[str], vectors: np.ndarray) -> Ask:
    def read(body: bytes) -> list[np.ndarray]:
        items = orjson.loads(body)["data"]
        return [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in items]

    sent = post("/v1/embeddings", {"model": MODEL, "input": texts, "encoding_format": "base64"})
    return Ask(sent, _equals(vectors, read))


def _tei(texts: list[str], vectors: np.ndarray) -> Ask:
    return Ask(post("/embed", {"inputs": texts}), _equals(vectors, orjson.loads))


def _equals(vectors: np.ndarray, read: Callable[[bytes], Sequence[object]]) -> Callable[[Answer], bool]:
    def right(answer: Answer) -> bool:
        if answer.status != 200:
            return False
        answered = np.array(read(answer.body), np.float32)
        return answered.shape == vectors.shape and float(np.abs(answered - vectors).max()) <= TOLERANCE

    return right


def invalid_asks() -> list[Ask]:
    """Requests that must be refused, each in its own way."""
    body = {"model": MODEL, "input": "a text"}
    bodies: list[object] = [
        {"model": MODEL},
        {**body, "input": 5},
        {**body, "input": []},
        {**body, "input": ["a text"] * 33},
        {**body, "input": [1, 2, 3]},
        {**body, "model": "nobody"},
        {**body, "encoding_format": "hex"},
        {**body, "dimensions": 7},
        ["a text"],
    ]
    raw = [
        b'{"input": ',
        b'{"model": "tiny", "input": "\\ud800"}',
        b'{"model": "tiny", "input": "\xff"}',
        b'{"model": "tiny", "input": "a", "dimensions": NaN}',
        b'{"model": "tiny", "input": 1e999}',
        b'{"model": "tiny", "input": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    ]
    sent = [
        *(post("/v1/embeddings", body) for body in bodies),
        *(request("POST", "/v1/embeddings", body, _JSON) for body in raw),
        request("POST", "/v1/embeddings", b"no gzip", {**_JSON, "content-encoding": "gzip"}),
        request("GET", "/v1/embeddings"),
        post("/v1/nothing", body),
        post("/embed", {"inputs": {"text": "a"}}),
    ]
    closing = [b"NONSENSE\r\n\r\n", request("POST", "/v1/embeddings", b'"' + b"a" * 2_100_000 + b'"', _JSON)]
    return [Ask(item, _refused) for item in sent] + [Ask(item, _refused, may_close=True) for item in closing]


def _refused(answer: Answer) -> bool:
    return 400 <= answer.status < 500

"""``/v1``: the openai client and LangChain's get what ``TextModel.encode`` gives; errors have OpenAI's form."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from poprt.serve.options import ServeOptions
from tests.serve.text_models import LONG, TEXTS, executable, own
from tests.serve.v2_models import Served, server
from tests.text_folders import HIDDEN, POSITIONS

openai = pytest.importorskip("openai", reason="openai is not installed: pip install '.[test]'")


@pytest.fixture
def client(texts_server: Served) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"http://{texts_server.http}/v1", api_key="none", max_retries=0) as client:
        yield client


def vectors(answer: Any) -> np.ndarray:
    return np.array([item.embedding for item in answer.data], np.float32)


@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_the_client_gets_the_models_embeddings_in_order(client: Any, form: dict[str, str]) -> None:
    answer = client.embeddings.create(model="normalised", input=TEXTS, user="anna", **form)
    got = [item.embedding for item in answer.data]
    if form.get("encoding_format") == "base64":  # asked for by name, the client leaves it as it is
        got = [np.frombuffer(base64.b64decode(item), "<f4") for item in got]
    np.testing.assert_allclose(np.array(got, np.float32), own("normalised").encode(TEXTS), atol=1e-5)
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert answer.model == "normalised"


def test_tokens_are_counted(client: Any) -> None:
    answer = client.embeddings.create(model="plain", input=TEXTS)
    count = sum(map(len, own("plain").tokenize(TEXTS)))
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (count, count)


def test_one_text_is_one_embedding(client: Any) -> None:
    np.testing.assert_allclose(
        vectors(client.embeddings.create(model="plain", input=TEXTS[0])), own("plain").encode(TEXTS[:1]), atol=1e-5
    )


def test_a_request_without_a_model_asks_the_first(http: httpx.Client) -> None:
    answer = http.post("/v1/embeddings", json={"input": "anna"}).json()
    assert answer["model"] == "plain"


def test_the_models_are_listed(client: Any) -> None:
    assert [model.id for model in client.models.list()][:2] == ["plain", "normalised"]
    assert client.models.retrieve("rerank").id == "rerank"
    with pytest.raises(openai.NotFoundError, match="'plain'"):
        client.models.retrieve("other")


def test_an_unknown_model_is_told_with_the_names_that_there_are(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="no model '/etc/passwd'; the models are 'plain'") as error:
        client.embeddings.create(model="/etc/passwd", input="anna")
    assert error.value.body["code"] == "model_not_found"
    assert error.value.body["type"] == "invalid_request_error"
    assert error.value.body["param"] == "model"


@pytest.mark.parametrize("ids", [[1, 2, 3], [[1, 2], [3]]])
def test_token_ids_are_never_embedded(client: Any, ids: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        client.embeddings.create(model="plain", input=ids)


def test_another_length_of_embeddings_is_refused_by_name(client: Any) -> None:
    with pytest.raises(
        openai.BadRequestError, match=f"'plain': dimensions is 3, the model declares no other size than {HIDDEN}"
    ) as error:
        client.embeddings.create(model="plain", input="anna", dimensions=3)
    assert error.value.body["param"] == "dimensions"
    assert len(client.embeddings.create(model="plain", input="anna", dimensions=HIDDEN).data[0].embedding) == HIDDEN


def test_a_declared_length_of_embeddings_is_given(client: Any) -> None:
    answer = client.embeddings.create(model="matryoshka", input=TEXTS, dimensions=8)
    np.testing.assert_allclose(vectors(answer), own("matryoshka").encode(TEXTS, dimensions=8), atol=1e-5)
    with pytest.raises(openai.BadRequestError, match=f"dimensions is 7, expected one of 8, 16 or {HIDDEN}"):
        client.embeddings.create(model="matryoshka", input="anna", dimensions=7)


def test_a_text_that_is_too_long_is_told_by_its_number(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=f"text 1 has 102 tokens, the model takes {POSITIONS}") as error:
        client.embeddings.create(model="plain", input=["anna", LONG])
    assert error.value.body["code"] == "context_length_exceeded"


def test_a_text_that_is_read_in_part_alone_is_too_long(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="text 0 has 20000 characters"):
        client.embeddings.create(model="plain", input="x" * 20000)  # one unknown word: a single token


def test_with_auto_truncate_it_is_cut() -> None:
    with server({"plain": executable("plain")}, ServeOptions(auto_truncate=True)) as running:
        answer = httpx.post(f"http://{running.http}/v1/embeddings", json={"input": [LONG]})
    np.testing.assert_allclose(answer.json()["data"][0]["embedding"], own("plain").encode(LONG), atol=1e-5)
    assert answer.json()["usage"]["prompt_tokens"] == POSITIONS


def test_more_texts_than_a_request_may_have(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=r"input: 9 texts, one request may have 8 .*max-client-batch"):
        client.embeddings.create(model="plain", input=["anna"] * 9)


def test_a_model_for_another_task(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="'classify' is for sequence-classification"):
        client.embeddings.create(model="classify", input="anna")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is no JSON"),
        (b'{"input": NaN}', "the body is no JSON"),
        (b'{"input": "anna", "dimensions": 1e999}', "the body is no JSON"),
        (b'{"input": "\\ud800"}', "the body is no JSON"),
        (b'{"input": "\xff"}', "the body is no JSON"),
        (b"[" * 10_000, "the body is no JSON"),
        (b'{"input":' * 10_000, "the body is no JSON"),
        (b"[1]", "the body: expected an object, got a list"),
        (b"{}", "input: field required"),
        (b'{"input": null}', "input: expected a string or a list of strings, got null"),
        (b'{"input": {}}', "input: expected a string or a list of strings, got an object"),
        (b'{"input": []}', "input: the list is empty"),
        (b'{"input": ["anna", null]}', r"input[1]: expected a string, got null"),
        (b'{"input": "anna", "model": 3}', "model: "),
        (b'{"input": "anna", "encoding_format": "int8"}', "encoding_format: "),
        (b'{"input": "anna", "dimensions": true}', "dimensions: "),
    ],
)
def test_odd_bodies_get_400_and_one_line(http: httpx.Client, body: bytes, words: str) -> None:
    answer = http.post("/v1/embeddings", content=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]
    assert "\n" not in error["message"]


def test_other_paths_and_methods_are_refused_in_the_same_form(http: httpx.Client) -> None:
    assert http.get("/v1/chat").json()["error"]["type"] == "invalid_request_error"
    answer = http.get("/v1/embeddings")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["message"] == "Method Not Allowed"


def test_langchain_gets_the_models_embeddings(texts_server: Served) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="pip install langchain-openai")
    client = langchain.OpenAIEmbeddings(
        model="normalised",
        base_url=f"http://{texts_server.http}/v1",
        api_key="none",
        check_embedding_ctx_length=False,
        chunk_size=2,
    )
    np.testing.assert_allclose(client.embed_documents(TEXTS), own("normalised").encode(TEXTS), atol=1e-5)
    np.testing.assert_allclose(client.embed_query(TEXTS[0]), own("normalised").encode(TEXTS[0]), atol=1e-5)

"""The routes of text-embeddings-inference answer as ``TextModel`` does, in the forms that its clients read."""

from __future__ import annotations

import time
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import ValidationError

from poprt.serve.bodies import Body
from poprt.serve.tei.bodies import RerankRequest, SimilarityRequest, TagRequest
from tests.serve.text_models import LONG, TEXTS, own
from tests.serve.v2_models import Served
from tests.text_folders import HIDDEN, POSITIONS, WORDS

PAIRS = [("anna bought bread", "my train"), ("new york", "old berlin")]


def post(http: httpx.Client, path: str, model: str, **fields: Any) -> Any:
    answer = http.post(path, params={"model": model}, json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refusal(http: httpx.Client, path: str, model: str, **fields: Any) -> tuple[int, str, str]:
    """Status, type and words of an error."""
    answer = http.post(path, params={"model": model}, json=fields)
    assert set(answer.json()) == {"error", "error_type"}
    return answer.status_code, answer.json()["error_type"], answer.json()["error"]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_embeddings_have_length_1_unless_the_request_says_otherwise(http: httpx.Client) -> None:
    rows = own("plain").encode(TEXTS)
    np.testing.assert_allclose(post(http, "/embed", "plain", inputs=TEXTS), unit(rows), atol=1e-5)
    np.testing.assert_allclose(post(http, "/embed", "plain", inputs=TEXTS, normalize=False), rows, atol=1e-5)
    assert np.abs(np.linalg.norm(rows, axis=-1) - 1).max() > 0.1


def test_one_text_gets_a_list_too(http: httpx.Client) -> None:
    np.testing.assert_allclose(
        post(http, "/embed", "normalised", inputs=TEXTS[0]), own("normalised").encode(TEXTS[:1]), atol=1e-5
    )


def test_a_model_that_normalises_cannot_be_told_not_to(http: httpx.Client) -> None:
    status, kind, words = refusal(http, "/embed", "normalised", inputs="anna", normalize=False)
    assert (status, kind) == (400, "Validation")
    assert words.startswith("normalize: model 'normalised' brings its embeddings to length 1 itself")


def test_a_prompt_is_put_before_the_text(http: httpx.Client) -> None:
    got = post(http, "/embed", "normalised", inputs=TEXTS, prompt_name="query")
    np.testing.assert_allclose(got, own("normalised").encode(TEXTS, prompt_name="query"), atol=1e-5)
    assert np.abs(got - own("normalised").encode(TEXTS)).max() > 1e-3
    assert refusal(http, "/embed", "normalised", inputs="a", prompt_name="x")[2] == (
        "prompt_name is 'x', the model's prompts are 'query'"
    )


def test_other_dimensions_are_refused(http: httpx.Client) -> None:
    assert len(post(http, "/embed", "plain", inputs="anna", dimensions=HIDDEN)[0]) == HIDDEN
    assert refusal(http, "/embed", "plain", inputs="anna", dimensions=8)[2].startswith("model 'plain': dimensions is 8")


def test_declared_dimensions_are_given(http: httpx.Client) -> None:
    vectors = np.array(post(http, "/embed", "matryoshka", inputs=TEXTS, dimensions=16), np.float32)
    np.testing.assert_allclose(vectors, own("matryoshka").encode(TEXTS, dimensions=16), atol=1e-5)


def test_a_text_is_cut_when_the_request_says_so(http: httpx.Client) -> None:
    got = post(http, "/embed", "plain", inputs=["anna", LONG], truncate=True, normalize=False)
    np.testing.assert_allclose(got, own("plain").encode(["anna", LONG]), atol=1e-5)
    refused = refusal(http, "/embed", "plain", inputs=["anna", LONG])
    assert refused[:2] == (413, "Validation")
    assert refused[2].startswith(f"text 1 has 102 tokens, the model takes {POSITIONS}")
    assert refusal(http, "/embed", "plain", inputs=["anna", LONG], truncate=False)[0] == 413


def test_a_text_is_cut_from_the_models_side_alone(http: httpx.Client) -> None:
    assert post(http, "/embed", "plain", inputs="anna", truncation_direction="Right")
    words = refusal(http, "/embed", "plain", inputs="anna", truncation_direction="Left")[2]
    assert words.startswith("truncation_direction: the model's texts are cut from the right")


def test_labels_of_one_text_of_a_pair_and_of_a_batch(http: httpx.Client) -> None:
    model = own("classify")
    close(post(http, "/predict", "classify", inputs=TEXTS[0]), model.predict(TEXTS[0], top_k=None))
    close(post(http, "/predict", "classify", inputs=list(PAIRS[0])), model.predict(PAIRS[0], top_k=None))
    batch = [[TEXTS[0]], list(PAIRS[1]), [TEXTS[1]]]
    close(post(http, "/predict", "classify", inputs=batch), model.predict([TEXTS[0], PAIRS[1], TEXTS[1]], top_k=None))
    close(post(http, "/predict", "classify", inputs=[TEXTS[0]]), model.predict(TEXTS[:1], top_k=None))


def test_raw_scores_are_logits(http: httpx.Client) -> None:
    close(
        post(http, "/predict", "classify", inputs=TEXTS[0], raw_scores=True),
        own("classify").predict(TEXTS[0], top_k=None, function_to_apply="none"),
    )


def test_a_list_of_strings_that_is_no_pair_is_refused(http: httpx.Client) -> None:
    words = refusal(http, "/predict", "classify", inputs=TEXTS)[2]
    assert words.startswith("inputs: a list of two strings is a pair, and this one has 3")
    assert refusal(http, "/predict", "classify", inputs=[["a", "b", "c"]])[0] == 422


def close(got: Any, expected: Any) -> None:
    """Assert that labels are the same, and scores nearly."""
    if isinstance(expected, list):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            close(one, other)
    elif isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for key, value in expected.items():
            close(got[key], value)
    else:
        assert got == (pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected)


@pytest.mark.parametrize(("raw", "function"), [(False, None), (True, "none")])
def test_texts_are_ranked(http: httpx.Client, raw: bool, function: str | None) -> None:
    got = post(http, "/rerank", "rerank", query="bread", texts=TEXTS, raw_scores=raw, return_text=True)
    ranking = own("rerank").rank("bread", TEXTS, return_documents=True, function_to_apply=function)
    close(got, [{"index": item["corpus_id"], "score": item["score"], "text": item["text"]} for item in ranking])
    assert set(post(http, "/rerank", "rerank", query="bread", texts=TEXTS)[0]) == {"index", "score"}


def test_words_are_tagged(http: httpx.Client) -> None:
    close(post(http, "/tag", "tag", inputs=TEXTS[0], ignore_labels=[]), own("tag").tag(TEXTS[0], ignore_labels=[]))
    close(
        post(http, "/tag", "tag", inputs=TEXTS, aggregation_strategy="simple"),
        own("tag").tag(TEXTS, aggregation_strategy="simple"),
    )


def test_a_question_is_answered_in_windows(http: httpx.Client) -> None:
    context = "anna bought bread in the old city. " * 20
    close(post(http, "/answer", "ask", question="who", context=context), own("ask").answer("who", context))
    options = {"top_k": 2, "max_answer_len": 4, "doc_stride": 8, "max_seq_len": 40}
    close(
        post(http, "/answer", "ask", question="who", context=context, **options),
        own("ask").answer("who", context, **options),
    )
    assert refusal(http, "/answer", "ask", question=" ", context="a")[2] == "question: it is empty"
    assert refusal(http, "/answer", "ask", question="who", context=context, max_seq_len=65)[2].startswith("max_seq_len")
    assert refusal(http, "/answer", "ask", question="who", context=context, top_k=101)[0] == 422


def test_windows_that_the_queue_never_takes_are_not_made(http: httpx.Client) -> None:
    status, kind, words = refusal(
        http, "/answer", "ask", question="who", context="anna " * 6000, max_seq_len=62, doc_stride=57
    )
    assert (status, kind) == (413, "Validation")
    assert words.startswith("the context has 6000 tokens, which are 5943 windows that go 1 tokens ahead each")


def test_many_answers_take_a_time_that_grows_with_their_number() -> None:
    words = np.random.default_rng(0).choice(WORDS, 1000).tolist()
    started = time.perf_counter()
    answers = own("ask").answer("who", " ".join(words), top_k=100_000, max_answer_len=60, align_to_words=False)
    assert len(answers) > 5_000
    assert len({item["answer"].lower() for item in answers}) == len(answers)
    assert time.perf_counter() - started < 5 + 1e-4 * len(answers)  # each compared with each: ten times as long


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (RerankRequest, {"query": "a", "texts": [1] * 1000}),
        (SimilarityRequest, {"inputs": {"source_sentence": "a", "sentences": [1] * 1000}}),
        (TagRequest, {"inputs": "a", "ignore_labels": [1] * 1000}),
    ],
)
def test_a_list_of_wrong_items_is_one_error(kind: type[Body], fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(fields)
    assert caught.value.error_count() == 1


def test_sentences_are_compared(http: httpx.Client) -> None:
    rows = unit(own("plain").encode(TEXTS))
    inputs = {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}
    np.testing.assert_allclose(post(http, "/similarity", "plain", inputs=inputs), rows[1:] @ rows[0], atol=1e-5)


def test_tokens_of_a_text_are_all_there(http: httpx.Client) -> None:
    short, long = post(http, "/tokenize", "plain", inputs=["Anna plays", LONG])
    assert [token["text"] for token in short] == ["[CLS]", "anna", "play", "##s", "[SEP]"]
    assert [(token["start"], token["stop"]) for token in short] == [(None, None), (0, 4), (5, 9), (9, 10), (None, None)]
    assert [token["special"] for token in short] == [True, False, False, False, True]
    assert [token["id"] for token in short] == own("plain").tokenize(["Anna plays"])[0].ids.tolist()
    assert len(long) == 102
    bare = post(http, "/tokenize", "plain", inputs="Anna plays", add_special_tokens=False)
    assert [token["text"] for token in bare[0]] == ["anna", "play", "##s"]
    assert refusal(http, "/tokenize", "plain", inputs="x" * 20000)[0] == 413


def test_ids_are_decoded(http: httpx.Client) -> None:
    ids = own("plain").tokenize(["anna plays", "my train"])
    rows = [item.ids.tolist() for item in ids]
    assert post(http, "/decode", "plain", ids=rows) == ["anna plays", "my train"]
    assert post(http, "/decode", "plain", ids=rows[0], skip_special_tokens=False) == ["[CLS] anna plays [SEP]"]
    assert refusal(http, "/decode", "plain", ids=[-1])[0] == 422
    assert refusal(http, "/decode", "plain", ids=[1 << 40])[0] == 422
    assert refusal(http, "/decode", "plain", ids="a")[2].startswith("ids: ")


def test_info_says_what_a_model_is(http: httpx.Client) -> None:
    about = http.get("/info").json()
    assert about["model_id"] == "plain"
    assert about["model_type"]["embedding"]["pooling"] == "mean"
    assert (about["max_input_length"], about["max_client_batch_size"], about["auto_truncate"]) == (POSITIONS, 8, False)
    labels = http.get("/info", params={"model": "classify"}).json()["model_type"]["classifier"]
    assert labels["id2label"]["0"] == own("classify").labels[0]
    assert list(http.get("/info", params={"model": "rerank"}).json()["model_type"]) == ["reranker"]
    assert list(http.get("/info", params={"model": "tag"}).json()["model_type"]) == ["token_classification"]


def test_the_query_or_a_header_chooses_the_model(http: httpx.Client) -> None:
    by_header = http.get("/info", headers={"X-Model": "tag"}).json()
    assert by_header["model_id"] == "tag"
    answer = http.post("/embed", params={"model": "../model"}, json={"inputs": "anna"})
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("there is no model '../model'; the models are 'plain', 'normalised'")


@pytest.mark.parametrize(
    ("path", "model", "words"),
    [
        ("/embed", "classify", "is for sequence-classification, this needs one for embedding"),
        ("/embed_all", "plain", "one vector a text"),
        ("/rerank", "classify", "this needs one for reranking"),
        ("/predict", "tag", "use /tag"),
        ("/predict", "plain", "this needs one for sequence-classification or reranking"),
        ("/tag", "ask", "this needs one for token-classification"),
        ("/answer", "tag", "this needs one for question-answering"),
    ],
)
def test_a_route_for_another_task_is_told(http: httpx.Client, path: str, model: str, words: str) -> None:
    bodies = {"/rerank": {"query": "a", "texts": ["b"]}, "/answer": {"question": "a", "context": "b"}}
    status, kind, message = refusal(http, path, model, **bodies.get(path, {"inputs": "a"}))
    assert (status, kind) == (424, "Backend")
    assert words in message


@pytest.mark.parametrize(
    ("path", "model", "body"),
    [
        ("/embed", "plain", {"inputs": []}),
        ("/predict", "classify", {"inputs": []}),
        ("/rerank", "rerank", {"query": "a", "texts": []}),
        ("/similarity", "plain", {"inputs": {"source_sentence": "a", "sentences": []}}),
        ("/tokenize", "plain", {"inputs": []}),
    ],
)
def test_an_empty_batch_is_refused(http: httpx.Client, path: str, model: str, body: dict[str, Any]) -> None:
    assert refusal(http, path, model, **body)[:2] == (400, "Empty")


@pytest.mark.parametrize(
    ("path", "model", "body"),
    [
        ("/embed", "plain", {"inputs": ["a"] * 9}),
        ("/predict", "classify", {"inputs": [["a"]] * 9}),
        ("/rerank", "rerank", {"query": "a", "texts": ["a"] * 9}),
        ("/tag", "tag", {"inputs": ["a"] * 9}),
        ("/tokenize", "plain", {"inputs": ["a"] * 9}),
        ("/decode", "plain", {"ids": [[1]] * 9}),
        ("/similarity", "plain", {"inputs": {"source_sentence": "a", "sentences": ["a"] * 9}}),
    ],
)
def test_a_batch_over_the_limit_is_refused(http: httpx.Client, path: str, model: str, body: dict[str, Any]) -> None:
    status, kind, words = refusal(http, path, model, **body)
    assert (status, kind) == (413, "Validation")
    assert "9 texts, one request may have 8" in words


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/embed", b'{"inputs": "\\udfff"}', 400, "the body is no JSON"),
        ("/embed", b"[" * 10_000, 400, "the body is no JSON"),
        ("/embed", b'{"inputs": 1}', 422, "inputs: expected a string or a list of strings, got a number"),
        ("/embed", b'{"inputs": [1, 2]}', 422, "inputs: got token ids"),
        ("/embed", b'{"inputs": "a", "normalize": "yes"}', 422, "normalize: "),
        ("/predict", b'{"inputs": [["a", 1]]}', 422, "inputs[0]: expected a string, or a list of one or two"),
        ("/predict", b'{"inputs": {}}', 422, "inputs: expected a string or a list, got an object"),
        ("/rerank", b'{"query": "a", "texts": "b"}', 422, "texts: "),
        ("/answer", b'{"question": "a"}', 422, "context: field required"),
        ("/tag", b'{"inputs": "a", "aggregation_strategy": "best"}', 422, "aggregation_strategy: "),
        ("/", b"3", 422, "the body: expected an object, got a number"),
    ],
)
def test_odd_bodies_get_one_line(http: httpx.Client, path: str, body: bytes, status: int, words: str) -> None:
    answer = http.post(path, content=body, headers={"X-Model": {"/predict": "classify"}.get(path, "plain")})
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_the_root_answers_as_the_task_asks(http: httpx.Client) -> None:
    assert post(http, "/", "plain", inputs=TEXTS) == post(http, "/embed", "plain", inputs=TEXTS)
    close(post(http, "/", "classify", inputs=TEXTS[0]), own("classify").predict(TEXTS[0], top_k=None))
    ranked = post(http, "/", "rerank", query="bread", texts=TEXTS)
    assert ranked == post(http, "/rerank", "rerank", query="bread", texts=TEXTS)


def inference_client(server: Served, model: str) -> Any:
    hub = pytest.importorskip("huggingface_hub", reason="pip install huggingface_hub")
    return hub.InferenceClient(f"http://{server.http}/?model={model}", token="none")


def test_huggingfaces_client_gets_embeddings(texts_server: Served) -> None:
    client = inference_client(texts_server, "normalised")
    np.testing.assert_allclose(client.feature_extraction(TEXTS), own("normalised").encode(TEXTS), atol=1e-5)
    got = client.feature_extraction(TEXTS[0], prompt_name="query", normalize=True, truncate=True)
    np.testing.assert_allclose(got, own("normalised").encode(TEXTS[:1], prompt_name="query"), atol=1e-5)
    rows = own("normalised").encode(TEXTS)
    np.testing.assert_allclose(client.sentence_similarity(TEXTS[0], TEXTS[1:]), rows[1:] @ rows[0], atol=1e-5)


def test_huggingfaces_client_gets_labels_tags_and_answers(texts_server: Served) -> None:
    labels = inference_client(texts_server, "classify").text_classification(TEXTS[0], top_k=2)
    close([{"label": item.label, "score": item.score} for item in labels], own("classify").predict(TEXTS[0], top_k=2))
    tags = inference_client(texts_server, "tag").token_classification(TEXTS[0], aggregation_strategy="simple")
    expected = own("tag").tag(TEXTS[0], aggregation_strategy="simple")
    assert [(item.entity_group, item.start) for item in tags] == [
        (tag["entity_group"], tag["start"]) for tag in expected
    ]
    answer = inference_client(texts_server, "ask").question_answering(question="who", context=TEXTS[0])
    assert (answer.answer, answer.start) == (own("ask").answer("who", TEXTS[0])["answer"], answer.start)


def test_llamaindex_gets_embeddings(texts_server: Served) -> None:
    llama = pytest.importorskip(
        "llama_index.embeddings.text_embeddings_inference",
        reason="pip install llama-index-embeddings-text-embeddings-inference",
    )
    client = llama.TextEmbeddingsInference(model_name="plain", base_url=f"http://{texts_server.http}")
    got = client.get_text_embedding_batch(TEXTS)
    np.testing.assert_allclose(got, unit(own("plain").encode(TEXTS)), atol=1e-5)


def test_langchains_client_gets_embeddings(texts_server: Served) -> None:
    langchain = pytest.importorskip("langchain_huggingface", reason="pip install langchain-huggingface")
    client = langchain.HuggingFaceEndpointEmbeddings(huggingfacehub_api_token="none")
    client.client = inference_client(texts_server, "plain")  # its `model` takes no URL
    np.testing.assert_allclose(client.embed_documents(TEXTS), unit(own("plain").encode(TEXTS)), atol=1e-5)

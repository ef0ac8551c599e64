"""``/v2`` over HTTP: Triton's own client, unmodified, and bodies as other programs write them."""

from __future__ import annotations

import asyncio
import gzip
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from poprt.serve.options import ServeOptions
from poprt.text import TextModel
from tests.numerics import one_by_one
from tests.serve.v2_models import (
    Served,
    arrays_model,
    encoder,
    names_of_arrays,
    original,
    padded,
    server,
    text_model,
)
from tests.serve.v2_requests import error_of, json_texts, output_of
from tests.text_folders import HIDDEN

#: Triton's client closes itself again when it is collected, in whatever thread that happens.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

TEXTS = ["why is my bread dense", "the train was cancelled", "anna", ""]
VECTORS = "sentence_embedding"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    models = {
        "embed": text_model("embed"),
        "classify": text_model("classify"),
        "tag": text_model("tag"),
        "ask": text_model("ask"),
        "packed": arrays_model(packed=True),
        "half": arrays_model(packed=True, precision="fp16"),
        "plain": arrays_model(packed=False),
    }
    with server(models) as running:
        yield running


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    with httpx.Client(base_url=f"http://{served.http}/v2", timeout=30) as running:
        yield running


@pytest.fixture
def triton(served: Served) -> Iterator[Any]:
    module = pytest.importorskip("tritonclient.http", reason="pip install 'tritonclient[http]'")
    with module.InferenceServerClient(served.http) as running:
        yield running


def vectors(texts: list[str]) -> np.ndarray:
    return encoder().encode(texts)


def text_input(texts: list[str], *, binary: bool = True, column: bool = False, name: str = "text") -> Any:
    from tritonclient.http import InferInput

    array = np.array([text.encode() for text in texts], object).reshape((-1, 1) if column else (-1,))
    item = InferInput(name, list(array.shape), "BYTES")
    return item.set_data_from_numpy(array, binary_data=binary)


def array_inputs(arrays: dict[str, np.ndarray], *, binary: bool = True) -> list[Any]:
    from tritonclient.http import InferInput

    names = {"int64": "INT64", "int32": "INT32"}
    return [
        InferInput(name, list(array.shape), names[array.dtype.name]).set_data_from_numpy(array, binary_data=binary)
        for name, array in arrays.items()
    ]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("column", [True, False])
def test_triton_gets_the_vectors_of_encode(triton: Any, binary_in: bool, binary_out: bool, column: bool) -> None:
    from tritonclient.http import InferRequestedOutput

    outputs = [InferRequestedOutput(VECTORS, binary_data=binary_out)]
    result = triton.infer(
        "embed", [text_input(TEXTS, binary=binary_in, column=column)], outputs=outputs, request_id="seven"
    )
    array = result.as_numpy(VECTORS)
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, vectors(TEXTS), atol=1e-5)
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("seven", "embed", "1")


def test_triton_that_names_no_outputs_gets_all_in_binary_form(triton: Any) -> None:
    result = triton.infer("embed", [text_input(TEXTS)])
    np.testing.assert_allclose(result.as_numpy(VECTORS), vectors(TEXTS), atol=1e-5)
    assert "binary_data_size" in result.get_output(VECTORS)["parameters"]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_triton_compresses_both_ways(triton: Any, coding: str) -> None:
    result = triton.infer(
        "embed",
        [text_input(TEXTS)],
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    np.testing.assert_allclose(result.as_numpy(VECTORS), vectors(TEXTS), atol=1e-5)


def test_an_answer_is_compressed_where_one_coding_is_asked_for(client: Any) -> None:
    body = json_texts(TEXTS * 8)
    for accepted, coding in (("gzip", "gzip"), ("deflate", "deflate"), ("gzip, deflate", None), ("identity", None)):
        response = client.post("/models/embed/infer", json=body, headers={"Accept-Encoding": accepted})
        assert response.headers.get("content-encoding") == coding
        assert output_of(response, VECTORS).shape == (32, HIDDEN)


def test_a_large_answer_is_compressed_too(client: Any) -> None:
    arrays = padded([30] * 32, 32)
    inputs = [{"name": n, "datatype": "INT64", "shape": list(a.shape), "data": a.tolist()} for n, a in arrays.items()]
    response = client.post("/models/packed/infer", json={"inputs": inputs}, headers={"Accept-Encoding": "gzip"})
    assert int(response.headers["content-length"]) > 64 << 10
    assert response.json()["outputs"][0]["shape"][:2] == [32, 32]


def test_the_aio_client_and_many_at_once(served: Served) -> None:
    aio = pytest.importorskip("tritonclient.http.aio", reason="pip install 'tritonclient[http]'")

    async def ask() -> list[Any]:
        async with aio.InferenceServerClient(served.http) as running:
            calls = [running.infer("embed", [text_input([text] * 3)]) for text in TEXTS * 5]
            return [result.as_numpy(VECTORS) for result in await asyncio.gather(*calls)]

    for text, array in zip(TEXTS * 5, asyncio.run(ask()), strict=True):
        np.testing.assert_allclose(array, vectors([text] * 3), atol=1e-5)


def test_triton_reads_what_the_server_says_of_itself(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("embed")
    assert triton.is_model_ready("embed", "1")
    assert not triton.is_model_ready("embed", "2")
    assert not triton.is_model_ready("other")
    about = triton.get_server_metadata()
    assert about["name"] == "poprt"
    assert "binary_tensor_data" in about["extensions"]
    index = triton.get_model_repository_index()
    assert [item["name"] for item in index] == ["embed", "classify", "tag", "ask", "packed", "half", "plain"]
    assert {item["state"] for item in index} == {"READY"}


def test_metadata_lists_texts_and_token_ids(triton: Any) -> None:
    about = triton.get_model_metadata("embed")
    shapes = {item["name"]: (item["datatype"], item["shape"]) for item in about["inputs"]}
    assert shapes["text"] == ("BYTES", [-1])
    assert shapes["input_ids"] == ("INT32", [-1, -1])
    assert about["outputs"] == [{"name": VECTORS, "datatype": "FP32", "shape": [-1, HIDDEN]}]
    assert (about["versions"], about["platform"]) == (["1"], "poprt_popef")
    assert triton.get_model_metadata("embed", "1") == about
    assert [item["name"] for item in triton.get_model_metadata("ask")["inputs"]][:2] == ["question", "context"]
    packed = triton.get_model_metadata("packed")
    assert [item["name"] for item in packed["inputs"]] == names_of_arrays()
    assert [item["shape"] for item in packed["outputs"]] == [[-1, -1, HIDDEN]]


def test_the_configuration_says_what_metadata_says(triton: Any) -> None:
    config = triton.get_model_config("classify")
    about = triton.get_model_metadata("classify")
    assert [item["dims"] for item in config["input"]] == [item["shape"] for item in about["inputs"]]
    assert config["input"][0] == {"name": "text", "data_type": "TYPE_STRING", "dims": [-1], "optional": True}
    assert config["parameters"]["task"] == {"string_value": "sequence-classification"}


def test_statistics_count_what_was_answered_and_what_was_not(triton: Any) -> None:
    before = triton.get_inference_statistics("tag")["model_stats"][0]
    triton.infer("tag", [text_input(["anna bought bread", "berlin"])])
    with pytest.raises(Exception, match="unknown input 'other'"):
        triton.infer("tag", [text_input(["anna"], name="other")])
    (after,) = triton.get_inference_statistics("tag")["model_stats"]
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] > before["execution_count"]
    stats, former = after["inference_stats"], before["inference_stats"]
    assert stats["success"]["count"] - former["success"]["count"] == 1
    assert stats["fail"]["count"] - former["fail"]["count"] == 1
    assert stats["success"]["ns"] > former["success"]["ns"]
    assert after["last_inference"] > 0
    everything = triton.get_inference_statistics()["model_stats"]
    assert len(everything) == 7


def test_token_ids_of_a_text_model_give_the_same_vectors(triton: Any) -> None:
    tokens = encoder().tokenize(TEXTS)
    width = max(map(len, tokens)) + 3
    arrays = {name: np.zeros((len(tokens), width), np.int64) for name in ("input_ids", "attention_mask")}
    for row, item in enumerate(tokens):
        arrays["input_ids"][row, : len(item)] = item.ids
        arrays["attention_mask"][row, : len(item)] = 1
    arrays["token_type_ids"] = np.zeros_like(arrays["input_ids"])
    result = triton.infer("embed", array_inputs(arrays))
    np.testing.assert_allclose(result.as_numpy(VECTORS), vectors(TEXTS), atol=1e-5)


@pytest.mark.parametrize("binary", [True, False])
def test_padded_rows_are_answered_each_by_itself(triton: Any, binary: bool) -> None:
    lengths, width = [5, 20, 1, 13], 24
    arrays = padded(lengths, width)
    result = triton.infer("packed", array_inputs(arrays, binary=binary))
    (name,) = [item["name"] for item in triton.get_model_metadata("packed")["outputs"]]
    array = result.as_numpy(name)
    assert array.shape == (4, width, HIDDEN)
    samples = [{key: value[row, :n] for key, value in arrays.items()} for row, n in enumerate(lengths)]
    for row, length, alone in zip(array, lengths, one_by_one(original(), samples), strict=True):
        np.testing.assert_allclose(row[:length], alone[name], atol=1e-5)
        assert not row[length:].any()


def test_a_mask_with_holes_goes_to_the_model_as_it_is(triton: Any) -> None:
    arrays = padded([10], 12)
    arrays["attention_mask"][0, [0, 4]] = 0
    (name,) = [item["name"] for item in triton.get_model_metadata("packed")["outputs"]]
    array = triton.infer("packed", array_inputs(arrays)).as_numpy(name)
    (alone,) = one_by_one(original(), [{key: value[0, :10] for key, value in arrays.items()}])
    np.testing.assert_allclose(array[0, 5:10], alone[name][5:10], atol=1e-5)


def test_a_model_that_is_not_packed_takes_its_arrays(triton: Any) -> None:
    about = triton.get_model_metadata("plain")
    arrays = padded([32, 32, 32], 32, np.int64)
    (name,) = [item["name"] for item in about["outputs"]]
    array = triton.infer("plain", array_inputs(arrays)).as_numpy(name)
    samples = [{key: value[row] for key, value in arrays.items()} for row in range(3)]
    for row, alone in zip(array, one_by_one(original(), samples), strict=True):
        np.testing.assert_allclose(row, alone[name], atol=1e-5)


def test_half_precision_comes_in_binary_form_and_json_is_told_so(triton: Any, client: Any) -> None:
    about = triton.get_model_metadata("half")
    (output,) = about["outputs"]
    arrays = padded([5], 8)
    if output["datatype"] != "FP16":
        pytest.skip("the converter keeps outputs in float32")
    assert triton.infer("half", array_inputs(arrays)).as_numpy(output["name"]).dtype == np.float16
    inputs = [{"name": n, "datatype": "INT64", "shape": list(a.shape), "data": a.tolist()} for n, a in arrays.items()]
    assert "FP16" in error_of(client.post("/models/half/infer", json={"inputs": inputs}))


def test_pairs_and_scores(triton: Any, client: Any) -> None:
    with TextModel(text_model("classify")) as model:
        expected = model.predict([("anna", "the bank"), ("berlin", "paris")], top_k=None)
    inputs = [text_input(["anna", "berlin"]), text_input(["the bank", "paris"], name="text_pair")]
    scores = triton.infer("classify", inputs).as_numpy("scores")
    for row, labels in zip(scores, expected, strict=True):
        np.testing.assert_allclose(sorted(row)[::-1], [item["score"] for item in labels], atol=1e-5)
    logits = output_of(client.post("/models/classify/infer", json=json_texts(["anna"])), "logits")
    assert logits.shape == (1, 3)


def test_questions_with_their_contexts(client: Any) -> None:
    body = json_texts(["who", "why"], "question")
    body["inputs"] += json_texts(["anna sold bread", "the train was slow in berlin"], "context")["inputs"]
    start = output_of(client.post("/models/ask/infer", json=body), "start_logits")
    assert start.ndim == 2
    assert not start[0, -1]  # the first is shorter: zeros behind it
    assert start[1, -1]


@pytest.mark.parametrize("name", ["embed", "classify", "tag", "ask"])
def test_no_texts_give_no_rows(client: Any, name: str) -> None:
    names = ["question", "context"] if name == "ask" else ["text"]
    body = {"inputs": [item for key in names for item in json_texts([], key)["inputs"]]}
    response = client.post(f"/models/{name}/infer", json=body)
    assert response.status_code == 200
    assert all(output["shape"][0] == 0 and output["data"] == [] for output in response.json()["outputs"])


def test_triton_sends_and_gets_empty_arrays(triton: Any) -> None:
    result = triton.infer("packed", array_inputs({name: array[:0] for name, array in padded([1], 8).items()}))
    (output,) = result.get_response()["outputs"]
    assert result.as_numpy(output["name"]).shape[0] == 0


def test_a_version_in_the_path_is_checked(client: Any) -> None:
    assert client.post("/models/embed/versions/1/infer", json=json_texts(["anna"])).status_code == 200
    response = client.post("/models/embed/versions/9/infer", json=json_texts(["anna"]))
    assert (response.status_code, "version '1', not '9'" in error_of(response)) == (404, True)
    response = client.get("/models/other")
    assert response.status_code == 404
    assert "embed" in error_of(response)


def test_a_body_without_a_content_type_or_with_a_wrong_one_is_read(client: Any) -> None:
    data = orjson.dumps(json_texts(["anna"]))
    for headers in ({}, {"Content-Type": "text/plain"}):
        response = client.post("/models/embed/infer", content=data, headers=headers)
        np.testing.assert_allclose(output_of(response, VECTORS), vectors(["anna"]), atol=1e-5)


def test_binary_bodies_count_bytes_before_compression(client: Any) -> None:
    text = struct.pack("<I", 4) + b"anna"
    head = orjson.dumps(
        {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 8}}]}
    )
    headers = {"Content-Encoding": "gzip", "Inference-Header-Content-Length": str(len(head))}
    response = client.post("/models/embed/infer", content=gzip.compress(head + text), headers=headers)
    np.testing.assert_allclose(output_of(response, VECTORS), vectors(["anna"]), atol=1e-5)


def test_a_text_is_truncated_where_the_request_says_so(client: Any) -> None:
    text = "the bank " * 100
    response = client.post("/models/embed/infer", json=json_texts([text], parameters={"truncate": True}))
    np.testing.assert_allclose(output_of(response, VECTORS), vectors([text]), atol=1e-5)


def test_a_prompt_goes_before_the_texts(client: Any) -> None:
    response = client.post("/models/embed/infer", json=json_texts(["train"], parameters={"prompt_name": "query"}))
    np.testing.assert_allclose(output_of(response, VECTORS), vectors(["how my train"]), atol=1e-5)


def test_a_timeout_of_the_request_counts(client: Any) -> None:
    response = client.post("/models/embed/infer", json=json_texts(TEXTS, parameters={"timeout": 1}))
    assert response.status_code == 504
    assert "in time" in error_of(response)


def test_what_other_servers_have_is_refused_in_words_that_triton_reads(triton: Any) -> None:
    calls = {
        "shared memory": lambda: triton.register_system_shared_memory("region", "/key", 8),
        "not loaded later": lambda: triton.load_model("embed"),
        "not unloaded later": lambda: triton.unload_model("embed"),
        "traces": lambda: triton.get_trace_settings(),
        "logging": lambda: triton.get_log_settings(),
    }
    for message, call in calls.items():
        with pytest.raises(Exception, match=message):
            call()


def test_the_index_may_be_asked_for_ready_models_alone(client: Any) -> None:
    for body in ({"content": b""}, {"json": {"ready": True}}, {"json": {}}):
        assert len(client.post("/repository/index", **body).json()) == 7
    assert "'ready'" in error_of(client.post("/repository/index", json={"ready": 1}))


def test_a_server_that_drains_is_not_ready() -> None:
    with server({"embed": text_model("embed")}, ServeOptions()) as running, httpx.Client() as client:
        running.state.draining = True
        for path in ("health/ready", "models/embed/ready"):
            assert client.get(f"http://{running.http}/v2/{path}").status_code == 503
        assert client.get(f"http://{running.http}/v2/health/live").status_code == 200

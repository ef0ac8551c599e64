"""``/v2`` over HTTP: requests that are wrong are told what is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.serve.v2_models import arrays_model, names_of_arrays, padded, server, text_model
from tests.serve.v2_requests import error_of, json_texts


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    models = {name: text_model(name) for name in ("embed", "classify", "ask")}
    with (
        server({**models, "packed": arrays_model(packed=True)}) as running,
        httpx.Client(base_url=f"http://{running.http}/v2", timeout=30) as asking,
    ):
        yield asking


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown input": ("embed", json_texts(["a"], "txet"), "unknown input 'txet': the model has text"),
    "no input": ("embed", {"inputs": []}, "missing input"),
    "half a pair": ("ask", json_texts(["a"], "question"), "missing input 'context'"),
    "unknown output": ("embed", json_texts(["a"], outputs=[{"name": "x"}]), "unknown output 'x'"),
    "texts and ids": (
        "embed",
        {
            "inputs": json_texts(["a"])["inputs"]
            + [{"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": [5]}]
        },
        "'input_ids' does not go with text",
    ),
    "datatype": (
        "embed",
        {"inputs": [{"name": "text", "datatype": "INT64", "shape": [1], "data": [5]}]},
        "'text' is INT64, the model takes BYTES",
    ),
    "rank": (
        "packed",
        {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1], "data": [5]}]},
        r"'input_ids'.*\[1\], expected \[-1, -1\]",
    ),
    "texts of two axes": (
        "embed",
        {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "b"]}]},
        "'text'.*shape",
    ),
    "numbers of samples": (
        "classify",
        {"inputs": json_texts(["a"])["inputs"] + json_texts(["a", "b"], "text_pair")["inputs"]},
        "'text' has 1, 'text_pair' has 2",
    ),
    "too many": ("embed", json_texts(["a"] * 33), "33 samples, at most 32"),
    "too long": ("embed", json_texts(["a " * 500]), "text 0.*64"),
    "prompt": ("embed", json_texts(["a"], parameters={"prompt_name": "x"}), "prompt_name is 'x'"),
    "prompt of a classifier": ("classify", json_texts(["a"], parameters={"prompt_name": "x"}), "embeddings"),
    "shared memory": (
        "embed",
        {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"shared_memory_region": "r"}}]},
        "shared memory",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_request_is_told_what_is_wrong(client: Any, name: str) -> None:
    model, body, message = WRONG[name]
    response = client.post(f"/models/{model}/infer", json=body)
    assert response.status_code == 400
    assert re.search(message, error_of(response)), response.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_mask": np.zeros((1, 4), np.int64)}, "'attention_mask': row 0 leaves out every token"),
        ({"input_ids": np.full((1, 4), 10**6)}, "'input_ids'.*1000000"),
        ({"input_ids": np.ones((1, 5), np.int64)}, "'input_ids'"),
        ({"attention_mask": np.ones((2, 4), np.int64)}, "number of samples"),
    ],
)
def test_wrong_arrays_are_told_which(client: Any, change: dict[str, np.ndarray], message: str) -> None:
    arrays = {**padded([4], 4), **change}
    inputs = [{"name": n, "datatype": "INT64", "shape": list(a.shape), "data": a.tolist()} for n, a in arrays.items()]
    response = client.post("/models/packed/infer", json={"inputs": inputs})
    assert response.status_code == 400
    assert re.search(message, error_of(response)), response.text


def test_samples_that_are_too_long_or_have_no_tokens_are_refused(client: Any) -> None:
    for shape, message in (([1, 40], "at most 32"), ([3, 0], "without a token")):
        data = [1] * (shape[0] * shape[1])
        inputs = [{"name": n, "datatype": "INT64", "shape": shape, "data": data} for n in names_of_arrays()]
        response = client.post("/models/packed/infer", json={"inputs": inputs})
        assert (response.status_code, message in error_of(response)) == (400, True), response.text

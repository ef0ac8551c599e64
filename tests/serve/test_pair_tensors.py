"""Inputs of pairs of places over ``/v2``: rows that are padded on both axes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from poprt.runtime import PackRunner, PackRunnerConfig
from poprt.serve.tensors import run_arrays
from tests.numerics import Arrays, padded
from tests.poprt.runtime.pair_models import CASES, HEADS, HIDDEN, KINDS, encoder, executable, samples
from tests.poprt.runtime.test_vector_tokens import alone
from tests.serve.v2_models import Served, server

MODELS = {"heads": "a bias a head", "distances": "distances", "relations": "relations", "mean": "a mean over keys"}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with server({name: executable(case) for name, case in MODELS.items()}) as running:
        yield running


def batch_of(name: str, batch: list[Arrays], behind: int = 0) -> Arrays:
    """Rows filled up with zeros, those of pairs with ``behind`` on both axes."""
    arrays = padded([{key: sample[key] for key in ("ids", "mask")} for sample in batch])
    case, width = CASES[name], arrays["ids"].shape[1]
    arrays["pairs"] = np.full((len(batch), *case.shape(width)), behind, batch[0]["pairs"].dtype)
    for row, sample in zip(arrays["pairs"], batch, strict=True):
        row[tuple(map(slice, sample["pairs"].shape))] = sample["pairs"]
    return arrays


def infer(served: Served, model: str, arrays: Arrays) -> Any:
    types = {name: "FP32" if array.dtype.kind == "f" else "INT32" for name, array in arrays.items()}
    inputs = [
        {"name": name, "shape": list(array.shape), "datatype": types[name], "data": array.reshape(-1).tolist()}
        for name, array in arrays.items()
    ]
    return httpx.post(f"http://{served.http}/v2/models/{model}/infer", json={"inputs": inputs}, timeout=60)


@pytest.mark.parametrize("behind", [0, 99])
@pytest.mark.parametrize("model", MODELS)
def test_rows_are_cut_to_each_sample_and_answered_as_alone(served: Served, model: str, behind: int) -> None:
    lengths, name = [5, 9, 1, 12], MODELS[model]
    batch = samples(name, lengths)
    response = infer(served, model, batch_of(name, batch, behind))
    assert response.status_code == 200, response.text
    outputs = {item["name"]: np.reshape(item["data"], item["shape"]) for item in response.json()["outputs"]}
    assert outputs["hidden"].shape == (4, 12, HIDDEN)
    for row, want in enumerate(alone(encoder(name), batch)):
        np.testing.assert_allclose(outputs["hidden"][row, : lengths[row]], want["hidden"], atol=1e-5, rtol=1e-5)
        assert not outputs["hidden"][row, lengths[row] :].any()
        np.testing.assert_allclose(outputs["pooled"][row], want["pooled"], atol=1e-5, rtol=1e-5)


def test_the_metadata_say_which_extents_the_request_chooses(served: Served) -> None:
    shapes = {}
    for model in MODELS:
        said = httpx.get(f"http://{served.http}/v2/models/{model}", timeout=30).json()
        shapes[model] = next(item["shape"] for item in said["inputs"] if item["name"] == "pairs")
    square = [-1, -1, -1]
    expected = {"heads": [-1, HEADS, -1, -1], "distances": square, "relations": [*square, KINDS], "mean": square}
    assert shapes == expected


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        ("heads", (2, 3, 5, 5), "[-1, 2, -1, -1]"),
        ("heads", (2, 5, 5), "[-1, 2, -1, -1]"),
        ("heads", (2, HEADS, 5, 4), "input 'pairs': expected [2, 2, 5, 5], a value for each pair of a row's 5 tokens"),
        ("distances", (2, 6, 6), "got shape [2, 6, 6]"),
        ("distances", (3, 5, 5), "'ids' has 2, 'mask' has 2, 'pairs' has 3"),
    ],
)
def test_a_tensor_of_other_extents_is_refused_by_name(
    served: Served, model: str, shape: tuple[int, ...], expected: str
) -> None:
    arrays = batch_of(MODELS[model], samples(MODELS[model], [5, 5]))
    response = infer(served, model, {**arrays, "pairs": np.zeros(shape, arrays["pairs"].dtype)})
    assert response.status_code == 400
    assert "'pairs'" in response.text
    assert expected in response.text


def test_missing_pairs_are_named(served: Served) -> None:
    arrays = batch_of("distances", samples("distances", [5, 5]))
    del arrays["pairs"]
    response = infer(served, "distances", arrays)
    assert response.status_code == 400
    assert "missing input 'pairs'" in response.text


def test_one_sample_without_a_batch_axis() -> None:
    (sample,) = samples("a bias", [7])
    with PackRunner(executable("a bias"), PackRunnerConfig(token_budget=64), threads=1) as runner:
        outputs, _ = asyncio.run(run_arrays(runner, sample))
    (want,) = alone(encoder("a bias"), [sample])
    np.testing.assert_allclose(outputs["hidden"][0], want["hidden"], atol=1e-5, rtol=1e-5)

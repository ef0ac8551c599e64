"""Tokens that are arrays, rows of samples and values of runs over ``/v2``."""

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
from tests.poprt.runtime.test_vector_tokens import alone
from tests.poprt.runtime.vector_models import (
    HIDDEN,
    encoder,
    executable,
    whole_executable,
    whole_samples,
    with_whole_inputs,
)
from tests.poprt.runtime.vector_models import samples as token_samples
from tests.serve.v2_models import Served, server

DATATYPES = {"ids": "INT32", "mask": "INT32", "boxes": "INT32", "user": "FP32", "scale": "FP32"}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    models = {"tokens": executable("across_rows"), "rows": executable("within_rows")}
    with server({**models, "whole": whole_executable("across_rows")}) as running:
        yield running


def batch_of(batch: list[Arrays]) -> Arrays:
    """Rows filled up with zeros; rows of samples and values of the run as they are."""
    tokens = [{name: sample[name] for name in ("ids", "mask")} for sample in batch]
    arrays = padded(tokens)
    width = arrays["ids"].shape[1]
    boxes = [np.pad(sample["boxes"], [(0, width - len(sample["boxes"])), (0, 0), (0, 0)]) for sample in batch]
    arrays["boxes"] = np.stack(boxes)
    if "user" in batch[0]:
        arrays |= {"user": np.stack([sample["user"] for sample in batch]), "scale": batch[0]["scale"]}
    return arrays


def infer(served: Served, model: str, arrays: Arrays) -> Any:
    inputs = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": DATATYPES[name],
            "data": array.reshape(-1).tolist(),
        }
        for name, array in arrays.items()
    ]
    return httpx.post(f"http://{served.http}/v2/models/{model}/infer", json={"inputs": inputs}, timeout=60)


@pytest.mark.parametrize("model", ["tokens", "rows", "whole"])
def test_rows_of_a_batch_are_answered_as_each_alone(served: Served, model: str) -> None:
    lengths = [5, 9, 1, 12]
    batch = whole_samples(lengths, scales=[2.0]) if model == "whole" else token_samples(lengths)
    response = infer(served, model, batch_of(batch))
    assert response.status_code == 200, response.text
    outputs = {item["name"]: np.reshape(item["data"], item["shape"]) for item in response.json()["outputs"]}
    original = with_whole_inputs(encoder(), "batch") if model == "whole" else encoder()
    assert outputs["hidden"].shape == (4, 12, HIDDEN)
    for row, want in enumerate(alone(original, batch, ["scale"])):
        np.testing.assert_allclose(outputs["hidden"][row, : lengths[row]], want["hidden"], atol=1e-5, rtol=1e-5)
        assert not outputs["hidden"][row, lengths[row] :].any()
        if "pooled" in outputs:
            np.testing.assert_allclose(outputs["pooled"][row], want["pooled"], atol=1e-5, rtol=1e-5)


def test_the_metadata_say_what_a_token_and_a_sample_hold(served: Served) -> None:
    said = httpx.get(f"http://{served.http}/v2/models/whole", timeout=30).json()
    shapes = {item["name"]: item["shape"] for item in said["inputs"]}
    assert shapes == {"ids": [-1, -1], "mask": [-1, -1], "boxes": [-1, -1, 2, 3], "user": [-1, HIDDEN], "scale": []}


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [("boxes", (2, 5, 2, 4), "[-1, -1, 2, 3]"), ("boxes", (2, 5, 6), "[-1, -1, 2, 3]"), ("user", (2, 7), "[-1, 8]")],
)
def test_a_tensor_of_other_extents_is_refused_by_name(
    served: Served, name: str, shape: tuple[int, ...], expected: str
) -> None:
    arrays = batch_of(whole_samples([5, 5], scales=[1.0]))
    response = infer(served, "whole", {**arrays, name: np.zeros(shape, arrays[name].dtype)})
    assert response.status_code == 400
    assert f"input {name!r}" in response.text
    assert expected in response.text


def test_a_missing_row_of_samples_is_named(served: Served) -> None:
    arrays = batch_of(whole_samples([5, 5], scales=[1.0]))
    del arrays["user"]
    response = infer(served, "whole", arrays)
    assert response.status_code == 400
    assert "missing input 'user'" in response.text


def test_one_sample_without_a_batch_axis() -> None:
    (sample,) = whole_samples([7])
    with PackRunner(whole_executable("across_rows"), PackRunnerConfig(token_budget=64), threads=1) as runner:
        outputs, _ = asyncio.run(run_arrays(runner, sample))
    (want,) = alone(with_whole_inputs(encoder(), "batch"), [sample], ["scale"])
    np.testing.assert_allclose(outputs["hidden"][0], want["hidden"], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(outputs["pooled"][0], want["pooled"], atol=1e-5, rtol=1e-5)

"""Arrays of a request as samples of a runner, and as rows again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from poprt.errors import InputError, QueueFullError
from poprt.runtime import PackRunnerConfig, Runner, RuntimeConfig
from poprt.runtime.buffers import stacked
from poprt.serve.tensors import run_arrays
from tests.numerics import one_by_one
from tests.serve.v2_models import SOON, arrays_model, original, padded
from tests.text_folders import HIDDEN


@pytest.fixture(scope="module")
def runner() -> Iterator[Any]:
    with Runner(arrays_model(packed=True), PackRunnerConfig(token_budget=256, queue_limit=8)) as running:
        yield running


def run(runner: Any, arrays: dict[str, np.ndarray], outputs: list[str] | None = None) -> dict[str, np.ndarray]:
    return asyncio.run(run_arrays(runner, arrays, outputs))[0]


def output_name(runner: Any) -> str:
    return str(runner.executable.outputs[0].name)


def test_one_sample_without_a_batch_axis(runner: Any) -> None:
    arrays = {name: array[0] for name, array in padded([7], 9).items()}
    (array,) = run(runner, arrays).values()
    (alone,) = one_by_one(original(), [{name: value[:7] for name, value in arrays.items()}])
    np.testing.assert_allclose(array[0, :7], alone[output_name(runner)], atol=1e-5)
    assert array.shape == (1, 9, HIDDEN)
    assert not array[0, 7:].any()


def test_rows_that_are_padding_for_the_most_part_are_refused(runner: Any) -> None:
    longest = runner.executable.packing.width
    assert run(runner, padded([3], 4 * longest))[output_name(runner)].shape == (1, 4 * longest, HIDDEN)
    with pytest.raises(InputError, match=f"rows of {4 * longest + 1} tokens, and the longest sample of the model has"):
        run(runner, padded([3], 4 * longest + 1))


def test_no_samples_give_no_rows(runner: Any) -> None:
    (array,) = run(runner, {name: array[:0] for name, array in padded([1], 9).items()}).values()
    assert array.shape == (0, 9, HIDDEN)


def test_the_wait_in_the_queue_is_told(runner: Any) -> None:
    _, queued = asyncio.run(run_arrays(runner, padded([3, 5], 6)))
    assert 0 < queued < SOON
    _, queued = asyncio.run(run_arrays(runner, {name: array[:0] for name, array in padded([1], 9).items()}))
    assert queued == 0


def test_only_the_outputs_that_are_asked_for_are_returned(runner: Any) -> None:
    assert run(runner, padded([3], 4), []) == {}


def test_a_wrong_sample_takes_the_others_with_it(runner: Any) -> None:
    arrays = padded([3, 3, 3], 4)
    arrays["input_ids"][1, 0] = 10**6
    with pytest.raises(InputError, match=r"sample 1: input 'input_ids': the value 1000000"):
        run(runner, arrays)
    assert runner.pending().requests == 0


def test_more_samples_than_the_queue_takes_are_refused_at_once(runner: Any) -> None:
    with pytest.raises(QueueFullError):
        run(runner, padded([3] * 9, 4))


def test_inputs_of_two_shapes_are_refused(runner: Any) -> None:
    arrays = padded([3], 4)
    arrays["attention_mask"] = np.ones((1, 5), np.int64)
    with pytest.raises(InputError, match=r"'input_ids' has shape \[1, 4\], 'attention_mask' \[1, 5\]"):
        run(runner, arrays)


def test_an_output_whose_shape_the_model_leaves_open_is_refused_by_name() -> None:
    executable = arrays_model(packed=False)
    spec = executable.manifest.outputs[0]
    opened = replace(spec, shape=(spec.shape[0], 0, *spec.shape[2:]))
    manifest = replace(executable.manifest, outputs=(opened,))

    class Stub:
        """Says what a runner says of its executable."""

        def __init__(self) -> None:
            weights = {item.name: executable.weight(item.name) for item in manifest.weights}
            self.executable = type(executable).build(manifest, executable.graph, weights)

    with pytest.raises(InputError, match=f"{spec.name!r}: the model leaves its shape open"):
        run(Stub(), padded([32] * 3, 32))


def test_any_number_of_rows_of_a_model_that_is_not_packed() -> None:
    arrays = padded([32, 32], 32)
    with Runner(arrays_model(packed=False), RuntimeConfig(batching_dim=0)) as plain:
        (array,) = run(plain, arrays).values()
    for row, alone in zip(
        array, one_by_one(original(), [{n: a[i] for n, a in arrays.items()} for i in range(2)]), strict=True
    ):
        np.testing.assert_allclose(row, next(iter(alone.values())), atol=1e-5)


def test_rows_of_one_number_are_stacked_too() -> None:
    rows = [np.array(2, np.float32), np.array(3, np.float32)]
    np.testing.assert_array_equal(stacked(rows, (), np.float32), [2, 3])

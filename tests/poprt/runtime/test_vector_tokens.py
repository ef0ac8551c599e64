"""Tokens that are arrays, and inputs of samples and of runs, over real executables, judged by each sample alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from poprt.errors import InputError
from poprt.executable import Executable
from poprt.runtime import DeclaredSession, PackRunner, PackRunnerConfig, pack_data
from tests.numerics import Arrays, run, session
from tests.poprt.runtime.vector_models import (
    BOX,
    COLUMNS,
    HIDDEN,
    LAYOUTS,
    MOST,
    ROWS,
    encoder,
    executable,
    samples,
    whole_executable,
    whole_samples,
    with_whole_inputs,
)

THREADS = 14
TOLERANCE = 1e-5
UNPACKED = ("across_rows", "fixed_extents", "within_rows_unpacked")


def alone(model: Any, batch: Sequence[Arrays], whole: Sequence[str] = ()) -> list[Arrays]:
    """The reference: each sample as a batch of one, unpadded; ``whole`` are inputs without a batch axis."""
    engine = session(model)
    feeds = [{name: value if name in whole else value[None] for name, value in sample.items()} for sample in batch]
    return [{name: array[0] for name, array in run(engine, one).items()} for one in feeds]


def served(runner: PackRunner, sample: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
    outputs = {d.name: np.full(_room(d.name, d.shape), 9, d.numpy_data_type()) for d in runner.get_execute_outputs()}
    runner.execute(sample, outputs)
    return outputs


def _room(name: str, shape: Sequence[int] | None) -> list[int]:
    return [HIDDEN] if name == "pooled" else [COLUMNS, *(shape or ())[2:]]


def assert_answers(got: Arrays, want: Arrays) -> None:
    for name, values in got.items():
        size = want[name].size
        np.testing.assert_allclose(values.reshape(-1)[:size], want[name].reshape(-1), atol=TOLERANCE, rtol=TOLERANCE)
        assert not values.reshape(-1)[size:].any()


def assert_served(compiled: Executable, batch: Sequence[Arrays], want: Sequence[Arrays]) -> None:
    with PackRunner(compiled, PackRunnerConfig(), threads=1) as runner, ThreadPoolExecutor(THREADS) as pool:
        for got, expected in zip(pool.map(lambda sample: served(runner, sample), batch), want, strict=True):
            assert_answers(got, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_of_many_threads_gets_what_the_original_gives_for_its_sample_alone(layout: str) -> None:
    assert_served(executable(layout), samples() * 3, alone(encoder(), samples()) * 3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_neighbours_change_nothing(layout: str) -> None:
    (first,), *others = samples([9]), samples([9, 5, 12, 3], seed=5), samples([9, 5, 12, 3], seed=6)
    answers = []
    with PackRunner(executable(layout), PackRunnerConfig(), threads=1) as runner:
        for company in others:
            out = [{"hidden": np.zeros((COLUMNS, HIDDEN), np.float32)} for _ in range(5)]
            for future in runner.submit(list(zip([first, *company], out, strict=True))):
                future.wait(60)
            answers.append(out[0]["hidden"])
    np.testing.assert_allclose(answers[0], answers[1], atol=TOLERANCE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_masked_token_is_the_one_that_the_mask_says_whatever_its_array_holds(layout: str) -> None:
    (sample,) = samples([9])
    sample["mask"][[2, 8]] = 0
    (want,) = alone(encoder(), [sample])
    with PackRunner(executable(layout), PackRunnerConfig(), threads=1) as runner:
        assert_answers(served(runner, sample), want)


def test_padding_is_removed_as_the_mask_says() -> None:
    (sample,) = samples([9])
    padded = {name: np.concatenate([value, value[:4] * (name != "mask")]) for name, value in sample.items()}
    config = PackRunnerConfig()
    config.enable_padding_remove_mode("mask", ["ids", "boxes"])
    with PackRunner(executable("across_rows"), config, threads=1) as runner:
        assert_answers(served(runner, padded), alone(encoder(), [sample])[0])


@pytest.mark.parametrize("axis", [False, True])
def test_a_request_may_have_a_batch_axis_of_one(axis: bool) -> None:
    (sample,) = whole_samples([7])
    fed = {name: value[None] if axis and name != "scale" else value for name, value in sample.items()}
    with PackRunner(whole_executable("across_rows"), PackRunnerConfig(), threads=1) as runner:
        assert_answers(served(runner, fed), alone(with_whole_inputs(encoder(), "batch"), [sample], ["scale"])[0])


@pytest.mark.parametrize("layout", UNPACKED)
def test_rows_of_samples_and_values_of_runs_reach_their_samples(layout: str) -> None:
    model = with_whole_inputs(encoder(), "batch")
    assert_served(whole_executable(layout), whole_samples() * 3, alone(model, whole_samples(), ["scale"]) * 3)


def test_requests_with_different_values_of_a_run_share_no_pack() -> None:
    """Their order says which would share one: all wait while the first runs."""
    batch = whole_samples([4] * 12, scales=[1.0, 3.0, 5.0])
    config = PackRunnerConfig(lanes=1, token_budget=256)
    with PackRunner(whole_executable("across_rows"), config, threads=1) as runner:
        out = [{"pooled": np.zeros(HIDDEN, np.float32)} for _ in batch]
        for future in runner.submit(list(zip(batch, out, strict=True))):
            future.wait(60)
        assert 3 <= runner.stats().packs <= 6
    for got, want in zip(out, alone(with_whole_inputs(encoder(), "batch"), batch, ["scale"]), strict=True):
        np.testing.assert_allclose(got["pooled"], want["pooled"], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("layout", UNPACKED)
def test_declared_arrays_give_the_same(layout: str) -> None:
    batch, across = whole_samples([9, 17, 2, 30], scales=[2.0]), layout != "within_rows_unpacked"
    names = {"dynamic_inputs": ["ids", "boxes"], "sample_inputs": ["user"]}
    named = [{**sample, "attention_mask": sample["mask"]} for sample in batch]
    pack = pack_data(named, 0, ROWS, COLUMNS, MOST, 1, across, **names)
    assert pack.count == len(batch)
    feeds = {**pack.data, "mask": pack.data["attention_mask"], "unpack_info": pack.unpack_info}
    del feeds["attention_mask"]
    compiled = whole_executable(layout)
    feeds["scale"] = batch[0]["scale"]
    if across:
        feeds["mask"] = np.minimum(feeds["mask"], 1)
    hidden, pooled = DeclaredSession(compiled, threads=1).run(feeds, ["hidden", "pooled"])
    if not across:  # rows as they are
        hidden = [hidden[place.row, place.start : place.start + place.length] for place in pack.specs]
    for row, want in enumerate(alone(with_whole_inputs(encoder(), "batch"), batch, ["scale"])):
        length = len(want["hidden"])
        np.testing.assert_allclose(hidden[row][:length], want["hidden"], atol=TOLERANCE, rtol=TOLERANCE)
        np.testing.assert_allclose(pooled[row], want["pooled"], atol=TOLERANCE, rtol=TOLERANCE)


def test_packed_arrays_name_the_sample_whose_tokens_hold_something_else() -> None:
    first, second = samples([3, 4])
    second["boxes"] = second["boxes"][:, :1]
    with pytest.raises(InputError, match=r"sample 1: 'boxes' has the shape \[4, 1, 3\], that of sample 0 is \["):
        pack_data([first, second], 0, ROWS, COLUMNS, MOST, 1, True, dynamic_inputs=["ids", "boxes"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"boxes": np.zeros((7, 2, 4), np.int64)},
            r"'boxes': expected one sample, shape \[L, 2, 3\] or \[1, L, 2, 3\]",
        ),
        ({"boxes": np.zeros((7, 6), np.int64)}, r"got \[7, 6\]"),
        ({"boxes": np.zeros((2, 7, *BOX), np.int64)}, r"got \[2, 7, 2, 3\]"),
        ({"boxes": np.zeros((6, *BOX), np.int64)}, "'ids' has 7 tokens, 'boxes' has 6"),
        ({"boxes": None}, r"missing input 'boxes' \(int32, shape \[L, 2, 3\]\)"),
        ({"user": None}, r"missing input 'user' \(float32, shape \[8\], one row a sample\)"),
        ({"user": np.zeros(7, np.float32)}, r"'user': expected one row a sample, shape \[8\] or \[1, 8\], got \[7\]"),
        ({"user": np.zeros((2, 8), np.float32)}, r"got \[2, 8\]"),
        ({"scale": None}, r"missing input 'scale' \(float32, shape \[\], one value a run\)"),
        ({"scale": np.zeros(2, np.float32)}, r"'scale': expected one value a run, shape \[\] or \[1\], got \[2\]"),
    ],
)
def test_what_does_not_fit_names_the_input_and_what_was_expected(change: dict[str, Any], message: str) -> None:
    (sample,) = whole_samples([7])
    fed = {name: value for name, value in {**sample, **change}.items() if value is not None}
    with (
        PackRunner(whole_executable("across_rows"), PackRunnerConfig(token_budget=64), threads=1) as runner,
        pytest.raises(InputError, match=message),
    ):
        served(runner, fed)

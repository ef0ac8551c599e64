"""Encoders behind a front end that changes the length, over real executables, judged by each sample alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from passes.packed_model import PackedModel
from poprt.converter import Converter
from poprt.errors import InputError, PoprtError, RequestTooLongError
from poprt.runtime import DeclaredSession, PackRunner, PackRunnerConfig, pack_data
from tests.numerics import Arrays, one_by_one
from tests.passes.rewrites import copy_of
from tests.poprt.runtime.subsampled_models import (
    COLUMNS,
    FEATURES,
    HIDDEN,
    KINDS,
    LENGTHS,
    MOST,
    ROWS,
    encoder,
    executable,
    samples,
    shapes_of,
)

THREADS, TOLERANCE = 14, 1e-5
MASKED = [kind for kind in KINDS if "mask" in KINDS[kind].inputs and "float[batch, 5]" not in KINDS[kind].inputs]


def served(runner: PackRunner, sample: Arrays, want: Arrays) -> Arrays:
    """What the runner gives in buffers of just the room that the answer takes."""
    out = {name: np.full(array.shape, np.nan, np.float32) for name, array in want.items()}
    runner.execute({name: array for name, array in sample.items() if name != "n"}, out)
    return out


def assert_same(got: Arrays, want: Arrays) -> None:
    for name, values in want.items():
        np.testing.assert_allclose(got[name], values, atol=TOLERANCE, rtol=TOLERANCE, err_msg=name)


def runner_of(kind: str, **options: Any) -> PackRunner:
    return PackRunner(executable(kind), PackRunnerConfig(token_budget=256, **options), threads=1)


@pytest.mark.parametrize("kind", KINDS)
def test_each_of_many_threads_gets_what_the_original_gives_for_its_sample_alone(kind: str) -> None:
    packing = executable(kind).packing
    assert packing is not None
    assert (packing.subsampling, packing.neighbours) == (KINDS[kind].subsampling, KINDS[kind].neighbours)
    lengths = [max(length, packing.shortest) for length in [*LENGTHS, 1, 2, 3, 4, 5]]
    batch = samples(kind, lengths) * 2
    want = one_by_one(encoder(kind), batch)
    with runner_of(kind) as runner, ThreadPoolExecutor(THREADS) as pool:
        for got, expected in zip(pool.map(served, [runner] * len(batch), batch, want), want, strict=True):
            assert_same(got, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_change_nothing(kind: str) -> None:
    (first,) = samples(kind, [19])
    (want,) = one_by_one(encoder(kind), [first])
    answers = []
    for seed in (5, 6):
        company = samples(kind, [19, 12, 40, 19], seed=seed)
        alone = one_by_one(encoder(kind), [first, *company])
        with runner_of(kind, lanes=1) as runner:
            out = [{name: np.zeros_like(array) for name, array in one.items()} for one in alone]
            feeds = [{name: array for name, array in one.items() if name != "n"} for one in [first, *company]]
            for future in runner.submit(list(zip(feeds, out, strict=True))):
                future.wait(60)
            assert runner.stats().packs < 5 or KINDS[kind].neighbours != "any"
        assert_same(out[0], want)
        answers.append(out[0]["hidden"])
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize("kind", MASKED)
@pytest.mark.parametrize("holes", [[], [0], [5, 6], [17, 18, 19]])
def test_a_mask_with_holes_means_what_it_means_to_the_original(kind: str, holes: Sequence[int]) -> None:
    batch = samples(kind, [20, 33])
    batch[0]["mask"][list(holes)] = 0
    want = one_by_one(encoder(kind), batch)
    with runner_of(kind) as runner:
        assert_same(served(runner, batch[0], want[0]), want[0])


@pytest.mark.parametrize("kind", KINDS)
def test_declared_arrays_give_the_same(kind: str) -> None:
    batch = samples(kind, [9, 17, 48, 30])
    named = [{**sample, "attention_mask": np.ones(len(sample["features"]), np.int64)} for sample in batch]
    whole = {"sample_inputs": ["user"]} if "user" in batch[0] else {}
    pack = pack_data(named, 0, ROWS, COLUMNS, MOST, 1, True, dynamic_inputs=["features"], **whole)
    feeds = {**pack.data, "mask": np.minimum(pack.data["attention_mask"], 1), "unpack_info": pack.unpack_info}
    names = {spec.name for spec in executable(kind).inputs}
    feeds = {name: array for name, array in feeds.items() if name in names}
    hidden, pooled = DeclaredSession(executable(kind), threads=1).run(feeds, ["hidden", "pooled"])
    for row, want in enumerate(one_by_one(encoder(kind), batch)):
        places = len(want["hidden"])
        assert_same({"hidden": hidden[row][:places], "pooled": pooled[row]}, want)
        assert not hidden[row][places:].any()


@pytest.mark.parametrize("kind", ["strides, sum of the mask", "a token put in front"])
def test_the_servers_tensors_have_the_places_of_each_sample(kind: str) -> None:
    pytest.importorskip("fastapi", reason="the server's packages are not installed: pip install '.[serve]'")
    from poprt.serve.tensors import run_arrays

    batch = samples(kind, [9, 17, 33])
    feeds = {
        "features": np.stack([np.pad(s["features"], [(0, 33 - len(s["features"])), (0, 0)]) for s in batch]),
        "mask": np.stack([np.pad(s["mask"], (0, 33 - len(s["mask"]))) for s in batch]),
    }
    with runner_of(kind) as runner:
        answers, _ = asyncio.run(run_arrays(runner, feeds, None))
    for row, want in enumerate(one_by_one(encoder(kind), batch)):
        places = len(want["hidden"])
        assert_same({"hidden": answers["hidden"][row, :places], "pooled": answers["pooled"][row]}, want)
        assert not answers["hidden"][row, places:].any()
    assert answers["hidden"].shape[1] == len(want["hidden"])


def test_a_sample_of_which_the_front_end_leaves_nothing_names_the_fewest_tokens() -> None:
    kind = "strides, lengths"
    (short,) = samples(kind, [6])
    with (
        runner_of(kind) as runner,
        pytest.raises(InputError, match=r"'features': the sample has 6 tokens.*fewer than 7"),
    ):
        runner.execute({"features": short["features"]}, {"pooled": np.zeros(HIDDEN, np.float32)})
    feeds = {"features": np.zeros((ROWS, COLUMNS, FEATURES), np.float32), "unpack_info": np.zeros((MOST, 1), np.int32)}
    feeds["unpack_info"][:2, 0] = 9, 6
    with pytest.raises(InputError, match=r"'unpack_info': a sample has 6 tokens.*fewer than 7"):
        DeclaredSession(executable(kind), threads=1).run(feeds, ["pooled"])


def test_a_mask_that_leaves_too_few_tokens_names_the_fewest() -> None:
    kind = "strides, a one scattered to the last place"
    (sample,) = samples(kind, [20])
    sample["mask"][5:] = 0
    expected = r"'mask': it leaves 5 tokens of .* sample, and .* fewer than 7"
    with runner_of(kind) as runner, pytest.raises(InputError, match=expected):
        runner.execute(sample, {"pooled": np.zeros(HIDDEN, np.float32)})
    feeds = {"features": np.zeros((ROWS, COLUMNS, FEATURES), np.float32), "mask": np.ones((ROWS, COLUMNS), np.int64)}
    feeds |= {"unpack_info": np.array([[9], [20], *[[0]] * (MOST - 2)], np.int32)}
    feeds["mask"][0, 14:29] = 0
    with pytest.raises(InputError, match=expected):
        DeclaredSession(executable(kind), threads=1).run(feeds, ["pooled"])


def test_room_for_fewer_places_than_the_answer_has_is_refused() -> None:
    kind = "strides, lengths"
    (sample,) = samples(kind, [19])
    with runner_of(kind) as runner, pytest.raises(InputError, match=r"'hidden': expected room for shape \[4, 8\]"):
        runner.execute({"features": sample["features"]}, {"hidden": np.zeros((3, HIDDEN), np.float32)})


def test_too_many_tokens_are_refused_by_their_number() -> None:
    kind = "strides, lengths"
    (sample,) = samples(kind, [COLUMNS + 1])
    with runner_of(kind) as runner, pytest.raises(RequestTooLongError, match="49 tokens, at most 48"):
        runner.execute({"features": sample["features"]}, {"pooled": np.zeros(HIDDEN, np.float32)})


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("kind", ["strides, a one scattered to the last place", "a token put in front"])
def test_the_check_and_the_trial_pass(kind: str, precision: str) -> None:
    model = encoder(kind)
    options = {"pack_args": {"max_valid_num": MOST, "segment_max_size": COLUMNS}, "precision": precision}
    converter = Converter(input_shape=shapes_of(model), check=True, disable_progress_bar=True, **options)
    packed = PackedModel.read(converter.convert(copy_of(model)))
    assert packed is not None
    assert packed.subsampling == KINDS[kind].subsampling
    assert converter.isolation.findings
    assert converter.verification.passed


@pytest.mark.parametrize("kind", ["windows of four pooled", "a token put in front"])
def test_a_task_that_tells_of_each_token_needs_their_places(kind: str) -> None:
    pytest.importorskip("tokenizers", reason="the packages for texts are not installed: pip install '.[text]'")
    from poprt.text.folder.pack import check_places

    check_places(executable(kind), "embedding")
    with pytest.raises(PoprtError, match=r"token-classification tells of each token, and .* places for 48 tokens"):
        check_places(executable(kind), "token-classification")

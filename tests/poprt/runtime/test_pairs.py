"""An input of pairs of places over real executables, judged by each sample alone and unpadded."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from passes.packed_model import PackedModel
from poprt.compiler import Compiler
from poprt.errors import InputError, PoprtError, RequestTooLongError
from poprt.executable import Executable
from poprt.runtime import DeclaredSession, PackRunner, PackRunnerConfig, pack_data
from tests.numerics import Arrays
from tests.poprt.runtime.pair_models import CASES, COLUMNS, HIDDEN, MOST, ROWS, converted, encoder, executable, samples
from tests.poprt.runtime.test_vector_tokens import alone, assert_answers, served

THREADS, TOLERANCE = 14, 1e-5


@cache
def with_declared_extents(name: str) -> Executable:
    """The encoder as if something inside depended on the declared extents: every run has them."""
    model = converted(name)
    replace(PackedModel.read(model), shape_agnostic=False).write(model)
    return Compiler.compile(model)


@pytest.mark.parametrize("name", CASES)
def test_each_of_many_threads_gets_what_the_original_gives_for_its_sample_alone(name: str) -> None:
    batch, compiled = samples(name), executable(name)
    assert compiled.packing is not None
    assert compiled.packing.pair_inputs == {"pairs": CASES[name].axes}
    assert compiled.packing.neighbours == CASES[name].neighbours
    want = alone(encoder(name), batch)
    with PackRunner(compiled, PackRunnerConfig(), threads=1) as runner, ThreadPoolExecutor(THREADS) as pool:
        for got, expected in zip(pool.map(lambda sample: served(runner, sample), batch * 3), want * 3, strict=True):
            assert_answers(got, expected)


def in_one_run(name: str, batch: Sequence[Arrays], compiled: Executable) -> Arrays:
    """Arrays of the declared shapes for :class:`DeclaredSession`."""
    packing = compiled.packing
    assert packing is not None
    pairs = {"pair_inputs": packing.pair_inputs, "width": packing.width}
    named = [{**sample, "attention_mask": sample["mask"]} for sample in batch]
    pack = pack_data(named, 0, ROWS, COLUMNS, MOST, 1, True, dynamic_inputs=["ids"], **pairs)
    assert pack.count == len(batch)
    feeds = {key: pack.data[key] for key in ("ids", "pairs")}
    return feeds | {"mask": np.minimum(pack.data["attention_mask"], 1), "unpack_info": pack.unpack_info}


@pytest.mark.parametrize("name", CASES)
def test_other_tokens_and_pairs_of_neighbours_change_nothing(name: str) -> None:
    beside = [9] * 4 if CASES[name].neighbours == "same_length" else [9, 5, 12, 3]
    (first,), others = samples(name, [9]), [samples(name, beside, seed) for seed in (5, 6)]
    session = DeclaredSession(executable(name), threads=1)
    before, after = (session.run(in_one_run(name, [first, *company], executable(name))) for company in others)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert not np.array_equal(one[1], other[1])


def test_where_padding_would_show_samples_of_one_length_ride_together() -> None:
    name = "a mean over keys"
    batch = samples(name, [4, 9, 4, 9])
    out = [{"pooled": np.zeros(HIDDEN, np.float32)} for _ in batch]
    with PackRunner(executable(name), PackRunnerConfig(token_budget=256), threads=1) as runner:
        for future in runner.submit(list(zip(batch, out, strict=True))):
            future.wait(60)
        assert runner.stats().packs >= 2
    for got, want in zip(out, alone(encoder(name), batch), strict=True):
        np.testing.assert_allclose(got["pooled"], want["pooled"], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("axis", [False, True])
@pytest.mark.parametrize("name", ["a bias", "a bias a head"])
def test_a_request_may_have_a_batch_axis_of_one(name: str, axis: bool) -> None:
    (sample,) = samples(name, [7])
    fed = {key: value[None] if axis else value for key, value in sample.items()}
    with PackRunner(executable(name), PackRunnerConfig(token_budget=64), threads=1) as runner:
        assert_answers(served(runner, fed), alone(encoder(name), [sample])[0])


@pytest.mark.parametrize("name", ["a bias", "distances", "kinds between"])
def test_padding_is_removed_as_the_mask_says(name: str) -> None:
    (sample,) = samples(name, [9])
    axes = [axis - 1 for axis in CASES[name].axes]
    more = [(0, 4 if axis in axes else 0) for axis in range(sample["pairs"].ndim)]
    padded = {key: np.concatenate([sample[key], sample[key][:4] * (key != "mask")]) for key in ("ids", "mask")}
    padded["pairs"] = np.pad(sample["pairs"], more, constant_values=99)
    config = PackRunnerConfig(token_budget=64)
    config.enable_padding_remove_mode("mask", ["ids", "pairs"])
    with PackRunner(executable(name), config, threads=1) as runner:
        assert_answers(served(runner, padded), alone(encoder(name), [sample])[0])
        padded["pairs"] = padded["pairs"][:-1]
        with pytest.raises(InputError, match=r"'pairs': expected a value for each pair of the sample's 13 tokens"):
            served(runner, padded)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_declared_arrays_give_the_same_whatever_stands_behind_a_sample(name: str, fixed: bool) -> None:
    compiled = with_declared_extents(name) if fixed else executable(name)
    batch = samples(name, [COLUMNS] * 3 if fixed and CASES[name].neighbours != "any" else [9, 17, 2, 30])
    feeds = in_one_run(name, batch, compiled)
    session = DeclaredSession(compiled, threads=1)
    got = session.run(feeds, ["hidden", "pooled"])
    for row, want in enumerate(alone(encoder(name), batch)):
        np.testing.assert_allclose(got[0][row][: len(want["hidden"])], want["hidden"], atol=TOLERANCE, rtol=TOLERANCE)
        np.testing.assert_allclose(got[1][row], want["pooled"], atol=TOLERANCE, rtol=TOLERANCE)
    spoilt = np.full_like(feeds["pairs"], 3)
    for row, sample in zip(spoilt, batch, strict=False):
        row[tuple(map(slice, sample["pairs"].shape))] = sample["pairs"]
    for before, after in zip(got, session.run({**feeds, "pairs": spoilt}, ["hidden", "pooled"]), strict=True):
        np.testing.assert_array_equal(before, after)


def test_packed_arrays_name_the_sample_whose_pairs_do_not_fit() -> None:
    batch = samples("a bias", [3, 4])
    batch[1]["pairs"] = batch[1]["pairs"][:, :3]
    options: dict[str, Any] = {"dynamic_inputs": ["ids"], "pair_inputs": {"pairs": (1, 2)}}
    with pytest.raises(InputError, match=r"sample 1: 'pairs' has the shape \[4, 3\], expected \[4, 4\]: a value for"):
        pack_data(batch, 0, ROWS, COLUMNS, MOST, 1, True, **options)
    batch[1]["pairs"] = np.zeros(4)
    with pytest.raises(InputError, match=r"sample 1: 'pairs' has the shape \[4\], expected \[4, 4\]"):
        pack_data(batch, 0, ROWS, COLUMNS, MOST, 1, True, **options)
    with pytest.raises(RequestTooLongError, match="sample 1 has 4 tokens, 'pairs' holds 3: give width"):
        pack_data(samples("a bias", [3, 4]), 0, ROWS, COLUMNS, MOST, 1, True, width=3, **options)
    del batch[1]["pairs"]
    with pytest.raises(InputError, match="sample 1 has no 'pairs'"):
        pack_data(batch, 0, ROWS, COLUMNS, MOST, 1, True, **options)


_SEVEN = "expected a value for each pair of the sample's 7 tokens"


@pytest.mark.parametrize(
    ("name", "pairs", "message"),
    [
        ("a bias", np.zeros((7, 6)), rf"'pairs': {_SEVEN}, shape \[7, 7\] or \[1, 7, 7\], got \[7, 6\]"),
        ("a bias", np.zeros((6, 6)), r"shape \[7, 7\] or \[1, 7, 7\], got \[6, 6\]"),
        ("a bias", np.zeros(49), r"got \[49\]"),
        ("a bias", np.zeros((2, 7, 7)), r"got \[2, 7, 7\]"),
        ("a bias", None, r"missing input 'pairs' \(float32, shape \[7, 7\], a value for each pair of the sample's 7"),
        ("a bias", np.full((7, 7), "a"), "input 'pairs': expected float32, got <U1"),
        ("a bias a head", np.zeros((3, 7, 7)), rf"'pairs': {_SEVEN}, shape \[2, 7, 7\] or \[1, 2, 7, 7\], got \[3, 7"),
        ("relations", np.zeros((7, 7, 2)), r"'pairs': .* shape \[7, 7, 3\] or \[1, 7, 7, 3\], got \[7, 7, 2\]"),
        ("distances", np.full((7, 7), 16), "'pairs': the value 16 in place 0 is no row of the model's table"),
        ("distances", np.full((7, 7), -1), "'pairs': the value -1 in place 0 is no row"),
        ("distances", np.zeros((7, 7)), "input 'pairs': expected int32, got float64"),
    ],
)
def test_what_does_not_fit_names_the_input_and_what_was_expected(name: str, pairs: Any, message: str) -> None:
    (sample,) = samples(name, [7])
    fed = {key: value for key, value in {**sample, "pairs": pairs}.items() if value is not None}
    with (
        PackRunner(executable(name), PackRunnerConfig(token_budget=64), threads=1) as runner,
        pytest.raises(InputError, match=message),
    ):
        served(runner, fed)


def test_an_input_of_pairs_gives_no_length() -> None:
    with pytest.raises(PoprtError, match="dynamic_input_name: 'pairs' is not a dynamic input of the executable"):
        PackRunner(executable("a bias"), PackRunnerConfig(dynamic_input_name="pairs"), threads=1)

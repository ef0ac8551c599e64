"""Requests that share a run never see each other, the whole way: converted, compiled, run packed, in every layout."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.bert import SIZES, BertConfig, build_bert
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.executable import Executable
from poprt.runtime import PackRunnerConfig, Runner
from poprt.runtime.declared import DeclaredSession
from tests.numerics import Arrays, one_by_one, random_samples
from tests.passes.packing import packs

ROWS, COLUMNS, MOST = 3, 16, 8
TOLERANCE = 1e-5
LAYOUTS = ("across_rows", "within_rows")
HEADS = ("hidden", "mean")
SOON = 60


@cache
def original(head: str) -> onnx.ModelProto:
    """A small random encoder."""
    return build_bert(BertConfig(**SIZES["tiny"], head=head, dialect="new-torch"))


@cache
def compiled(head: str, layout: str) -> Executable:
    model = original(head)
    converted = Converter(
        input_shape={value.name: [ROWS, COLUMNS] for value in model.graph.input},
        pack_args={"max_valid_num": MOST, "segment_max_size": COLUMNS},
        used_passes=["insert_attention_mask"] if layout == "within_rows" else [],
        disable_progress_bar=True,
    ).convert(onnx.ModelProto.FromString(model.SerializeToString()))
    return Compiler.compile(converted, None)


@cache
def session(head: str) -> DeclaredSession:
    return DeclaredSession(compiled(head, "across_rows"), threads=1)


def run_pack(head: str, samples: list[Arrays]) -> np.ndarray:
    """The samples in one pack of layout across_rows; one row a sample."""
    feeds = packs.pack(samples, ROWS, COLUMNS, MOST)
    feeds = {name: array.astype(np.int32) for name, array in feeds.items()}
    return session(head).run(feeds)[0]


def expected(head: str, samples: list[Arrays]) -> list[np.ndarray]:
    return [next(iter(result.values())) for result in one_by_one(original(head), samples)]


def assert_each_is_its_own(head: str, samples: list[Arrays]) -> None:
    for got, want in zip(run_pack(head, samples), expected(head, samples), strict=False):
        own = got[tuple(map(slice, want.shape))]
        np.testing.assert_allclose(own, want, atol=TOLERANCE, rtol=TOLERANCE)


lengths = st.lists(st.integers(1, COLUMNS), min_size=1, max_size=MOST).filter(lambda n: sum(n) <= ROWS * COLUMNS)
several = lengths.filter(lambda n: len(n) > 1)


@pytest.mark.parametrize("head", HEADS)
@settings(max_examples=25, deadline=None)
@given(several, st.data())
def test_what_one_request_says_leaves_the_others_bit_for_bit_the_same(head, counts, data):
    changed = data.draw(st.integers(0, len(counts) - 1))
    samples = random_samples(counts, seed=1)
    before = run_pack(head, samples)
    samples[changed] = random_samples([counts[changed]], seed=data.draw(st.integers(2, 99)))[0]
    after = run_pack(head, samples)
    for row in set(range(len(counts))) - {changed}:
        np.testing.assert_array_equal(before[row], after[row])


@pytest.mark.parametrize("head", HEADS)
@settings(max_examples=25, deadline=None)
@given(lengths, st.integers(0, 99))
def test_any_mix_of_lengths_gives_the_answers_of_single_runs(head, counts, seed):
    assert_each_is_its_own(head, random_samples(counts, seed=seed))


@pytest.mark.parametrize("head", HEADS)
@settings(max_examples=15, deadline=None)
@given(lengths, st.randoms())
def test_any_order_gives_the_answers_of_single_runs(head, counts, random):
    samples = random_samples(counts)
    random.shuffle(samples)
    assert_each_is_its_own(head, samples)


@settings(max_examples=25, deadline=None)
@given(several, st.data())
def test_a_request_with_zeros_in_its_own_mask_changes_nobody(counts, data):
    """Its own places with a zero are padding that it brought; its other places get what its single run gives."""
    samples = random_samples(counts)
    plain = run_pack("hidden", samples)
    masked = data.draw(st.integers(0, len(counts) - 1))
    kept = data.draw(st.integers(0, counts[masked]))
    samples[masked]["attention_mask"][kept:] = 0
    got = run_pack("hidden", samples)
    for row in set(range(len(counts))) - {masked}:
        if len(set(counts)) > 1:
            np.testing.assert_array_equal(got[row], plain[row])
        else:  # without the zeros the pack was full, and a full pack has an attention of its own: it rounds otherwise
            np.testing.assert_allclose(got[row], plain[row], atol=TOLERANCE, rtol=TOLERANCE)
    want = expected("hidden", [samples[masked]])[0]
    np.testing.assert_allclose(got[masked, :kept], want[:kept], atol=TOLERANCE, rtol=TOLERANCE)
    assert np.isfinite(got).all()


def test_a_request_whose_mask_is_all_zeros_gets_finite_numbers_that_no_neighbour_changes():
    first, second = random_samples([6, 9])
    first["attention_mask"][:] = 0
    others = [random_samples([9], seed=seed)[0] for seed in (5, 6)]
    rows = [run_pack("hidden", [first, other])[0] for other in others]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert np.isfinite(rows[0]).all()
    assert_each_is_its_own("hidden", [second])


@pytest.mark.parametrize("head", HEADS)
def test_what_lies_behind_the_last_sample_is_not_read(head):
    samples = random_samples([5, 9])
    feeds = {n: a.astype(np.int32) for n, a in packs.pack(samples, ROWS, COLUMNS, MOST).items()}
    clean = session(head).run(feeds)[0]
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        feeds[name].reshape(-1)[14:] = 1
    np.testing.assert_array_equal(session(head).run(feeds)[0], clean)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("head", HEADS)
def test_many_requests_at_once_get_the_answers_of_single_runs(head, layout):
    samples = random_samples([*range(1, COLUMNS + 1)] * 2)
    name = original(head).graph.output[0].name
    answers = expected(head, samples)
    with Runner(
        compiled(head, layout), PackRunnerConfig(timeout_microseconds=2000, token_budget=0), threads=1
    ) as runner:
        outputs = [{name: np.full(want.shape, 9, np.float32)} for want in answers]
        futures = [runner.execute_async(sample, out) for sample, out in zip(samples, outputs, strict=True)]
        for future in futures:
            future.wait(SOON)
    for out, want in zip(outputs, answers, strict=True):
        np.testing.assert_allclose(out[name], want, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_neighbour_in_the_same_row_leaves_a_request_bit_for_bit_the_same(layout):
    """Declared shapes, so that both runs have one geometry: the first row holds the request and a neighbour."""
    executable = compiled("hidden", layout)
    session_ = DeclaredSession(executable, threads=1)
    results = []
    for seed in (3, 4, 5):
        request, neighbour = random_samples([7], seed=0)[0], random_samples([9], seed=seed)[0]
        feeds = packs.pack([request, neighbour], ROWS, COLUMNS, MOST)
        if layout == "within_rows":
            feeds["attention_mask"][0] = [1] * 7 + [2] * 9
            feeds["position_ids"] = np.zeros((ROWS, COLUMNS), np.int64)
            feeds["position_ids"][0] = [*range(7), *range(9)]
        taken = {spec.name: feeds[spec.name].astype(np.int32) for spec in executable.inputs}
        result = session_.run(taken)[0]
        results.append(result[0, :7])
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    want = expected("hidden", [random_samples([7], seed=0)[0]])[0]
    np.testing.assert_allclose(results[0], want, atol=TOLERANCE, rtol=TOLERANCE)

"""Every contender gives every sample its own result, and counts the tokens that it feeds."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest

from benchmarks.contenders import Array, OnnxRuntime, Packed, Padded, Result
from benchmarks.ours import OfflinePacks, runner_contender
from benchmarks.quantise import quantise
from benchmarks.rounds import TOLERANCE, difference
from benchmarks.workloads import DISTRIBUTIONS, Lengths, Requests, build, compile_packed, config_of, useful_flops
from models.bert import SIZES, BertConfig, build_bert
from poprt.executable import Executable
from tests.numerics import one_by_one, random_samples

LENGTHS = [5, 40, 1, 17, 9, 30, 2]
SAMPLES = random_samples(LENGTHS)


@cache
def model() -> onnx.ModelProto:
    return build("tiny")


@cache
def executable() -> Executable:
    return compile_packed(model(), 64)


@cache
def reference() -> list[dict[str, Array]]:
    return one_by_one(model(), SAMPLES)


def assert_right(results: list[Result]) -> None:
    for result, expected in zip(results, reference(), strict=True):
        assert set(result) == set(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(result[name], values, atol=1e-5)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("rows", "columns", "sort"), [(1, 0, False), (3, 0, False), (3, 0, True), (3, 64, False)])
def test_each_way_to_pad_gives_every_sample_its_own_result(rows: int, columns: int, sort: bool, workers: int) -> None:
    engine = OnnxRuntime(model().SerializeToString(), threads=1)
    assert_right(Padded("padded", engine, rows, columns, sort, workers).run(SAMPLES))


def test_outputs_without_a_token_axis_are_not_cut() -> None:
    pooled = build_bert(BertConfig(**SIZES["tiny"], head="mean"))
    results = Padded("padded", OnnxRuntime(pooled.SerializeToString(), threads=1), 3).run(SAMPLES)
    for result, expected in zip(results, one_by_one(pooled, SAMPLES), strict=True):
        np.testing.assert_allclose(result["embedding"], expected["embedding"], atol=2e-6)


def test_packs_from_the_runner_and_packs_laid_offline_give_every_sample_its_own_result() -> None:
    online, offline = runner_contender(executable()), OfflinePacks(executable())
    for contender in (online, offline):
        assert_right(contender.run(SAMPLES))
        assert contender.fed(LENGTHS) == sum(LENGTHS)
        assert (contender.engine_seconds() or 0) > 0
    online.runner.close()


def test_a_packed_contender_without_token_outputs_gets_buffers_of_a_sample() -> None:
    pooled = build_bert(BertConfig(**SIZES["tiny"], head="mean"))
    contender = runner_contender(compile_packed(pooled, 64))
    assert isinstance(contender, Packed)
    for result, expected in zip(contender.run(SAMPLES), one_by_one(pooled, SAMPLES), strict=True):
        np.testing.assert_allclose(result["embedding"], expected["embedding"], atol=2e-6)
    contender.runner.close()


def test_the_tokens_that_padding_feeds_are_counted() -> None:
    engine = OnnxRuntime(model().SerializeToString(), threads=1)
    lengths = [5, 40, 1, 17, 9]
    counted = [
        Padded("alone", engine, 1).fed(lengths),
        Padded("arrival", engine, 2).fed(lengths),
        Padded("sorted", engine, 2, sort=True).fed(lengths),
        Padded("fixed", engine, 2, columns=64).fed(lengths),
    ]
    assert counted == [72, 2 * 40 + 2 * 17 + 9, 2 * 5 + 2 * 17 + 40, 3 * 2 * 64]


def test_ctranslate2_computes_the_same_numbers() -> None:
    pytest.importorskip("ctranslate2", reason="not installed: pip install '.[bench]'")
    from benchmarks.peer_ctranslate2 import CTranslate2

    assert_right(Padded("peer", CTranslate2(model(), config_of("tiny")), 3, columns=64).run(SAMPLES))
    assert_right(Padded("peer", CTranslate2(model(), config_of("tiny"), workers=2), 2, workers=2).run(SAMPLES))
    results = Padded("peer", CTranslate2(model(), config_of("tiny"), "int8"), 3).run(SAMPLES)
    assert 0 < difference(results, reference(), "int8") < TOLERANCE["int8"]


def test_openvino_computes_the_same_numbers_on_the_model_and_on_the_packed_graph() -> None:
    pytest.importorskip("openvino", reason="not installed: pip install '.[bench]'")
    from benchmarks.peer_openvino import OpenVINO

    assert_right(Padded("peer", OpenVINO(model().SerializeToString()), 3).run(SAMPLES))
    assert_right(Padded("peer", OpenVINO(model().SerializeToString(), streams=2), 2, workers=2).run(SAMPLES))
    packed = compile_packed(model(), 64, engine="openvino")
    assert_right(OfflinePacks(packed, engine="openvino").run(SAMPLES))
    assert_right(runner_contender(packed, "openvino").run(SAMPLES))


def test_the_quantised_baseline_is_near_the_original_and_not_equal() -> None:
    engine = OnnxRuntime(quantise(model()).SerializeToString(), threads=1)
    assert 0 < difference(Padded("int8", engine, 1).run(SAMPLES), reference(), "int8") < TOLERANCE["int8"]


def test_the_difference_of_a_missing_misshapen_or_undefined_result_is_infinite() -> None:
    right = [{"y": np.ones(3)}]
    assert difference(right, right, "fp32") == 0
    for wrong in ({}, {"y": np.ones(2)}, {"y": np.array([1, np.nan, 1])}):
        assert difference([wrong], right, "fp32") == float("inf")
    assert difference([{"y": np.array([1, 1, 3.0])}], right, "fp32") == 2


def test_requests_are_the_same_however_they_are_taken() -> None:
    lengths = DISTRIBUTIONS["short"]
    at_once = Requests(lengths, 1000).take(0, 600)
    requests = Requests(lengths, 1000)
    pieces = requests.take(0, 10) + requests.take(10, 590)
    for one, other in zip(at_once, pieces, strict=True):
        np.testing.assert_array_equal(one["input_ids"], other["input_ids"])


def test_lengths_follow_their_distribution() -> None:
    drawn = Lengths("x", 128, 128, 256).draw(np.random.default_rng(0), 20000)
    assert (min(drawn), max(drawn)) == (1, 256)
    assert 0.14 < np.mean([n == 1 for n in drawn]) < 0.19  # clip gathers the normal's tail
    assert 120 < np.mean(drawn) < 135


def test_useful_work_counts_projections_by_token_and_attention_by_its_square() -> None:
    config = BertConfig(hidden=8, layers=3, heads=2, intermediate=16)
    weights = 3 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 8
    assert useful_flops(config, [1, 4]) == 2 * weights * 5 + 3 * 4 * 8 * (1 + 16)

"""Which samples share a run where the executable says that not all may: ``PackingSpec.neighbours``."""

import dataclasses

import numpy as np
import pytest

from poprt.executable import Executable
from poprt.runtime import DeclaredSession, ModelRunner, PackRunner, PackRunnerConfig, pack_data
from tests.poprt.runtime.fake_engine import DYNAMIC, FakeEngine, executable, expected, with_budget

SOON = 20
LENGTHS = (3, 5, 3, 1, 5, 3, 8, 1, 2)


def restricted(neighbours, **options):
    compiled = executable(**{"rows": 6, "max_valid_num": 9, **options})
    packing = dataclasses.replace(compiled.packing, neighbours=neighbours)
    return Executable.build(dataclasses.replace(compiled.manifest, packing=packing), b"")


class LastPlace(FakeEngine):
    """Its "pooled" output looks at the last place and at how many there are, as a head that ignores the mask does."""

    def _outputs(self, feeds):
        outputs = super()._outputs(feeds)
        logits = outputs["logits"]
        return outputs | {"pooled": np.stack([logits[:, -1], logits.mean(axis=1)], axis=1)}


class Mixing(FakeEngine):
    """Its "pooled" output depends on every sample of the run."""

    def _outputs(self, feeds):
        outputs = super()._outputs(feeds)
        return outputs | {"pooled": np.broadcast_to(outputs["pooled"].sum(axis=0), outputs["pooled"].shape)}


def alone(engine, ids):
    """The "pooled" output of a sample that runs by itself."""
    if engine is Mixing:
        return expected(ids)["pooled"]
    logits = expected(ids)["logits"]
    return np.array([logits[-1], logits.mean()], np.float32)


def lengths_of(call):
    info = call["unpack_info"]
    return info[info.sum(axis=1) > 0].tolist()


def start(neighbours, engine_class=LastPlace, config=None, **options):
    compiled = restricted(neighbours, **options)
    engine = engine_class(compiled)
    return PackRunner(compiled, with_budget(config), session=engine), engine


def submit(runner, samples):
    outs = [{"pooled": np.zeros(2, np.float32)} for _ in samples]
    requests = [{"input_ids": ids, "attention_mask": np.ones_like(ids)} for ids in samples]
    return outs, [runner.execute_async(*pair) for pair in zip(requests, outs, strict=True)]


def run_behind_one(runner, engine, samples):
    """Let the samples wait behind another one, so that they are packed together."""
    engine.gate.clear()
    _, (first,) = submit(runner, [np.arange(4)])
    assert engine.entered.wait(SOON)
    outs, futures = submit(runner, samples)
    engine.gate.set()
    for future in (first, *futures):
        future.wait(SOON)
    return outs


def samples_of(lengths):
    return [np.arange(length) + 10 * number for number, length in enumerate(lengths, 1)]


@pytest.mark.parametrize(
    ("neighbours", "engine_class", "runs"), [("same_length", LastPlace, 5), ("none", Mixing, len(LENGTHS))]
)
def test_each_request_gets_its_single_run_and_shares_it_where_it_may(neighbours, engine_class, runs):
    runner, engine = start(neighbours, engine_class)
    samples = samples_of(LENGTHS)
    outs = run_behind_one(runner, engine, samples)
    for ids, out in zip(samples, outs, strict=True):
        np.testing.assert_array_equal(out["pooled"], alone(engine_class, ids))
    assert len(engine.calls) == 1 + runs
    assert runner.stats().packs == 1 + runs
    runner.close()


def test_the_pack_is_the_oldest_and_all_of_its_length_oldest_first():
    runner, engine = start("same_length")
    run_behind_one(runner, engine, samples_of(LENGTHS))
    assert [lengths_of(call) for call in engine.calls[1:]] == [[[3]] * 3, [[5]] * 2, [[1]] * 2, [[8]], [[2]]]
    assert engine.calls[1]["input_ids"][0, ::3].tolist() == [10, 30, 60]
    runner.close()


def test_segments_are_of_one_length_each():
    runner, engine = start("same_length", FakeEngine, segments=(3, 5))
    pairs = [(np.arange(4), np.array(split)) for split in ([1, 3], [2, 2], [1, 3], [3, 1])]
    requests = [{"input_ids": ids, "attention_mask": np.ones(4, int), "unpack_info": split} for ids, split in pairs]
    engine.gate.clear()
    futures = [runner.execute_async({"input_ids": np.arange(2), "attention_mask": np.ones(2, int)}, {})]
    assert engine.entered.wait(SOON)
    futures += [runner.execute_async(each, {}) for each in requests]
    engine.gate.set()
    for future in futures:
        future.wait(SOON)
    assert [lengths_of(call) for call in engine.calls[1:]] == [[[1, 3], [1, 3]], [[2, 2]], [[3, 1]]]
    runner.close()


def test_a_pack_of_one_length_is_chosen_among_more_than_the_window():
    runner, engine = start("same_length", config=PackRunnerConfig(window=2))
    run_behind_one(runner, engine, samples_of([3, 1, 2, 5, 3]))
    assert lengths_of(engine.calls[1]) == [[3], [3]]
    runner.close()


def test_a_pack_that_waits_for_company_is_sent_when_the_oldest_length_fills_it():
    config = PackRunnerConfig(timeout_microseconds=10**9, send_when_idle=False, max_valid_num=3)
    runner, engine = start("same_length", config=config)
    _, waiting = submit(runner, samples_of([2, 4, 4, 4, 2]))
    assert not engine.calls
    _, last = submit(runner, samples_of([2]))
    for future in (waiting[0], waiting[4], *last):
        future.wait(SOON)
    for future in waiting[1:4]:  # now the oldest, and as many as a pack takes
        future.wait(SOON)
    assert [lengths_of(call) for call in engine.calls] == [[[2]] * 3, [[4]] * 3]
    runner.close()


def test_a_pack_does_not_wait_for_company_beyond_what_may_wait():
    config = PackRunnerConfig(timeout_microseconds=10**9, send_when_idle=False, queue_limit=3)
    runner, _ = start("same_length", config=config)
    _, futures = submit(runner, samples_of([1, 2, 3]))
    futures[0].wait(SOON)
    runner.close(cancel=True)


def test_where_samples_mix_none_waits_for_company():
    config = PackRunnerConfig(timeout_microseconds=10**9, send_when_idle=False)
    runner, engine = start("none", Mixing, config)
    _, futures = submit(runner, samples_of([2, 2]))
    for future in futures:
        future.wait(SOON)
    assert [lengths_of(call) for call in engine.calls] == [[[2]], [[2]]]
    runner.close()


@pytest.mark.parametrize(("neighbours", "runs"), [("none", 4), ("same_length", 3)])
def test_samples_that_share_rows_obey_as_well(neighbours, runs):
    runner, engine = start(neighbours, FakeEngine, layout="within_rows", ragged=False)
    run_behind_one(runner, engine, samples_of([2, 3, 2, 1]))
    assert len(engine.calls) == 1 + runs
    runner.close()


@pytest.mark.parametrize("ragged", [True, False])
@pytest.mark.parametrize(
    ("neighbours", "engine_class", "runs"), [("same_length", LastPlace, 5), ("none", Mixing, len(LENGTHS))]
)
def test_packs_of_the_callers_making_are_divided(neighbours, engine_class, runs, ragged):
    compiled = restricted(neighbours, ragged=ragged)
    engine = engine_class(compiled)
    samples = samples_of(LENGTHS)
    data = [{"input_ids": ids, "position_ids": np.arange(len(ids))} for ids in samples]
    pack = pack_data(data, 0, 6, 8, 9, 1, True)
    assert pack.count == len(samples)
    feeds = {**pack.data, "unpack_info": pack.unpack_info}
    logits, pooled = DeclaredSession(compiled, session=engine).run(feeds, ["logits", "pooled"])
    assert len(engine.calls) == runs
    for row, ids in enumerate(samples):
        np.testing.assert_array_equal(logits[row, : len(ids)], expected(ids)["logits"].astype(np.float16))
        if ragged:  # a graph of fixed rows fills up to the declared length whatever it is fed
            np.testing.assert_array_equal(pooled[row], alone(engine_class, ids))
    out = {"pooled": np.zeros((9, 2), np.float32)}
    with ModelRunner(compiled, session=engine) as runner:
        runner.execute(feeds, out)
    np.testing.assert_array_equal(out["pooled"], pooled)


def test_a_divided_pack_keeps_empty_places_and_segments():
    compiled = restricted("same_length", segments=(3, 5), ragged=False, max_valid_num=4)
    engine = FakeEngine(compiled)
    feeds = {name: np.zeros((6, 8), np.int32) for name in DYNAMIC}
    feeds["input_ids"].flat[:9] = range(1, 10)
    feeds["attention_mask"].flat[:9] = 1
    feeds["unpack_info"] = np.array([[1, 2], [0, 0], [2, 1], [1, 2]], np.int32)
    (logits,) = DeclaredSession(compiled, session=engine).run(feeds, ["logits"])
    assert [lengths_of(call) for call in engine.calls] == [[[1, 2], [1, 2]], [[2, 1]]]
    assert logits.tolist() == [
        [1, 0, 0, 2, 3, 0, 0, 0],
        [0] * 8,
        [4, 5, 0, 6, 0, 0, 0, 0],
        [7, 0, 0, 8, 9, 0, 0, 0],
    ]

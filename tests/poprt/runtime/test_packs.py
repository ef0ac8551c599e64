"""When a pack is sent, and what it holds."""

import numpy as np
import pytest

from poprt.runtime import PackRunner, PackRunnerConfig
from poprt.runtime.pack_worker import PackRequest
from tests.poprt.runtime.fake_engine import FakeEngine, executable, expected, with_budget

SOON = 20
KINDS = {
    "ragged": {},
    "fixed": {"ragged": False},
    "within_rows": {"layout": "within_rows", "ragged": False, "unpack": False},
}


def start(kind, config, **shape):
    config = with_budget(config)
    compiled = executable(**{**KINDS[kind], **shape})
    engine = FakeEngine(compiled)
    return PackRunner(compiled, config, session=engine), engine


def sample(length):
    return {"input_ids": np.arange(length, dtype=np.int32), "attention_mask": np.ones(length, np.int32)}


def wait_for_all(futures):
    for future in futures:
        future.wait(SOON)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("length", "count"), [(1, 6), (8, 3)])
def test_a_full_pack_is_sent_before_its_timeout(kind, length, count):
    runner, engine = start(kind, PackRunnerConfig(timeout_microseconds=10**9, send_when_idle=False))
    wait_for_all([runner.execute_async(sample(length), {}) for _ in range(count)])
    assert len(engine.calls) == 1
    runner.close(cancel=True)


def test_the_token_budget_bounds_the_packs_of_a_ragged_engine():
    runner, engine = start("ragged", PackRunnerConfig(token_budget=16), rows=16, max_valid_num=64)
    assert engine.entered.wait(0) is False
    engine.gate.clear()
    futures = [runner.execute_async(sample(4), {})]
    assert engine.entered.wait(SOON)
    futures += [runner.execute_async(sample(4), {}) for _ in range(12)]
    engine.gate.set()
    wait_for_all(futures)
    assert [call["input_ids"].size for call in engine.calls] == [4, 16, 16, 16]
    runner.close()


def test_an_engine_of_fixed_rows_gets_full_packs_whatever_the_token_budget():
    runner, engine = start("fixed", PackRunnerConfig(token_budget=16), rows=16, max_valid_num=64)
    engine.gate.clear()
    futures = [runner.execute_async(sample(4), {})]
    assert engine.entered.wait(SOON)
    futures += [runner.execute_async(sample(4), {}) for _ in range(12)]
    engine.gate.set()
    wait_for_all(futures)
    assert [int(call["unpack_info"].sum()) for call in engine.calls] == [4, 48]
    runner.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_that_the_request_masks_stays_masked(kind):
    runner, _ = start(kind, PackRunnerConfig())
    ids, mask = np.arange(1, 6, dtype=np.int32), np.array([1, 1, 0, 1, 0], np.int32)
    out = {"logits": np.zeros(8)}
    runner.execute({"input_ids": ids, "attention_mask": mask}, out)
    np.testing.assert_array_equal(out["logits"][:5], expected(ids, mask)["logits"])
    assert (out["logits"][[2, 4]] < 0).all()
    runner.close()


@pytest.mark.parametrize("kind", ["ragged", "fixed"])
def test_segments_are_split_as_the_caller_says_else_filled_in_order(kind):
    runner, _ = start(kind, PackRunnerConfig(), segments=(3, 5))
    inputs = sample(4) | {"input_ids": np.arange(1, 5), "position_ids": np.zeros(4, int)}
    out = {"logits": np.zeros(8)}
    runner.execute(inputs | {"unpack_info": np.array([1, 3])}, out)
    assert out["logits"].tolist() == [1, 0, 0, 2, 3, 4, 0, 0]
    runner.execute(inputs, out)
    assert out["logits"].tolist() == [1, 2, 3, 4, 0, 0, 0, 0]
    runner.close()


@pytest.mark.parametrize(("kind", "options"), [("ragged", {"send_when_idle": False}), ("fixed", {})])
def test_lanes_do_not_divide_what_was_to_be_a_full_pack(kind, options):
    config = PackRunnerConfig(timeout_microseconds=10**9, token_budget=64, lanes=2, **options)
    runner, engine = start(kind, config, rows=16, max_valid_num=64)
    worker = runner._worker
    waiting = [PackRequest([], [8], {}) for _ in range(8)]
    assert worker.is_full(8, 64) == (kind == "ragged")
    assert worker.choose(waiting) == waiting
    assert engine.calls == []
    runner.close()


def test_lanes_share_what_waits_for_an_engine_of_any_size():
    runner, _ = start("ragged", PackRunnerConfig(token_budget=64, lanes=2), rows=16, max_valid_num=64)
    assert runner.lanes == 2
    assert len(runner._worker.choose([PackRequest([], [8], {}) for _ in range(8)])) == 4
    runner.close()

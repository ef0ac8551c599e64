"""Packs that run at the same time share the memory for what is padded; a sample beyond it runs alone."""

from __future__ import annotations

import dataclasses
import logging
import threading

import numpy as np
import pytest

from poprt.executable import Executable
from poprt.runtime import PackRunner, PackRunnerConfig
from poprt.runtime.batching import Request
from poprt.runtime.memory_room import MemoryRoom
from tests.poprt.runtime.fake_engine import FakeEngine, executable, expected
from tests.poprt.runtime.recorder import blocked

SOON = 20


def compiled(**options: int) -> Executable:
    """An executable of 64 x 8 tokens whose packs need 48 bytes a pair of places, as 12 heads in float32 do."""
    plain = executable(rows=64, columns=8, max_valid_num=64, **options)
    packing = dataclasses.replace(plain.packing, cell_bytes=0, pair_bytes=48)
    return Executable.build(dataclasses.replace(plain.manifest, packing=packing), b"")


def sample(length: int) -> dict[str, np.ndarray]:
    ids = np.arange(1, length + 1, dtype=np.int32)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_the_room_is_what_the_packs_that_run_leave() -> None:
    room = MemoryRoom(10_000)
    assert room.left(3072, 8) == 10_000
    room.take(9216)
    assert room.left(768, 4) == 784
    assert room.left(3072, 8) is None
    room.give_back(9216)
    assert room.left(3072, 8) == 10_000


def test_a_sample_beyond_the_limit_waits_for_the_others_and_is_announced_once(caplog: pytest.LogCaptureFixture) -> None:
    room = MemoryRoom(1000)
    room.take(192)
    assert room.left(3072, 8) is None
    assert not caplog.records
    room.give_back(192)
    for _ in range(2):
        assert room.left(3072, 8) is not None
    (record,) = caplog.records
    assert record.getMessage() == (
        "max_pack_bytes=1000: a sample of 8 tokens needs about 3072 by itself; it and others like it run alone"
    )


def test_no_limit_and_an_executable_that_does_not_know_bound_nothing() -> None:
    unlimited = MemoryRoom(0)
    unlimited.take(1 << 40)
    assert unlimited.left(1 << 40, 8) is not None
    packing = executable().packing
    assert packing is not None
    assert packing.padded_bytes(64, packing.width) == 0


def test_a_full_pack_that_keeps_no_scores_counts_its_places_alone() -> None:
    packing = compiled().packing
    assert packing is not None
    fused = dataclasses.replace(packing, equal_lengths_cheaper=True, cell_bytes=10)
    assert fused.padded_bytes(3, 8) == 3 * 8 * (10 + 48 * 8)
    assert fused.padded_bytes(3, 8, full=True) == 3 * 8 * 10
    partly = dataclasses.replace(fused, full_pair_bytes=48)
    assert partly.padded_bytes(3, 8, full=True) == partly.padded_bytes(3, 8)
    assert packing.padded_bytes(3, 8, full=True) == packing.padded_bytes(3, 8)


class Counting(FakeEngine):
    """Notes the most bytes that were padded at the same time."""

    def __init__(self, executable: Executable) -> None:
        super().__init__(executable)
        self._lock = threading.Lock()
        self._now = self.most = 0

    def run(self, feeds, output_names=None):
        lengths = feeds["unpack_info"]
        need = self.packing.padded_bytes(len(lengths), int(lengths.max()))
        with self._lock:
            self._now += need
            self.most = max(self.most, self._now)
        try:
            return super().run(feeds, output_names)
        finally:
            with self._lock:
                self._now -= need


@pytest.mark.parametrize("limit", [6000, 20_000])
def test_lanes_together_keep_to_the_limit_and_every_request_is_answered(limit: int) -> None:
    built = compiled()
    engine = Counting(built)
    lengths = np.random.default_rng(0).integers(1, 9, 300).tolist()
    config = PackRunnerConfig(lanes=4, token_budget=256, max_pack_bytes=limit)
    with PackRunner(built, config, session=engine) as runner:
        outs = [{"logits": np.zeros(length, np.float32)} for length in lengths]
        for future in [runner.execute_async(sample(n), out) for n, out in zip(lengths, outs, strict=True)]:
            future.wait(SOON)
    for length, out in zip(lengths, outs, strict=True):
        np.testing.assert_array_equal(out["logits"], expected(sample(length)["input_ids"])["logits"])
    assert 0 < engine.most <= limit
    assert len(engine.calls) > 300 * 48 * 8 // limit


def test_what_is_too_large_for_the_limit_runs_one_after_the_other(caplog: pytest.LogCaptureFixture) -> None:
    built = compiled()
    engine = Counting(built)
    config = PackRunnerConfig(lanes=4, token_budget=256, max_pack_bytes=1)
    with caplog.at_level(logging.WARNING, "poprt"), PackRunner(built, config, session=engine) as runner:
        for future in [runner.execute_async(sample(8), {}) for _ in range(20)]:
            future.wait(SOON)
    assert engine.most == built.packing.padded_bytes(1, 8)
    assert len(engine.calls) == 20
    assert sum("max_pack_bytes" in record.getMessage() for record in caplog.records) == 1


def test_what_a_pack_held_is_released_once_and_before_its_answers_are_told() -> None:
    recorder, batcher, first = blocked(most=4)
    recorder.errors = {3: ValueError("spoilt")}
    released: list[int] = []
    first.add_done_callback(lambda _: released.append(len(recorder.released)))
    futures = [batcher.submit(Request(size)) for size in (1, 2, 3, 4)]
    recorder.gate.set()
    batcher.close()
    assert released == [1]
    assert recorder.released == [[0], [1, 2, 3, 4]]
    assert [future.exception(SOON) is None for future in futures] == [True, True, False, True]

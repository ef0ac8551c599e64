"""Which names a caller may feed."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from poprt.errors import InputError
from poprt.runtime import DeclaredSession, PackRunner
from poprt.runtime.buffers import InputNames
from tests.poprt.runtime.fake_engine import DYNAMIC, HIDDEN, FakeEngine, executable

SOON = 20


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


def test_positions_that_a_model_counts_by_itself_are_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    names = InputNames(["ids", "mask"])
    for _ in range(3):
        names.check(["ids", "position_ids"])
    assert warnings(caplog) == ["input 'position_ids' is not used: the executable has ids, mask"]


def test_any_other_name_stays_an_error_each_time() -> None:
    names = InputNames(["ids"])
    for name in ("unpack_info", "idz"):
        for _ in range(2):
            with pytest.raises(InputError, match=f"unknown input '{name}': the executable has ids"):
                names.check(["ids", name])


def test_known_names_are_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    InputNames(["ids", "position_ids"]).check(["position_ids", "ids"])
    assert not warnings(caplog)


def test_a_pack_runner_over_shared_rows_ignores_unpack_info(caplog: pytest.LogCaptureFixture) -> None:
    compiled = executable(layout="within_rows", ragged=False, unpack=False)
    ids = np.array([4, 7, 1], np.int32)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "unpack_info": np.zeros(6, np.int32)}
    results = []
    with PackRunner(compiled, session=FakeEngine(compiled)) as runner:
        for feeds in (inputs, {name: inputs[name] for name in DYNAMIC if name in inputs}, inputs):
            results.append(np.zeros((3, HIDDEN), np.float32))
            runner.execute_async(feeds, {"hidden": results[-1]}).wait(SOON)
    assert results[0].any()
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    assert len(warnings(caplog)) == 1


def test_a_session_takes_no_unpack_info_that_it_would_have_to_drop() -> None:
    compiled = executable(layout="within_rows", ragged=False, unpack=False)
    feeds = {name: np.zeros((3, 8), np.int32) for name in DYNAMIC}
    with pytest.raises(InputError, match="unknown input 'unpack_info'"):
        DeclaredSession(compiled, session=FakeEngine(compiled)).run({**feeds, "unpack_info": np.zeros(6, np.int32)})

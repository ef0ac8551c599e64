"""Options, descriptions and the choice of the runner."""

import dataclasses
import datetime
import gc
import logging
import weakref

import numpy as np
import pytest

from poprt.errors import PoprtError, RunnerClosedError
from poprt.executable import Executable
from poprt.runtime import ModelRunner, PackRunner, PackRunnerConfig, Runner, RuntimeConfig
from tests.poprt.runtime.fake_engine import FakeEngine, executable, expected, with_budget

SOON = 20


def start(config=None, **shape):
    config = with_budget(config)
    compiled = executable(**shape)
    return PackRunner(compiled, config, session=FakeEngine(compiled))


def sample(ids):
    ids = np.asarray(ids, np.int32)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_names_that_the_executable_lacks_are_refused_at_the_start():
    with pytest.raises(PoprtError, match="dynamic_input_name: 'ids' is not a dynamic input"):
        start(config=PackRunnerConfig(dynamic_input_name="ids"))
    config = PackRunnerConfig()
    config.enable_input_single_row_mode("mask")
    with pytest.raises(PoprtError, match="mask_name: 'mask' is not a dynamic input"):
        start(config, layout="within_rows", ragged=False, unpack=False)


def test_the_configuration_chooses_the_runner():
    compiled = executable()
    with Runner(compiled, PackRunnerConfig(), session=FakeEngine(compiled)) as runner:
        assert type(runner) is PackRunner
    for config in (None, RuntimeConfig()):
        with Runner(compiled, config, session=FakeEngine(compiled)) as runner:
            assert type(runner) is ModelRunner
    with pytest.raises(PoprtError, match="got dict"):
        Runner(compiled, {}, session=FakeEngine(compiled))


def test_older_names_of_the_methods_work():
    runner = start()
    out = {"logits": np.zeros(2)}
    runner.executeAsync(sample([1, 2]), out).wait(SOON)
    np.testing.assert_array_equal(out["logits"], expected(np.array([1, 2]))["logits"])
    assert [d.name for d in runner.getExecuteInputs()] == [d.name for d in runner.get_model_inputs()]
    assert [d.name for d in runner.getExecuteOutputs()] == [d.name for d in runner.getModelOutputs()]
    runner.close()


def test_descriptions_give_fresh_shapes_and_numpy_types():
    runner = start()
    ids, *_ = runner.get_execute_inputs()
    ids.shape[0] = 77
    assert ids.shape == [3, 8]
    assert ids.numpy_data_type() == "int32"
    assert not ids.popef_contains_tensor_data
    assert [d.numpy_data_type() for d in runner.get_execute_outputs()] == ["float16", "float32", "float32"]
    runner.close()


def test_a_misspelt_option_is_a_warning_with_the_nearest_name(caplog):
    with caplog.at_level(logging.WARNING, "poprt"):
        config = PackRunnerConfig()
        config.timeout_microsecond = 5
        RuntimeConfig().batch_dim = 0
    assert "'timeout_microsecond'" in caplog.text
    assert "Did you mean 'timeout_microseconds'" in caplog.text
    assert "Did you mean 'batching_dim'" in caplog.text


def test_an_option_that_is_out_of_range_is_refused():
    with pytest.raises(PoprtError, match="timeout_microseconds: expected >= 0, got -1"):
        start(config=PackRunnerConfig(timeout_microseconds=-1))
    with pytest.raises(PoprtError, match="algorithm"):
        start(config=PackRunnerConfig(algorithm="first_fit"))
    with pytest.raises(PoprtError, match="timeout_ns: expected a duration"):
        RuntimeConfig(timeout_ns=datetime.timedelta(-1)).timeout_seconds()


def test_single_row_mode_on_an_executable_whose_samples_cross_rows_is_announced(caplog):
    config = PackRunnerConfig()
    config.enable_input_single_row_mode("attention_mask")
    with caplog.at_level(logging.WARNING, "poprt"):
        start(config).close()
    assert "enable_input_single_row_mode has no effect" in caplog.text


def test_a_larger_max_valid_num_than_the_executables_is_announced(caplog):
    with caplog.at_level(logging.WARNING, "poprt"):
        start(PackRunnerConfig(max_valid_num=40)).close()
    assert "max_valid_num=40: the executable holds at most 6 samples" in caplog.text


def test_an_executable_without_packing_is_refused():
    packed = executable()
    plain = Executable.build(dataclasses.replace(packed.manifest, packing=None), b"")
    with pytest.raises(PoprtError, match="not packed"):
        PackRunner(plain, session=FakeEngine(packed))


def test_timeouts_are_nanoseconds_or_a_timedelta():
    assert RuntimeConfig(timeout_ns=1500).timeout_seconds() == pytest.approx(1.5e-6)
    assert RuntimeConfig(timeout_ns=datetime.timedelta(microseconds=300)).timeout_seconds() == pytest.approx(3e-4)
    with pytest.raises(PoprtError, match="timeout_ns: expected an int"):
        RuntimeConfig(timeout_ns="1").timeout_seconds()


def test_a_runner_that_is_dropped_ends_its_thread():
    runner = start()
    thread, gone = runner._batcher._queue.lanes[0], weakref.ref(runner)
    future = runner.execute_async(sample([1]), {})
    del runner
    gc.collect()
    assert gone() is None
    future.wait(SOON)
    thread.join(SOON)
    assert not thread.is_alive()


def test_leaving_a_with_block_closes_the_runner():
    with start() as runner:
        future = runner.execute_async(sample([1]), {})
    assert future.done()
    with pytest.raises(RunnerClosedError):
        runner.execute_async(sample([1]), {})

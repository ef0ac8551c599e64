"""Options of a wrong type or of values that cannot be meant: one clear message each, when the runner is made."""

import datetime
import math

import numpy as np
import pytest

from poprt.errors import InputError, PoprtError
from poprt.runtime import ModelRunner, PackRunner, PackRunnerConfig, Runner, RuntimeConfig
from tests.poprt.runtime.fake_engine import FakeEngine, executable

SOON = 20


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("lanes", "2", "lanes: expected a whole number, got '2'"),
        ("lanes", 2.0, "lanes: expected a whole number, got 2.0"),
        ("lanes", True, "lanes: expected a whole number, got True"),
        ("lanes", 0, "lanes: expected >= 1, got 0"),
        ("token_budget", math.nan, "token_budget: expected a whole number, got nan"),
        ("token_budget", -1, "token_budget: expected >= 0, got -1"),
        ("latency_target", "fast", "latency_target: expected a number of seconds or a timedelta, got 'fast'"),
        ("latency_target", -0.1, "latency_target: expected >= 0, got -0.1"),
        ("latency_target", 0, "latency_target: expected more than 0 seconds; None sets no bound"),
        ("latency_target", datetime.timedelta(seconds=-1), "latency_target: expected a duration >= 0"),
        ("max_pack_bytes", -1, "max_pack_bytes: expected >= 0, got -1"),
        ("max_pack_bytes", "1GB", "max_pack_bytes: expected a whole number, got '1GB'"),
        ("max_valid_num", None, "max_valid_num: expected a whole number, got None"),
        ("typical_lengths", "12,20", "typical_lengths: expected a list of whole numbers, got '12,20'"),
        ("typical_lengths", 12, "typical_lengths: expected a list of whole numbers, got 12"),
        ("typical_lengths", [12, 0], "typical_lengths: expected >= 1, got 0"),
        ("typical_lengths", [1.5], "typical_lengths: expected a whole number, got 1.5"),
        ("window", [128], "window: expected a whole number"),
        ("queue_limit", math.inf, "queue_limit: expected a whole number, got inf"),
        ("queue_tokens", 0, "queue_tokens: expected >= 1, got 0"),
        ("queue_tokens", "many", "queue_tokens: expected a whole number, got 'many'"),
        ("observer", 5, "observer: expected a function, got 5"),
        ("timeout_microseconds", math.nan, "timeout_microseconds: expected a number of microseconds, got nan"),
        ("timeout_microseconds", "5", "timeout_microseconds: expected a number of microseconds, got '5'"),
        ("timeout_microseconds", True, "timeout_microseconds: expected a number of microseconds, got True"),
        ("dynamic_input_name", 5, "dynamic_input_name: expected a string, got 5"),
        ("algorithm", "first_fit", "algorithm: expected PackAlgorithm.first_fit"),
        ("send_when_idle", "no", "send_when_idle: expected True or False, got 'no'"),
        ("single_row_mode", True, r"single_row_mode: is set by enable_input_single_row_mode\(\), got True"),
        ("padding_remove_mode", "mask", r"padding_remove_mode: is set by enable_padding_remove_mode\(\), got 'mask'"),
    ],
)
def test_options_of_a_pack_runner(option, value, message):
    config = PackRunnerConfig()
    setattr(config, option, value)
    compiled = executable()
    with pytest.raises(PoprtError, match=message):
        PackRunner(compiled, config, session=FakeEngine(compiled))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("timeout_ns", math.nan, "timeout_ns: expected an int of nanoseconds or a timedelta, got nan"),
        ("batch_size_timeout_ns", "5", "batch_size_timeout_ns: expected an int of nanoseconds"),
        ("batching_dim", "0", "batching_dim: expected a whole number, got '0'"),
        ("batching_dim", True, "batching_dim: expected a whole number, got True"),
        ("validate_io_params", "yes", "validate_io_params: expected True or False, got 'yes'"),
        ("check_package_hash", None, "check_package_hash: expected True or False, got None"),
        ("auto_reset", "yes", "auto_reset: expected True or False, got 'yes'"),
        ("ring_buffer_size_multiplier", 1.5, "ring_buffer_size_multiplier: expected a whole number, got 1.5"),
        ("queue_tokens", 0, "queue_tokens: expected >= 1, got 0"),
        ("observer", "print", "observer: expected a function, got 'print'"),
        ("ring_buffer_size_multiplier", 0, "ring_buffer_size_multiplier: expected >= 1, got 0"),
    ],
)
def test_options_of_a_model_runner(option, value, message):
    config = RuntimeConfig()
    setattr(config, option, value)
    compiled = executable()
    with pytest.raises(PoprtError, match=message):
        ModelRunner(compiled, config, session=FakeEngine(compiled))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": "2"}, "threads: expected a whole number, got '2'"),
        ({"threads": 0}, "threads: expected >= 1, got 0"),
        ({"providers": "CPUExecutionProvider"}, "providers: expected a list of names"),
        ({"providers": []}, "providers: expected a list of names"),
        ({"session": FakeEngine(executable()), "threads": 1}, "leave them out where session is given"),
        ({"session": FakeEngine(executable()), "spin_between_runs": False}, "leave them out where session is given"),
        ({"thread": 1}, "unknown option 'thread'"),
        ({"spin_between_runs": 1}, "spin_between_runs: expected True or False, got 1"),
    ],
)
@pytest.mark.parametrize("config", [RuntimeConfig(), PackRunnerConfig()])
def test_options_of_the_session(config, options, message):
    with pytest.raises(PoprtError, match=message):
        Runner(executable(), config, **options)


def test_the_executable_and_the_class_of_the_configuration():
    with pytest.raises(PoprtError, match="executable: expected an Executable or the path of one, got NoneType"):
        Runner(None)
    with pytest.raises(PoprtError, match="config: expected RuntimeConfig or None, got PackRunnerConfig"):
        ModelRunner(executable(), PackRunnerConfig())
    with pytest.raises(PoprtError, match="config: expected PackRunnerConfig or None, got RuntimeConfig"):
        PackRunner(executable(), RuntimeConfig())


def test_the_arguments_of_the_modes():
    config = PackRunnerConfig()
    with pytest.raises(PoprtError, match="delimiter_num: expected a whole number, got '1'"):
        config.enable_input_single_row_mode("mask", delimiter_num="1")
    with pytest.raises(PoprtError, match="mask_name: expected a string, got 5"):
        config.enable_input_single_row_mode(5)
    with pytest.raises(PoprtError, match="inputs: expected a list of names, got 'input_ids'"):
        config.enable_padding_remove_mode("mask", "input_ids")
    with pytest.raises(PoprtError, match="inputs: expected a string, got 5"):
        config.enable_padding_remove_mode("mask", [5])
    config.enable_input_single_row_mode("attention_mask", "lengths")
    compiled = executable(layout="within_rows", ragged=False)
    with pytest.raises(PoprtError, match="unpack_info_name: 'lengths' is not the input of the lengths"):
        PackRunner(compiled, config, session=FakeEngine(compiled))


def test_numpy_numbers_and_endless_timeouts_are_taken():
    compiled = executable()
    config = PackRunnerConfig(timeout_microseconds=math.inf, token_budget=np.int64(64), max_valid_num=np.int32(2))
    with PackRunner(compiled, config, session=FakeEngine(compiled)) as runner:
        runner.execute(*request())
    for timeout in (2**63 - 1, 10**400, datetime.timedelta.max):
        config = RuntimeConfig(timeout_ns=timeout, send_when_idle=False, validate_io_params=np.bool_(True))
        with ModelRunner(compiled, config, session=FakeEngine(compiled)):
            pass


def request():
    ids = np.arange(3, dtype=np.int32)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}, {"logits": np.zeros(3)}


class Unreadable:
    def __array__(self, *_, **__):
        raise RuntimeError("not now")


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (None, {}, "inputs: expected a mapping of names to arrays, got NoneType"),
        ({}, [np.zeros(3)], "outputs: expected a mapping of names to arrays, got list"),
        ({"input_ids": [[1], [2, 3]]}, {}, "input 'input_ids': list cannot be read as an array"),
        ({"input_ids": Unreadable()}, {}, "input 'input_ids': Unreadable cannot be read as an array: not now"),
        ({"input_ids": None}, {}, "input 'input_ids': expected int32, got object"),
        ({"input_ids": ["a", "b"]}, {}, "input 'input_ids': expected int32, got <U1"),
        ({5: np.zeros(3)}, {}, "unknown input 5"),
        ({"unpack_info": ["a", "b"]}, {}, "input 'unpack_info': expected whole numbers"),
    ],
)
def test_every_error_of_a_request_is_in_its_future(inputs, outputs, message):
    compiled = executable(segments=(3, 5))
    feeds, _ = request()
    feeds = feeds | inputs if isinstance(inputs, dict) else inputs
    with PackRunner(compiled, PackRunnerConfig(token_budget=8), session=FakeEngine(compiled)) as runner:
        future = runner.execute_async(feeds, outputs)
        with pytest.raises(InputError, match=message):
            future.wait(SOON)
        with pytest.raises(InputError, match=message):
            runner.execute(feeds, outputs)


def test_whatever_a_callers_mapping_raises_is_in_the_future():
    class Broken(dict):
        def __contains__(self, name):
            raise RuntimeError("broken")

    compiled = executable()
    for config in (PackRunnerConfig(token_budget=8), RuntimeConfig()):
        with Runner(compiled, config, session=FakeEngine(compiled)) as runner:
            future = runner.execute_async(Broken(request()[0]), {})
            with pytest.raises(RuntimeError, match="broken"):
                future.wait(SOON)


def test_the_memory_of_packs_grows_with_the_lanes_unless_the_caller_says_how_much():
    assert PackRunnerConfig().pack_bytes(1) == 128 << 20
    assert PackRunnerConfig().pack_bytes(16) == 2 << 30
    assert PackRunnerConfig(max_pack_bytes=5).pack_bytes(16) == 5
    assert PackRunnerConfig(max_pack_bytes=0).pack_bytes(16) == 0

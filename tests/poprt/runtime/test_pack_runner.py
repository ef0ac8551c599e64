import threading

import numpy as np
import pytest

from poprt.errors import InputError, RequestTooLongError, RunnerClosedError
from poprt.runtime import PackAlgorithm, PackRunner, PackRunnerConfig
from tests.poprt.runtime.fake_engine import BAD_ID, HIDDEN, FakeEngine, executable, expected, with_budget

SOON = 20
KINDS = {
    "ragged": {},
    "fixed": {"ragged": False},
    "within_rows": {"layout": "within_rows", "ragged": False, "unpack": False},
    "within_rows+unpack": {"layout": "within_rows", "ragged": False},
}


def start(kind="ragged", config=None, **shape):
    config = with_budget(config)
    compiled = executable(**{**KINDS[kind], **shape})
    engine = FakeEngine(compiled)
    return PackRunner(compiled, config, session=engine), engine


def sample(ids, **extra):
    ids = np.asarray(ids, np.int32)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), **extra}


def buffers(runner, length=8):
    room = {"logits": (length,), "hidden": (length, HIDDEN), "pooled": (2,)}
    dtypes = {"logits": np.float16}
    return {d.name: np.full(room[d.name], 99, dtypes.get(d.name, np.float32)) for d in runner.get_execute_outputs()}


def check(outputs, want, length):
    for name, buffer in outputs.items():
        kept = buffer if name == "pooled" else buffer[:length]
        np.testing.assert_array_equal(kept, want[name].astype(buffer.dtype))
        if name != "pooled":
            assert not buffer[length:].any()


def hold(engine, runner):
    """Keep the engine busy with one request, so that what follows is packed together."""
    engine.gate.clear()
    future = runner.execute_async(sample([1]), buffers(runner))
    assert engine.entered.wait(SOON)
    return future


@pytest.mark.parametrize("kind", KINDS)
def test_each_request_gets_what_it_gets_alone(kind):
    runner, engine = start(kind)
    rng = np.random.default_rng(0)
    requests = [rng.integers(0, 100, n) for n in (3, 4, 2, 5, 1, 8, 7, 1, 1, 6, 2, 3)]
    hold(engine, runner)
    outputs = [buffers(runner) for _ in requests]
    futures = [runner.execute_async(sample(ids), out) for ids, out in zip(requests, outputs, strict=True)]
    engine.gate.set()
    for future, ids, out in zip(futures, requests, outputs, strict=True):
        future.wait(SOON)
        check(out, expected(ids), len(ids))
    assert len(engine.calls) < len(requests)
    runner.close()


@pytest.mark.parametrize("algorithm", PackAlgorithm)
@pytest.mark.parametrize("delimiter", [0, 1, 2])
@pytest.mark.parametrize("kind", ["within_rows", "within_rows+unpack"])
def test_rows_are_shared_with_either_algorithm_and_any_delimiter(kind, delimiter, algorithm):
    config = PackRunnerConfig(dynamic_input_name="input_ids")
    config.algorithm = algorithm
    config.enable_input_single_row_mode("attention_mask", delimiter_num=delimiter)
    runner, engine = start(kind, config, max_valid_num=9)
    requests = [np.arange(n) + 20 * n for n in (5, 6, 3, 1, 2)]
    hold(engine, runner)
    outputs = [buffers(runner) for _ in requests]
    futures = [runner.execute_async(sample(ids), out) for ids, out in zip(requests, outputs, strict=True)]
    engine.gate.set()
    for future, ids, out in zip(futures, requests, outputs, strict=True):
        future.wait(SOON)
        check(out, expected(ids), len(ids))
    runner.close()


def test_the_mask_numbers_the_samples_of_a_row_and_unpack_info_steps_over_delimiters():
    config = PackRunnerConfig()
    config.enable_input_single_row_mode("attention_mask", delimiter_num=1)
    runner, engine = start("within_rows+unpack", config)
    hold(engine, runner)
    futures = [runner.execute_async(sample(np.arange(n)), {}) for n in (3, 4, 2, 5, 1)]
    engine.gate.set()
    for future in futures:
        future.wait(SOON)
    call = engine.calls[1]
    assert call["attention_mask"].tolist() == [
        [1, 1, 1, 0, 2, 2, 2, 2],
        [1, 1, 0, 2, 2, 2, 2, 2],
        [1, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert call["unpack_info"].tolist() == [[4], [4], [3], [5], [8], [0]]
    runner.close()


def test_a_pack_never_holds_more_than_max_valid_num_samples():
    runner, engine = start(config=PackRunnerConfig(max_valid_num=2))
    hold(engine, runner)
    futures = [runner.execute_async(sample([1]), {}) for _ in range(7)]
    engine.gate.set()
    for future in futures:
        future.wait(SOON)
    assert [len(call["unpack_info"]) for call in engine.calls] == [1, 2, 2, 2, 1]
    runner.close()


def test_statistics_count_packs_samples_and_tokens():
    runner, engine = start()
    hold(engine, runner)
    futures = [runner.execute_async(sample([1, 2]), {}) for _ in range(3)]
    engine.gate.set()
    for future in futures:
        future.wait(SOON)
    stats = runner.stats()
    assert (stats.packs, stats.samples, stats.tokens) == (2, 4, 7)
    assert stats.engine_seconds > 0
    runner.close()


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_threads_with_some_invalid_requests_get_their_own_answers(kind):
    runner, _ = start(kind)
    failures = []

    def client(seed):
        rng = np.random.default_rng(seed)
        for turn in range(40):
            ids = rng.integers(0, 300, rng.integers(1, 9))
            out = buffers(runner)
            fault = int(rng.integers(0, 8))
            try:
                if fault == 0:
                    with pytest.raises(RequestTooLongError, match=f"{9 + turn} tokens"):
                        runner.execute(sample(np.zeros(9 + turn)), out)
                elif fault == 1:
                    with pytest.raises(InputError, match="'attention_mask'"):
                        runner.execute({"input_ids": ids.astype(np.int32)}, out)
                elif fault == 2:
                    ids[0] = BAD_ID
                    with pytest.raises(ValueError, match="outside the vocabulary"):
                        runner.execute(sample(ids), out)
                else:
                    runner.execute(sample(ids), out)
                    check(out, expected(ids), len(ids))
            except BaseException as error:  # a failed check must not vanish with its thread
                failures.append(error)
                return

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures, failures[0]
    runner.close()


def test_neighbours_of_a_request_that_the_engine_refuses_are_answered():
    runner, engine = start()
    hold(engine, runner)
    good = [buffers(runner) for _ in range(4)]
    futures = [runner.execute_async(sample([7, i]), out) for i, out in enumerate(good)]
    bad = runner.execute_async(sample([BAD_ID]), buffers(runner))
    engine.gate.set()
    for i, (future, out) in enumerate(zip(futures, good, strict=True)):
        future.wait(SOON)
        check(out, expected(np.array([7, i])), 2)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        bad.wait(SOON)
    runner.close()


def test_a_dead_engine_fails_everything_pending():
    runner, engine = start()
    engine.death = KeyboardInterrupt()
    first = hold(engine, runner)
    later = runner.execute_async(sample([1]), {})
    engine.gate.set()
    for future in (first, later):
        with pytest.raises(RunnerClosedError, match="KeyboardInterrupt"):
            future.wait(SOON)
    with pytest.raises(RunnerClosedError):
        runner.execute(sample([1]), {})


def test_the_same_arrays_may_be_submitted_again_and_again():
    runner, _ = start()
    inputs, outputs = sample([4, 5, 6]), buffers(runner)
    view = outputs["logits"][:2]
    futures = [runner.execute_async(inputs, outputs) for _ in range(3000)]
    for future in futures:
        future.wait(SOON)
    check(outputs, expected(inputs["input_ids"]), 3)
    assert view.tolist() == outputs["logits"][:2].tolist() != [99, 99]
    runner.close()


def test_what_the_caller_gives_for_unpack_info_is_ignored_and_positions_are_filled():
    runner, engine = start()
    out = buffers(runner)
    runner.execute(sample([4, 5, 6], unpack_info=np.zeros(40, np.int32)), out)
    check(out, expected(np.array([4, 5, 6])), 3)
    assert engine.calls[0]["position_ids"].tolist() == [[0, 1, 2]]
    runner.execute(sample([4, 5, 6], position_ids=np.array([2, 3, 4])), out)
    check(out, expected(np.array([4, 5, 6]), positions=np.array([2, 3, 4])), 3)
    runner.close()


def test_inputs_may_have_a_leading_axis_and_any_integer_type():
    runner, _ = start()
    out = buffers(runner)
    ids = np.array([[4, 5, 6]])
    runner.execute({"input_ids": ids, "attention_mask": np.ones((1, 3), np.int8)}, out)
    check(out, expected(ids[0]), 3)
    runner.close()


@pytest.mark.parametrize("shape", [(3,), (8,), (1, 8), (2, 5), (4, 1, 2)])
def test_buffers_of_any_shape_with_enough_room_are_filled_from_their_start(shape):
    runner, _ = start()
    out = {"logits": np.full(shape, 99, np.float16), "pooled": np.full((1, 2), 99, np.float16)}
    runner.execute(sample([4, 5, 6]), out)
    want = np.zeros(shape, np.float16)
    want.flat[:3] = expected(np.array([4, 5, 6]))["logits"]
    np.testing.assert_array_equal(out["logits"], want)
    assert out["pooled"].tolist() == [expected(np.array([4, 5, 6]))["pooled"].tolist()]
    runner.close()


def test_a_buffer_that_is_a_strided_view_is_filled_in_place():
    runner, _ = start()
    whole = np.full((8, 2), 99, np.float32)
    runner.execute(sample([4, 5, 6]), {"logits": whole[:, 0]})
    np.testing.assert_array_equal(whole[:3, 0], expected(np.array([4, 5, 6]))["logits"])
    assert (whole[:, 1] == 99).all()
    runner.close()


READ_ONLY = np.zeros(8)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"attention_mask": np.ones(2, np.int32)}, {}, "'input_ids' has 3 tokens, 'attention_mask' has 2"),
        ({"input_ids": np.ones(3, np.float32)}, {}, "'input_ids': expected int32, got float32"),
        ({"input_ids": np.ones((3, 1), np.int32)}, {}, r"shape \[L\] or \[1, L\], got \[3, 1\]"),
        ({"input_ids": np.ones(0, np.int32), "attention_mask": np.ones(0, np.int32)}, {}, "no tokens"),
        ({"nope": np.ones(3, np.int32)}, {}, "unknown input 'nope'"),
        ({}, {"nope": np.zeros(8)}, "unknown output 'nope'"),
        ({}, {"logits": np.zeros(2)}, r"'logits': expected room for shape \[3\], got \[2\]"),
        ({}, {"hidden": np.zeros((2, 3))}, r"'hidden': expected room for shape \[3, 3\], got \[2, 3\]"),
        ({}, {"logits": [0.0] * 8}, "'logits': expected a numpy array"),
        ({}, {"logits": READ_ONLY}, "'logits': the array is read-only"),
    ],
)
def test_a_wrong_request_names_the_tensor_in_both_ways_to_call(inputs, outputs, message):
    runner, engine = start()
    request = sample([1, 2, 3]) | inputs
    with pytest.raises(InputError, match=message):
        runner.execute(request, outputs)
    future = runner.execute_async(request, outputs)
    with pytest.raises(InputError, match=message):
        future.wait(SOON)
    assert engine.calls == []
    runner.close()


def test_padding_is_removed_where_the_config_says_so():
    config = PackRunnerConfig()
    config.enable_padding_remove_mode("attention_mask", ["input_ids"])
    runner, engine = start(config=config)
    out = buffers(runner)
    inputs = {
        "input_ids": np.array([[4, 5, 6, 0, 0, 0, 0, 0, 0, 0]]),
        "attention_mask": np.array([[1, 1, 1] + [0] * 7]),
    }
    runner.execute(inputs, out)
    check(out, expected(np.array([4, 5, 6])), 3)
    runner.execute(inputs | {"position_ids": np.arange(3)}, out)
    assert [call["input_ids"].shape for call in engine.calls] == [(1, 3), (1, 3)]
    runner.close()

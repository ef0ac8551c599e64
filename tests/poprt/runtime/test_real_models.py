"""The runners over real executables, judged by each sample alone in onnxruntime without its optimiser."""

import threading
from functools import cache

import numpy as np
import onnx
import onnx.version_converter
import pytest

from models.bert import SIZES, BertConfig, build_bert
from passes.manager import PassManager
from poprt.backend import get_session
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.runtime import ModelRunner, PackAlgorithm, PackRunnerConfig, Runner, RuntimeConfig, pack_data
from tests.numerics import one_by_one, random_samples

SOON = 60
ROWS, COLUMNS, MOST = 3, 32, 10
LENGTHS = [5, 32, 1, 17, 9, 30, 2, 2, 12, 25, 7, 1, 31, 3]
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3}


@cache
def built(head, precision="fp32", packed=True, position_ids=True):
    """Return the original model and its executable."""
    model = build_bert(BertConfig(**SIZES["tiny"], head=head, position_ids=position_ids))
    shapes = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    pack_args = {"max_valid_num": MOST, "segment_max_size": COLUMNS} if packed else None
    converted = Converter(input_shape=shapes, precision=precision, pack_args=pack_args).convert(model)
    return model, Compiler.compile(converted)


def samples_for(position_ids=True):
    return random_samples(LENGTHS, position_ids=position_ids)


def assert_close(got, want, precision):
    assert got.size >= want.size
    flat = got.reshape(-1)
    np.testing.assert_allclose(
        flat[: want.size], want.reshape(-1), atol=TOLERANCE[precision], rtol=TOLERANCE[precision]
    )
    assert not flat[want.size :].any()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("head", ["qa", "sequence", "token", "mean", "hidden"])
def test_a_packed_request_gives_what_the_original_model_gives_for_it_alone(head, precision):
    model, executable = built(head, precision)
    samples = samples_for()
    runner = Runner(executable, PackRunnerConfig(timeout_microseconds=1000), threads=1)
    outputs = [
        {d.name: np.full(d.shape[1:], 9, d.numpy_data_type()) for d in runner.get_execute_outputs()} for _ in samples
    ]
    futures = [runner.execute_async(sample, out) for sample, out in zip(samples, outputs, strict=True)]
    for future in futures:
        future.wait(SOON)
    for out, want in zip(outputs, one_by_one(model, samples), strict=True):
        for name, values in want.items():
            assert_close(out[name], values, precision)
    runner.close()


def test_a_packed_request_may_leave_out_positions():
    model, executable = built("qa")
    samples = samples_for()
    with Runner(executable, PackRunnerConfig(), threads=1) as runner:
        for sample, want in zip(samples, one_by_one(model, samples), strict=True):
            inputs = {name: value for name, value in sample.items() if name != "position_ids"}
            out = {"start_logits": np.zeros(COLUMNS, np.float32)}
            runner.execute(inputs, out)
            assert_close(out["start_logits"], want["start_logits"], "fp32")


@pytest.mark.parametrize("head", ["qa", "sequence"])
def test_offline_packs_through_a_session_give_the_same(head):
    model, executable = built(head)
    samples = samples_for()
    runner = ModelRunner(executable, threads=1)
    index, rows = 0, []
    while index < len(samples):
        pack = pack_data(samples, index, ROWS, COLUMNS, MOST, 1, across_rows=True)
        out = {d.name: np.zeros(d.shape, d.numpy_data_type()) for d in runner.get_execute_outputs()}
        runner.execute({**pack.data, "unpack_info": pack.unpack_info}, out)
        rows += [{name: array[i] for name, array in out.items()} for i in range(len(pack.specs))]
        index = pack.count
    for got, want in zip(rows, one_by_one(model, samples), strict=True):
        for name, values in want.items():
            assert_close(got[name], values, "fp32")
    runner.close()


def test_an_id_outside_the_vocabulary_fails_alone():
    model, executable = built("qa")
    samples = samples_for()[:6]
    bad = dict(samples[2], input_ids=np.full_like(samples[2]["input_ids"], 10**6))
    runner = Runner(executable, PackRunnerConfig(), threads=1)
    outputs = [{"start_logits": np.zeros(COLUMNS, np.float32)} for _ in samples]
    requests = [*samples[:2], bad, *samples[3:]]
    futures = [runner.execute_async(sample, out) for sample, out in zip(requests, outputs, strict=True)]
    for i, (future, want) in enumerate(zip(futures, one_by_one(model, samples), strict=True)):
        if i == 2:
            assert future.exception(SOON) is not None
        else:
            future.wait(SOON)
            assert_close(outputs[i]["start_logits"], want["start_logits"], "fp32")
    runner.close()


@cache
def sharing_rows(head):
    """Return the original model and an executable whose samples share rows."""
    model = build_bert(BertConfig(**SIZES["tiny"], head=head))
    fixed = onnx.version_converter.convert_version(model, 17)
    for value in [*fixed.graph.input, *fixed.graph.output]:
        for dim, extent in zip(value.type.tensor_type.shape.dim, (ROWS, COLUMNS), strict=False):
            dim.dim_value = extent
    return model, Compiler.compile(PassManager(["int64_to_int32", "insert_attention_mask"]).run(fixed))


@pytest.mark.parametrize("algorithm", PackAlgorithm)
@pytest.mark.parametrize("delimiter", [0, 1])
def test_samples_that_share_rows_give_what_the_original_model_gives_for_them_alone(algorithm, delimiter):
    model, executable = sharing_rows("qa")
    samples = samples_for(position_ids=False)
    config = PackRunnerConfig(algorithm=algorithm)
    config.enable_input_single_row_mode("attention_mask", delimiter_num=delimiter)
    with Runner(executable, config, threads=1) as runner:
        outputs = [{"start_logits": np.zeros(COLUMNS, np.float32)} for _ in samples]
        for future in [runner.execute_async(*pair) for pair in zip(samples, outputs, strict=True)]:
            future.wait(SOON)
    for out, want in zip(outputs, one_by_one(model, samples), strict=True):
        assert_close(out["start_logits"], want["start_logits"], "fp32")


def test_dynamic_batch_size_from_several_threads_over_a_real_model(tmp_path):
    model, executable = built("sequence", packed=False, position_ids=False)
    path = tmp_path / "executable.popef"
    executable.save(path)
    runner = Runner(path, RuntimeConfig(batching_dim=0, timeout_ns=300_000), threads=1)
    reference = get_session(model, backend="onnxruntime").load()
    failures = []

    def client(seed):
        rng = np.random.default_rng(seed)
        try:
            for n in (1, 2, 3, 4, 7):
                feeds = {
                    "input_ids": rng.integers(5, 1000, (n, COLUMNS)),
                    "attention_mask": np.ones((n, COLUMNS), np.int64),
                    "token_type_ids": np.zeros((n, COLUMNS), np.int64),
                }
                out = {"logits": np.zeros((n, 2), np.float32)}
                runner.execute(feeds, out)
                (want,) = reference.run(["logits"], feeds)
                np.testing.assert_allclose(out["logits"], want, atol=1e-5)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert not failures, failures[0]
    runner.close()

"""What OpenVINO answers, where it is installed: alone, in packs, beside any neighbours, from many threads."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import onnx
import pytest
from onnx import helper

pytest.importorskip("openvino", reason="the other engine is an extra: pip install 'poprt[openvino]'")

from benchmarks.contenders import Packed, Result
from benchmarks.workloads import convert_packed
from models.bert import SIZES, BertConfig, build_bert
from poprt import runtime
from poprt.compiler import Compiler, CompilerOptions
from poprt.converter import Converter
from poprt.engine.openvino_session import OpenVinoSession
from poprt.errors import InputError, PoprtError, UnsupportedOperatorError
from poprt.executable import Executable
from poprt.manifest import ONNXRUNTIME, OPENVINO
from poprt.runtime.opening import Opening, open_executable, try_engines
from tests.numerics import one_by_one, random_samples

#: Of the largest value of an answer. int8 rounds 7 layers of activations and weights of random numbers.
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 2e-2, "int8": 3e-2}
LENGTHS = [5, 40, 1, 17, 9, 30, 2, 17]
SAMPLES = random_samples(LENGTHS)


@cache
def model() -> onnx.ModelProto:
    return build_bert(BertConfig(**SIZES["tiny"], head="qa"), 0)


@cache
def executable(precision: str) -> Executable:
    return Compiler.compile(convert_packed(model(), 64, precision), options=CompilerOptions(engine="auto"))


@cache
def reference() -> list[dict[str, np.ndarray]]:  # type: ignore[type-arg]
    return one_by_one(model(), SAMPLES)


def answers(precision: str, samples: list[dict[str, np.ndarray]], **config: object) -> list[Result]:  # type: ignore[type-arg]
    options = runtime.PackRunnerConfig(engine=OPENVINO, **config)  # type: ignore[arg-type]
    with runtime.PackRunner(executable(precision), options) as runner:
        return Packed("openvino", runner).run(samples)


@pytest.mark.parametrize("precision", TOLERANCE)
def test_packs_answer_each_sample_as_the_original_does_alone(precision: str) -> None:
    for mine, expected in zip(answers(precision, SAMPLES), reference(), strict=True):
        for name, values in expected.items():
            assert np.abs(mine[name] - values).max() <= TOLERANCE[precision] * max(1, np.abs(values).max())


@pytest.mark.parametrize("precision", TOLERANCE)
def test_other_tokens_beside_a_sample_change_no_bit_of_its_answer(precision: str) -> None:
    """The same shapes, with other tokens in all neighbours."""
    session = open_executable(executable(precision), Opening(OPENVINO, lanes=1)).session
    own = SAMPLES[1]["input_ids"]
    rng = np.random.default_rng(3)

    def first(neighbours: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        tokens = np.concatenate([own, neighbours])[None].astype(np.int32)
        feeds = {
            "input_ids": tokens,
            "attention_mask": np.ones_like(tokens),
            "token_type_ids": np.zeros_like(tokens),
            "unpack_info": np.array([[40], [17], [30]], np.int32),
        }
        return session.run(feeds)[0][0, :40]

    vocab = SIZES["tiny"]["vocab"]
    once = first(rng.integers(5, vocab, 47))
    for _ in range(3):
        np.testing.assert_array_equal(first(rng.integers(5, vocab, 47)), once)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_fourteen_threads_get_their_own_answers(precision: str) -> None:
    with runtime.PackRunner(executable(precision), runtime.PackRunnerConfig(engine=OPENVINO)) as runner:
        packed = Packed("openvino", runner)
        with ThreadPoolExecutor(14) as pool:
            runs = list(pool.map(lambda _: packed.run(SAMPLES), range(14)))
    for run in runs:
        for mine, expected in zip(run, reference(), strict=True):
            for name, values in expected.items():
                assert np.abs(mine[name] - values).max() <= TOLERANCE[precision] * max(1, np.abs(values).max())


def test_a_model_of_fixed_shape_answers_any_batch() -> None:
    hidden = build_bert(BertConfig(**SIZES["tiny"], head="mean"), 0)
    shapes = {value.name: [4, 8] for value in hidden.graph.input}
    converted = Converter(input_shape=shapes, disable_progress_bar=True).convert(hidden)
    compiled = Compiler.compile(converted, options=CompilerOptions(engine="auto"))
    feeds = {name: np.ones((3, 8), np.int32) for name in shapes}
    results = []
    for engine in (ONNXRUNTIME, OPENVINO):
        with runtime.ModelRunner(compiled, runtime.RuntimeConfig(batching_dim=0, engine=engine)) as runner:
            out = np.empty((3, SIZES["tiny"]["hidden"]), np.float32)
            runner.execute(feeds, {runner.get_execute_outputs()[0].name: out})
            results.append(out)
    np.testing.assert_allclose(results[1], results[0], atol=1e-5)


def test_the_faster_engine_is_taken_and_the_figures_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "poprt"):
        opened, trials = try_engines(executable("fp32"), Opening("auto"))
    assert [trial.engine for trial in trials] == [ONNXRUNTIME, OPENVINO]
    assert [trial.engine for trial in trials if trial.chosen] == [opened.engine]
    paces = {trial.engine: trial.pace.a_second for trial in trials if trial.pace is not None}
    assert set(paces) == {ONNXRUNTIME, OPENVINO}
    assert (opened.engine == OPENVINO) == (paces[OPENVINO] > 1.05 * paces[ONNXRUNTIME])
    assert f"engine {opened.engine} is used" in caplog.text
    assert "tokens/s" in caplog.text


def unknown_operator() -> Executable:
    """A graph that OpenVINO has no rule for."""
    nodes = [helper.make_node("OptionalHasElement", ["x"], ["y"], name="asks")]
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.BOOL, [])]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return Compiler.compile(proto, options=CompilerOptions(engine="auto"))


def test_an_operator_that_it_lacks_is_named_and_auto_goes_on_without_it(caplog: pytest.LogCaptureFixture) -> None:
    compiled = unknown_operator()
    with pytest.raises(UnsupportedOperatorError, match=r"OptionalHasElement.*engine='onnxruntime'"):
        runtime.ModelRunner(compiled, runtime.RuntimeConfig(engine=OPENVINO))
    with runtime.ModelRunner(compiled, runtime.RuntimeConfig(engine="auto")) as runner:
        out = np.empty((), np.bool_)
        runner.execute({"x": np.ones(2, np.float32)}, {"y": out})
    assert out
    assert "engine openvino is left out" in caplog.text


def test_a_session_refuses_wrong_feeds_by_name() -> None:
    session = OpenVinoSession(executable("fp32").for_engine(OPENVINO))
    tokens = np.ones((1, 4), np.int32)
    feeds = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), tokens)
    lengths = np.array([[4]], np.int32)
    with pytest.raises(InputError, match="missing input 'unpack_info'"):
        session.run(feeds)
    with pytest.raises(InputError, match="unknown output 'nothing'"):
        session.run({**feeds, "unpack_info": lengths}, ["nothing"])
    with pytest.raises(InputError, match="has type float64"):
        session.run({**feeds, "input_ids": tokens * 1.5, "unpack_info": lengths})
    read_only = tokens.copy()
    read_only.flags.writeable = False
    assert session.run({**feeds, "input_ids": read_only, "unpack_info": lengths})[0].shape == (1, 4)


def test_a_graph_for_another_engine_is_refused() -> None:
    with pytest.raises(PoprtError, match="lowered for onnxruntime"):
        OpenVinoSession(executable("fp32").for_engine(ONNXRUNTIME))


def test_attention_is_one_kernel_that_keeps_no_scores() -> None:
    """OpenVINO makes it of the standard operators, mask and all: the graph that it runs has no softmax of its own."""
    session = OpenVinoSession(executable("fp32").for_engine(OPENVINO))
    ran = session._idle.get().get_compiled_model().get_runtime_model()
    kinds = [op.get_rt_info()["layerType"].astype(str) for op in ran.get_ops()]
    assert "Softmax" not in kinds
    assert kinds.count("Subgraph") >= SIZES["tiny"]["layers"]

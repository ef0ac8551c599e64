"""What OpenVINO answers, where it is installed: alone, in packs, beside any neighbours, from many threads."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

pytest.importorskip("openvino", reason="the other engine is an extra: pip install 'poprt[openvino]'")

from benchmarks.contenders import Array, Packed, Result
from benchmarks.workloads import convert_packed
from models.bert import SIZES, BertConfig, build_bert
from passes.placeholders import placeholder
from passes.precision.float_to_bfloat16 import COMPUTE_KEY
from poprt import runtime
from poprt.compiler import Compiler, CompilerOptions
from poprt.converter import Converter
from poprt.engine.openvino_session import OpenVinoSession
from poprt.errors import (
    CompileError,
    DamagedExecutableError,
    ExecutableError,
    InputError,
    PoprtError,
    UnsupportedOperatorError,
)
from poprt.executable import Executable
from poprt.manifest import ONNXRUNTIME, OPENVINO
from poprt.runtime.opening import Opening, open_executable, try_engines
from tests import numerics
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
def reference() -> list[dict[str, Array]]:
    return one_by_one(model(), SAMPLES)


def answers(precision: str, samples: list[dict[str, Array]], **config: object) -> list[Result]:
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

    def first(neighbours: Array) -> Array:
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


def test_samples_that_share_a_row_answer_as_alone() -> None:
    """AttentionMask of a packed row is a local function, which OpenVINO has not."""
    shapes = {value.name: [4, 40] for value in model().graph.input}
    converter = Converter(
        input_shape=shapes,
        pack_args={"max_valid_num": 8, "segment_max_size": 40},
        used_passes=["insert_attention_mask"],
        disable_progress_bar=True,
    )
    within = Compiler.compile(converter.convert(model()), options=CompilerOptions(engine="auto"))
    assert within.manifest.packing is not None
    assert within.manifest.packing.within_rows
    with runtime.PackRunner(within, runtime.PackRunnerConfig(engine=OPENVINO)) as runner:
        packed = Packed("openvino", runner).run(SAMPLES)
    for mine, expected in zip(packed, reference(), strict=True):
        for name, values in expected.items():
            assert np.abs(mine[name] - values).max() <= 1e-5 * max(1, np.abs(values).max())


def parsed(text: str, **weights: Array) -> onnx.ModelProto:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return proto


def in_bfloat16(proto: onnx.ModelProto) -> OpenVinoSession:
    """What OpenVINO makes of a model that may be computed in bfloat16."""
    proto.metadata_props.add(key=COMPUTE_KEY, value="bfloat16")
    return OpenVinoSession(Compiler.compile(proto, options=CompilerOptions(engine=OPENVINO)))


def test_positions_that_are_computed_in_floats_stay_exact_in_bfloat16() -> None:
    """As T5 and MPNet do: the logarithm of a distance says what row of a table is read."""
    proto = parsed(
        "(int64[1000] n) => (float[1000, 32] y) "
        "{ f = Cast<to = 1>(n) l = Log(f) p = Mul(l, w1) bucket = Cast<to = 7>(p) "
        "t = Gather(w, bucket) y = MatMul(t, w) }",
        w=np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32),
        w1=np.array(3.5, np.float32),
    )
    feeds = {"n": np.arange(1, 1001)}
    (y,) = in_bfloat16(proto).run(feeds)
    expected = numerics.run(proto, feeds)["y"]
    assert np.abs(y - expected).max() <= 2e-2 * np.abs(expected).max()


def test_angles_of_large_positions_stay_exact_in_bfloat16() -> None:
    proto = parsed(
        "(int64[1000, 1] n) => (float[1000, 32] y) { f = Cast<to = 1>(n) a = Mul(f, w1) c = Cos(a) y = MatMul(c, w) }",
        w=np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32),
        w1=np.linspace(0.1, 1, 32, dtype=np.float32),
    )
    feeds = {"n": np.arange(1000)[:, None]}
    (y,) = in_bfloat16(proto).run(feeds)
    expected = numerics.run(proto, feeds)["y"]
    assert np.abs(y - expected).max() <= 2e-2 * np.abs(expected).max()


@pytest.mark.parametrize("factor", [-1e4, np.finfo(np.float32).min])
def test_a_constant_bias_beside_a_mask_is_kept(factor: float) -> None:
    """T5 of fixed shape: OpenVINO takes the mask's factor out of the sum, and the bias is lost beside the 1."""
    proto = parsed(
        "(float[2, 1, 4] mask) => (float[2, 4, 4] y) { a = Sub(one, mask) m = Mul(a, factor) y = Add(bias, m) }",
        bias=np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 4, 4),
        one=np.array(1, np.float32),
        factor=np.array(factor, np.float32),
    )
    session = OpenVinoSession(Compiler.compile(proto, options=CompilerOptions(engine=OPENVINO)))
    feeds = {"mask": np.ones((2, 1, 4), np.float32)}
    np.testing.assert_allclose(session.run(feeds)[0], numerics.run(proto, feeds)["y"], rtol=1e-5)


def test_whole_numbers_that_it_would_cut_off_are_refused() -> None:
    compiled = Compiler.compile(
        parsed("(int64[2] x) => (int64[2] y) { y = Add(x, x) }"), options=CompilerOptions(engine="auto")
    )
    session = OpenVinoSession(compiled.for_engine(OPENVINO))
    assert session.run({"x": np.array([3, -(2**20)])})[0].tolist() == [6, -(2**21)]
    with pytest.raises(InputError, match=r"'x' has values from 3 to 1099511627776.*32 bits"):
        session.run({"x": np.array([3, 2**40])})


def test_float64_is_left_to_onnxruntime() -> None:
    proto = parsed("(double[2] x) => (double[2] y) { y = Exp(x) }")
    assert Compiler.compile(proto, options=CompilerOptions(engine="auto")).manifest.engines == (ONNXRUNTIME,)
    with pytest.raises(CompileError, match="float64"):
        Compiler.compile(proto, options=CompilerOptions(engine=OPENVINO))


def linear() -> Executable:
    proto = parsed(
        "(float[2, 64] x, int64[2] k) => (float[2, 64] y, int64[2] z) { y = MatMul(x, w) z = Add(k, k) }",
        w=np.ones((64, 64), np.float32),
    )
    return Compiler.compile(proto, options=CompilerOptions(engine=OPENVINO))


def rename_an_input(graph: onnx.GraphProto) -> None:
    graph.input[0].name = graph.node[0].input[0] = "q"


def widen_a_weight(graph: onnx.GraphProto) -> None:
    (weight,) = (value for value in graph.input if value.name == "w")
    weight.type.tensor_type.shape.dim[1].dim_value = 32


def drop_an_output(graph: onnx.GraphProto) -> None:
    del graph.output[1]


def swap_the_outputs(graph: onnx.GraphProto) -> None:
    first = graph.output.pop(0)
    graph.output.append(first)


def retype_an_input(graph: onnx.GraphProto) -> None:
    for value in (graph.input[1], graph.output[1]):
        value.type.tensor_type.elem_type = onnx.TensorProto.INT32


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (rename_an_input, r"inputs and weights.*'q'"),
        (widen_a_weight, r"inputs and weights.*'w' float32\[64, 32\]"),
        (retype_an_input, r"inputs and weights.*'k' int32"),
        (drop_an_output, "outputs.*1 of them"),
        (swap_the_outputs, "outputs.*'z' int64 in the place of 'y'"),
    ],
)
def test_a_graph_of_other_tensors_than_the_manifest_says_is_refused(
    damage: Callable[[onnx.GraphProto], None], told: str
) -> None:
    whole = linear()
    graph = onnx.load_from_string(whole.graph)
    damage(graph.graph)
    weights = {spec.name: whole.weight(spec.name) for spec in whole.manifest.weights}
    damaged = Executable.build(whole.manifest, graph.SerializeToString(), weights)
    with pytest.raises(DamagedExecutableError, match=told):
        OpenVinoSession(damaged)


def test_a_graph_that_would_read_a_file_beside_it_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    """onnxruntime is given such weights by name; OpenVINO would look for them in the current folder."""
    whole = linear()
    graph = onnx.load_from_string(whole.graph)
    (number,) = (n for n, value in enumerate(graph.graph.input) if value.name == "w")
    del graph.graph.input[number]
    graph.graph.initializer.append(placeholder("w", onnx.TensorProto.FLOAT, [64, 64], "weights.bin"))
    damaged = Executable.build(whole.manifest, graph.SerializeToString(), {"w": whole.weight("w")})
    with pytest.raises(PoprtError, match=r"'w'.*weights\.bin"):
        damaged.save(tmp_path_factory.mktemp("x") / "x.popef")


def test_the_operator_that_is_not_understood_is_named_with_the_reason() -> None:
    whole = linear()
    graph = onnx.load_from_string(whole.graph)
    graph.graph.node[0].op_type = "Concat"
    graph.graph.node[0].attribute.append(helper.make_attribute("axis", 7))
    weights = {spec.name: whole.weight(spec.name) for spec in whole.manifest.weights}
    with pytest.raises(ExecutableError, match=r"Concat.*[Aa]xis 7"):
        OpenVinoSession(Executable.build(whole.manifest, graph.SerializeToString(), weights))


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

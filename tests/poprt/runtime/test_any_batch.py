"""Executables whose graph takes any number of rows: each request pays for its own, and the answers stay."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.bert import SIZES, BertConfig, build_bert
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.engine.plain import plain_session
from poprt.errors import ExecutableError, InputError
from poprt.executable import Executable
from poprt.runtime import ModelRunner, RuntimeConfig
from tests.passes.rewrites import parse

Arrays = dict[str, np.ndarray]
ROWS = 4
RNG = np.random.default_rng(3)


def bert() -> tuple[onnx.ModelProto, dict[str, list[int]]]:
    model = build_bert(BertConfig(**SIZES["tiny"]))
    return model, {item.name: [ROWS, 16] for item in model.graph.input}


def network(body: str, inputs: str, output: str, **weights: np.ndarray) -> onnx.ModelProto:
    model = parse(f"m ({inputs}) => ({output} y) {{ {body} }}")
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items())
    return model


def convolutions() -> tuple[onnx.ModelProto, dict[str, list[int]]]:
    body = """
        c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, k1)  n = BatchNormalization (c, s, s, s, s)  r = Relu (n)
        d = Conv <pads = [1, 1, 1, 1]> (r, k2)  a = Add (r, d)  p = GlobalAveragePool (a)  f = Flatten (p)
        y = Gemm (f, w)
    """
    k1, k2, w = RNG.normal(size=(8, 3, 3, 3)), RNG.normal(size=(8, 8, 3, 3)), RNG.normal(size=(8, 5))
    model = network(body, "float[N, 3, 16, 16] x", "float[N, 5]", k1=k1, k2=k2, w=w, s=RNG.uniform(1, 2, 8))
    return model, {"x": [ROWS, 3, 16, 16]}


def layers() -> tuple[onnx.ModelProto, dict[str, list[int]]]:
    body = "h = Gemm (x, w1)  r = Relu (h)  y = Gemm (r, w2)"
    w1, w2 = RNG.normal(size=(8, 32)), RNG.normal(size=(32, 3))
    return network(body, "float[N, 8] x", "float[N, 3]", w1=w1, w2=w2), {"x": [ROWS, 8]}


def request(executable: Executable, rows: int) -> tuple[Arrays, Arrays]:
    """Inputs that respect their meaning, and room for the outputs."""

    def values(spec: Any) -> np.ndarray:
        shape = (rows, *spec.shape[1:])
        if spec.dtype.startswith("float"):
            return RNG.normal(size=shape).astype(spec.dtype)
        return np.ones(shape, spec.dtype) if "mask" in spec.name else RNG.integers(0, 2, shape).astype(spec.dtype)

    manifest = executable.manifest
    inputs = {spec.name: values(spec) for spec in manifest.inputs}
    return inputs, {spec.name: np.zeros((rows, *spec.shape[1:]), spec.dtype) for spec in manifest.outputs}


def held(executable: Executable) -> Executable:
    """The same graph, run in its declared shapes."""
    manifest = dataclasses.replace(executable.manifest, batch_axes={}, batch_held="for comparison")
    weights = {spec.name: executable.weight(spec.name) for spec in executable.manifest.weights}
    return Executable.build(manifest, executable.graph, weights)


CASES = {
    "bert, fp32": (bert, "fp32", 1e-5),
    "bert, fp16": (bert, "fp16", 5e-3),
    "bert, int8": (bert, "int8", 5e-2),
    "convolutions": (convolutions, "fp32", 1e-5),
    "layers": (layers, "fp32", 1e-5),
}


@pytest.mark.parametrize(("build", "precision", "tolerance"), CASES.values(), ids=CASES)
def test_any_number_of_rows_is_answered_as_by_the_original_and_as_when_padded(
    build: Any, precision: str, tolerance: float
) -> None:
    model, shapes = build()
    executable = Compiler.compile(Converter(input_shape=shapes, precision=precision).convert(model))
    assert set(executable.manifest.batch_axes.values()) == {0}
    original = plain_session(model.SerializeToString(), optimise=False)
    config = RuntimeConfig(batching_dim=0)
    with ModelRunner(executable, config) as runner, ModelRunner(held(executable), config) as padded:
        for rows in (1, 3, 4, 5, 9):
            inputs, outputs = request(executable, rows)
            _, also = request(executable, rows)
            runner.execute(inputs, outputs)
            padded.execute(inputs, also)
            names, wide = list(outputs), {item.name: item.type for item in original.get_inputs()}
            feeds = {n: a.astype(np.int64) if wide[n] == "tensor(int64)" else a for n, a in inputs.items()}
            for name, expected in zip(names, original.run(names, feeds), strict=True):
                scale = np.abs(expected).max()
                np.testing.assert_allclose(outputs[name], expected, rtol=0, atol=tolerance * max(1, scale))
                np.testing.assert_allclose(outputs[name], also[name], rtol=0, atol=max(1e-5, tolerance / 10) * scale)


class Counting:
    """The engine's shapes, run by run."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.gate, self.entered = threading.Event(), threading.Event()

    def run(self, feeds: Arrays, output_names: Any = None) -> list[np.ndarray]:
        self.rows.append(len(feeds["x"]))
        self.entered.set()
        assert self.gate.wait(20)
        return [feeds["x"][:, :3]]


def counted() -> tuple[ModelRunner, Counting]:
    model, shapes = layers()
    executable = Compiler.compile(Converter(input_shape=shapes).convert(model))
    engine = Counting()
    return ModelRunner(executable, RuntimeConfig(batching_dim=0), session=engine), engine


def test_the_rows_that_are_there_are_run_and_those_that_wait_are_put_together() -> None:
    runner, engine = counted()
    futures = [runner.execute_async(*request(runner.executable, 1))]
    assert engine.entered.wait(20)
    futures += [runner.execute_async(*request(runner.executable, rows)) for rows in (2, 3, 12, 1)]
    engine.gate.set()
    for future in futures:
        future.result()
    runner.close()
    assert engine.rows == [1, 6, 12]  # 2 + 3 + 1; with the 12 there would be more than 16


def test_a_large_batch_is_run_in_even_parts() -> None:
    runner, engine = counted()
    engine.gate.set()
    runner.execute(*request(runner.executable, 130))
    runner.close()
    assert engine.rows == [43, 43, 44]


def test_nobody_answers_for_their_neighbours() -> None:
    model, shapes = bert()
    executable = Compiler.compile(Converter(input_shape=shapes).convert(model))
    with ModelRunner(executable, RuntimeConfig(batching_dim=0)) as runner:
        inputs, alone = request(executable, 1)
        runner.execute(inputs, alone)
        others, outputs = request(executable, 7)
        for name, array in others.items():
            array[3] = inputs[name][0]
        runner.execute(others, outputs)
        for name, array in outputs.items():
            np.testing.assert_allclose(array[3], alone[name][0], rtol=1e-5, atol=1e-5)


def test_a_state_with_its_batch_in_another_axis_follows() -> None:
    model = parse("""
        m (float[4, 8] x, float[2, 4, 8] s) => (float[4, 8] y) {
            i = Constant <value_ints = [0]> ()  t = ReduceSum <keepdims = 0> (s, i)  y = Add (x, t)
        }""")
    executable = Compiler.compile(model)
    assert executable.manifest.batch_axes == {"x": 0, "s": 1, "y": 0}
    x, s, y = np.ones((3, 8), np.float32), np.ones((2, 3, 8), np.float32), np.zeros((3, 8), np.float32)
    with ModelRunner(executable, RuntimeConfig(batching_dim=0)) as runner:
        runner.execute({"x": x, "s": s}, {"y": y})
        np.testing.assert_array_equal(y, np.full((3, 8), 3))
        with pytest.raises(InputError, match="differ along axis 1: 'x' has 3, 's' has 4"):
            runner.execute({"x": x, "s": np.ones((2, 4, 8), np.float32)}, {"y": y})


@pytest.mark.parametrize("size", [64, 384, 1100])
def test_weights_that_the_compiler_keeps_apart_do_not_stop_it(size: int) -> None:
    text = f"m (float[4, 3, {size}] x) => (float[4, 3, {size}] y) {{ r = Add (x, b)  m = ReduceMax <axes = [-1]> (r)"
    model = parse(f"{text}  y = Sub (r, m) }}")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(size, np.float32), "b"))
    assert Compiler.compile(model).manifest.batch_axes == {"x": 0, "y": 0}


def test_where_the_graph_holds_its_batch_size_the_manifest_says_why() -> None:
    model = parse("m (float[4, 8] x) => (float[4, 8] y) { m = ReduceMax (x)  y = Sub (x, m) }")
    manifest = Compiler.compile(model).manifest
    assert manifest.batch_axes == {}
    assert "reduces over all axes" in manifest.batch_held


@pytest.mark.parametrize(
    "axes",
    [{"x": 0}, {"x": 0, "y": 2}, {"x": 0, "y": 1}, {"x": 0, "y": 0, "z": 0}],
    ids=["an output is missing", "no such axis", "another extent", "unknown"],
)
def test_batch_axes_that_are_not_those_of_the_tensors_are_refused(tmp_path: Path, axes: dict[str, int]) -> None:
    model, shapes = layers()
    executable = Compiler.compile(Converter(input_shape=shapes).convert(model))
    manifest = dataclasses.replace(executable.manifest, batch_axes=axes)
    weights = {spec.name: executable.weight(spec.name) for spec in executable.manifest.weights}
    damaged = Executable.build(manifest, executable.graph, weights)
    with pytest.raises(ExecutableError, match="could not be loaded: manifest field 'batch_axes"):
        damaged.save(tmp_path / "m.popef")

"""Folding: what grows beyond measure is left to the engine, decided before it is computed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from passes import PassManager
from tests.passes.rewrites import parse

#: Each makes a tensor `t` of 3.6 GB from a few bytes.
BOMBS = {
    "Tile": "t = Tile (one, many)",
    "Expand": "t = Expand (one, many)",
    "ConstantOfShape": "t = ConstantOfShape (many)",
    "Range": "t = Range (zero, end, step)",
    "Pad": "t = Pad (one, beside)",
    "Add": "a = Expand (one, row)  b = Expand (one, column)  t = Add (a, b)",
    "Concat": " ".join(f"a{n + 1} = Concat <axis = 0> (a{n}, a{n})" for n in range(30)) + " t = Identity (a30)",
}

_PROGRAM = """
import resource, sys
import onnx
from poprt.converter import Converter
model = onnx.load_model_from_string(sys.stdin.buffer.read())
Converter(disable_progress_bar=True).convert(onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu (x) }'))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
Converter(disable_progress_bar=True).convert(model)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def bomb(body: str) -> onnx.ModelProto:
    model = parse(f"g (float[M] x) => (float y) {{ {body}  s = ReduceSum <keepdims = 0> (t)  y = Add (s, x) }}")
    constants = {
        "one": np.ones(1, np.float32),
        "a0": np.ones(1, np.float32),
        "many": np.array([900_000_000]),
        "beside": np.array([0, 900_000_000]),
        "row": np.array([1, 30_000]),
        "column": np.array([30_000, 1]),
        "zero": np.float32(0),
        "end": np.float32(9e8),
        "step": np.float32(1),
    }
    read = {name for node in model.graph.node for name in node.input}
    tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items() if name in read]
    model.graph.initializer.extend(tensors)
    return model


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS)
def test_what_grows_beyond_measure_is_not_folded(body: str) -> None:
    done = PassManager(["constant_folding"]).run(bomb(body))
    assert sum(int(np.prod(tensor.dims)) * 4 for tensor in done.graph.initializer) < 1 << 25
    left = {node.op_type for node in done.graph.node} - {"ReduceSum", "Add"}
    assert left or len(done.graph.node) == 3  # the last Add of two


def test_the_peak_of_memory_does_not_see_the_bombs() -> None:
    body = "t0 = Tile (one, many)  t1 = ConstantOfShape (many)  t2 = Expand (one, many)  t = Sum (t0, t1, t2)"
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], input=bomb(body).SerializeToString(), capture_output=True, check=True
    )
    assert int(done.stdout) < 64 * 1024  # KiB


def folded(body: str) -> PassManager:
    """The manager, after folding ``body`` over w of 40 kB."""
    model = parse(f"g (float[100,100] x) => (float[100,100] y) {{ {body} }}")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((100, 100), np.float32), "w"))
    manager = PassManager(["constant_folding"])
    manager.run(model)
    return manager


def test_results_may_double_the_constants_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("passes.cleanup.constant_folding.SPARE_BYTES", 100)
    (record,) = folded("a = Transpose (w)  b = Neg (w)  y = Sum (x, a, b)").records
    assert record.nodes_after == 1
    (record,) = folded("a = Transpose (w)  b = Neg (w)  c = Abs (w)  d = Exp (w)  y = Sum (x, a, b, c, d)").records
    assert record.nodes_after == 4
    assert "more than twice" in record.result.refusals[0].reason


def test_a_chain_gives_back_what_nothing_reads_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("passes.cleanup.constant_folding.SPARE_BYTES", 100)
    (record,) = folded("a = Transpose (w)  b = Neg (a)  c = Abs (b)  d = Exp (c)  y = Sum (x, d)").records
    assert record.nodes_after == 1


def test_a_size_that_values_decide_is_bounded_by_the_inputs() -> None:
    model = parse("g (int64[N] x) => (int64[M] y) { n = NonZero (w)  f = Reshape (n, flat)  y = Add (x, f) }")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 0, 2]), "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "flat"))
    assert [node.op_type for node in PassManager(["constant_folding"]).run(model).graph.node] == ["Add"]


def test_what_takes_long_to_compute_is_left_to_the_engine() -> None:
    model = parse("g (float[1,8,58,58] x) => (float[1,8,58,58] y) { c = Conv (a, w)  y = Add (x, c) }")
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 8, 64, 64), np.float32), "a"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((8, 8, 7, 7), np.float32), "w"))
    manager = PassManager(["constant_folding"])
    assert len(manager.run(model).graph.node) == 2
    assert "takes long" in manager.records[0].result.refusals[0].reason


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("s = Constant <value_ints = [5]> ()  t = Reshape (one, s)", "it cannot be evaluated: "),
        ("t = SequenceEmpty () u = SequenceInsert (t, one)", "is not known in advance"),
    ],
)
def test_what_cannot_be_folded_says_why(body: str, said: str) -> None:
    model = parse(f"g (float[M] x) => (float[M] y) {{ {body}  y = Relu (x) }}")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "one"))
    manager = PassManager(["constant_folding"])
    manager.run(model)
    assert said in " ".join(map(str, manager.records[0].result.refusals))


def test_a_result_of_another_type_than_declared_is_not_folded() -> None:
    model = parse("g (float[M] x) => (float[M] y) <float16[1] t> { t = Neg (one)  y = Relu (x) }")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "one"))
    manager = PassManager(["constant_folding"])
    manager.run(model)
    refusals = " ".join(map(str, manager.records[0].result.refusals))
    assert "'t' is declared as float16 and evaluates to float32" in refusals

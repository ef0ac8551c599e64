"""Integer products on CPUs that have no dot products of 8-bit numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.bert import SIZES, BertConfig, build_bert
from passes.graph_io import export_graph, import_graph
from passes.placeholders import placeholder
from passes.precision.float_to_int8 import FloatToInt8
from passes.precision.unsign_weights import UnsignWeights
from poprt.compiler import Compiler
from poprt.compiler.lower_int8 import with_exact_products
from poprt.converter import Converter
from poprt.engine.cpu import lacks_int8_dot_products
from poprt.engine.session import EngineSession
from tests.numerics import padded, random_samples, run
from tests.passes.rewrites import copy_of, parse

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (5, 16)).astype(np.uint8)


def product(body: str, outputs: str = "int32[n,8] y") -> onnx.ModelProto:
    model = parse(f"g (uint8[n,16] x) => ({outputs}) <uint8 z = {{100}}> {{ {body} }}")
    model.graph.initializer.append(numpy_helper.from_array(RNG.integers(-127, 128, (16, 8)).astype(np.int8), "w"))
    return model


PLAIN = "y = MatMulInteger (x, w, z)"


@pytest.mark.parametrize("outside", [True, False])
def test_unsigned_weights_give_the_same_numbers(outside: bool) -> None:
    model = product(PLAIN)
    w = numpy_helper.to_array(model.graph.initializer[1])
    expected = (X.astype(np.int32) - 100) @ w.astype(np.int32)
    weights = {"w": w} if outside else {}
    if outside:
        model.graph.initializer[1].CopyFrom(placeholder("w", onnx.TensorProto.INT8, [16, 8], "elsewhere"))
    graph = import_graph(model)
    assert UnsignWeights(weights).apply(graph).counts == {"weights made unsigned": 1}
    assert not UnsignWeights(weights).apply(graph).modified
    unsigned = export_graph(graph)
    stored = next(tensor for tensor in unsigned.graph.initializer if tensor.name == "w")
    assert stored.data_type == onnx.TensorProto.UINT8
    if outside:
        stored.CopyFrom(numpy_helper.from_array(weights["w"], "w"))
    np.testing.assert_array_equal(run(unsigned, {"x": X})["y"], expected)


@pytest.mark.parametrize("point", [np.int8(0), np.int8(-7), np.arange(-4, 4, dtype=np.int8)])
def test_zero_points_of_the_weight_move_with_it(point: np.ndarray) -> None:
    model = product("y = MatMulInteger (x, w, z, p)  v = MatMulInteger (x, w, z)", "int32[n,8] y, int32[n,8] v")
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(point), "p"))
    w = numpy_helper.to_array(model.graph.initializer[1]).astype(np.int32)
    graph = import_graph(model)
    assert UnsignWeights().apply(graph).counts == {"weights made unsigned": 1}
    results = run(export_graph(graph), {"x": X})
    np.testing.assert_array_equal(results["y"], (X.astype(np.int32) - 100) @ (w - point))
    np.testing.assert_array_equal(results["v"], (X.astype(np.int32) - 100) @ w)


def test_a_weight_whose_zero_point_is_computed_keeps_its_sign() -> None:
    model = product("p = Identity (w)  q = ReduceMax <keepdims = 0> (p)  y = MatMulInteger (x, w, z, q)")
    assert not UnsignWeights().apply(import_graph(model)).modified


def test_a_weight_that_another_node_reads_keeps_its_sign() -> None:
    model = product(PLAIN + "  v = Cast <to = 1> (w)", "int32[n,8] y, float[16,8] v")
    graph = import_graph(model)
    assert not UnsignWeights().apply(graph).modified
    assert "w" in {t.name for t in export_graph(graph).graph.initializer if t.data_type == onnx.TensorProto.INT8}


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("y = MatMulInteger (x, w, z)  v = If (c) <then_branch = READS, else_branch = ZERO>", "int32[n,8] y, int32 v"),
        ("y = MatMulInteger (x, w, z)", "int32[n,8] y, int8[16,8] w"),
    ],
)
def test_a_weight_that_a_nested_graph_reads_or_that_is_an_output_keeps_its_sign(body: str, outputs: str) -> None:
    reads = "t () => (int32 p) { p = MatMulInteger (x, w, z) }"
    zero = "e () => (int32 q) { q = Cast <to = 6> (z) }"
    model = product(body.replace("READS", reads).replace("ZERO", zero), outputs)
    model.graph.input.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
    graph = import_graph(model)
    assert not UnsignWeights().apply(graph).modified
    assert "w" in {t.name for t in export_graph(graph).graph.initializer if t.data_type == onnx.TensorProto.INT8}


def pretend_cpu(monkeypatch: pytest.MonkeyPatch, folder: Path, flags: str) -> None:
    (folder / "cpuinfo").write_text(f"processor : 0\nflags\t\t: sse {flags} sse2\n")
    monkeypatch.setattr("poprt.engine.cpu._CPUINFO", folder / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


def test_a_cpu_without_dot_products_gets_unsigned_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = build_bert(BertConfig(**SIZES["tiny"], head="token"))
    # Without dot products signed weights of 8 bits may overflow: there 7 bits are compared.
    quantiser = FloatToInt8(reduce_range=lacks_int8_dot_products())
    converted = Converter(precision="int8", used_passes=[quantiser]).convert(model)
    feeds = padded(random_samples([7, 12]))
    results = []
    for flags, stored in (("avx2 avx512_vnni", "int8"), ("avx2 fma", "uint8")):
        pretend_cpu(monkeypatch, tmp_path, flags)
        executable = Compiler.compile(converted)
        types = [spec.dtype for spec in executable.manifest.weights]
        assert types.count(stored) == 12
        results.append(EngineSession(executable, threads=1).run(feeds)[0])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


@pytest.mark.parametrize(("flags", "changed"), [("avx2 avx512_vnni", False), ("avx2 fma", True)])
def test_a_model_is_judged_with_the_weights_that_its_executable_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, changed: bool
) -> None:
    pretend_cpu(monkeypatch, tmp_path, flags)
    model = product(PLAIN)
    before = copy_of(model)
    judged = with_exact_products(model)
    kinds = {tensor.name: tensor.data_type for tensor in judged.graph.initializer}
    assert kinds["w"] == (onnx.TensorProto.UINT8 if changed else onnx.TensorProto.INT8)
    assert (judged is not model) == changed
    assert model == before


def test_who_does_not_say_what_it_has_is_not_said_to_lack_anything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("poprt.engine.cpu._CPUINFO", tmp_path / "missing")
    assert not lacks_int8_dot_products()
    (tmp_path / "missing").write_text("flags : fpu\n")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not lacks_int8_dot_products()

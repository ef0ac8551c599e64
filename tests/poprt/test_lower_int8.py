"""Integer products on CPUs that have no dot products of 8-bit numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.bert import SIZES, BertConfig, build_bert
from poprt.compiler import Compiler
from poprt.compiler.lower_int8 import unsign_weights
from poprt.converter import Converter
from poprt.runtime.cpu import lacks_int8_dot_products
from poprt.runtime.session import EngineSession
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
    expected = run(model, {"x": X})["y"]
    weights = {"w": numpy_helper.to_array(model.graph.initializer[1])} if outside else {}
    assert model.graph.initializer[1].name == "w"
    assert unsign_weights(model, weights) == 1
    if outside:
        model.graph.initializer[1].CopyFrom(numpy_helper.from_array(weights["w"], "w"))
    assert model.graph.initializer[1].data_type == onnx.TensorProto.UINT8
    np.testing.assert_array_equal(run(model, {"x": X})["y"], expected)


def test_a_weight_that_another_node_reads_keeps_its_sign() -> None:
    model = product(PLAIN + "  v = Cast <to = 1> (w)", "int32[n,8] y, float[16,8] v")
    before = copy_of(model)
    assert unsign_weights(model, {}) == 0
    assert model == before


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
    before = copy_of(model)
    assert unsign_weights(model, {}) == 0
    assert model == before


def test_a_cpu_without_dot_products_gets_unsigned_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = build_bert(BertConfig(**SIZES["tiny"], head="token"))
    converted = Converter(precision="int8").convert(model)
    feeds = padded(random_samples([7, 12]))
    results = []
    for flags, stored in (("avx2 avx512_vnni", "int8"), ("avx2 fma", "uint8")):
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: sse {flags} sse2\n")
        monkeypatch.setattr("poprt.runtime.cpu._CPUINFO", tmp_path / "cpuinfo")
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        executable = Compiler.compile(converted)
        types = [spec.dtype for spec in executable.manifest.weights]
        assert types.count(stored) == 12
        results.append(EngineSession(executable, threads=1).run(feeds)[0])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


def test_who_does_not_say_what_it_has_is_not_said_to_lack_anything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("poprt.runtime.cpu._CPUINFO", tmp_path / "missing")
    assert not lacks_int8_dot_products()
    (tmp_path / "missing").write_text("flags : fpu\n")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not lacks_int8_dot_products()

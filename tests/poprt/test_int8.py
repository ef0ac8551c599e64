"""int8 from the converter to the runner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from models.bert import SIZES, BertConfig, build_bert
from models.dialects import DIALECTS
from models.minilm import MiniLM
from models.texts import texts
from passes.base import PassResult
from passes.precision.float_to_int8 import FloatToInt8
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.engine.cpu import lacks_int8_dot_products
from poprt.executable import Executable
from poprt.runtime import PackRunnerConfig, Runner
from poprt.verify import verify
from tests.numerics import Arrays, one_by_one, random_samples, session
from tests.passes.rewrites import parse

ROWS, COLUMNS, MOST = 3, 32, 10
LENGTHS = [5, 32, 1, 17, 9, 30, 2, 12]


def convert(model: onnx.ModelProto, *, packed: bool, columns: int = COLUMNS) -> tuple[onnx.ModelProto, PassResult]:
    shapes = {value.name: [ROWS, columns] for value in model.graph.input}
    packing = {"input_shape": shapes, "pack_args": {"max_valid_num": MOST, "segment_max_size": columns}}
    converter = Converter(precision="int8", check=True, **(packing if packed else {}))
    converted = converter.convert(model)
    assert converter.verification is not None
    assert converter.verification.passed
    return converted, next(record.result for record in converter.records if record.name == "float_to_int8")


@pytest.mark.parametrize("dialect", list(DIALECTS))
@pytest.mark.parametrize("packed", [False, True])
def test_every_projection_of_every_dialect_is_int8_packed_or_not(dialect: str, packed: bool) -> None:
    config = BertConfig(**SIZES["tiny"], head="qa", dialect=dialect)
    _, result = convert(build_bert(config), packed=packed)
    assert result.counts["products in int8"] == 6 * config.layers
    assert ["2 columns" in refusal.reason for refusal in result.refusals] == [True]
    assert all(float(figure) > 0.9999 for name, figure in result.details.items() if name.startswith("cosine"))


def packed_results(executable: Executable | Path, samples: list[Arrays], name: str) -> list[NDArray[np.float32]]:
    """Results of all samples sent at once, so that they share packs."""
    with Runner(executable, PackRunnerConfig(timeout_microseconds=1000), threads=1) as runner:
        buffers = [{d.name: np.zeros(d.shape[1:], np.float32) for d in runner.get_execute_outputs()} for _ in samples]
        futures = [runner.execute_async(sample, out) for sample, out in zip(samples, buffers, strict=True)]
        for future in futures:
            future.wait(60)
    return [out[name] for out in buffers]


def test_an_executable_stores_int8_and_a_request_gives_the_same_alone_and_in_company(tmp_path: Path) -> None:
    model = build_bert(BertConfig(**SIZES["tiny"], head="token"))
    converted, _ = convert(model, packed=True)
    path = tmp_path / "executable.popef"
    Compiler.compile(converted).save(path)
    stored = {spec.name: spec.dtype for spec in Executable(path).manifest.weights}
    weight_type = "uint8" if lacks_int8_dot_products() else "int8"
    assert sum(dtype == weight_type for dtype in stored.values()) == 12
    engine_ops = [node.op_type for node in onnx.load_from_string(Executable(path).graph).graph.node]
    assert engine_ops.count("MatMulIntegerToFloat") == 12
    samples = random_samples(LENGTHS)
    together = packed_results(path, samples, "logits")
    expected = one_by_one(model, samples)
    for sample, got, want in zip(samples, together, expected, strict=True):
        length = len(sample["input_ids"])
        np.testing.assert_allclose(got[:length], want["logits"], atol=0.01)
        alone = packed_results(path, [sample], "logits")[0]
        np.testing.assert_allclose(got, alone, atol=1e-5)


def test_the_tolerance_is_relative_to_small_outputs_too() -> None:
    text = "g (float[n,4] x) => (float[n,4] y) <float s = {0.01}> { y = Mul (x, s) }"
    opposite = "g (float[n,4] x) => (float[n,4] y) <float s = {-0.01}> { y = Mul (x, s) }"
    assert verify(parse(text), parse(text), "int8").passed
    assert not verify(parse(text), parse(opposite), "int8").passed


@pytest.mark.parametrize("family", ["bert", "distilbert", "t5-encoder", "modernbert"])
@pytest.mark.export
def test_an_exported_encoder_keeps_its_results(exported: Callable[..., Path], family: str) -> None:
    model = onnx.load(exported(family))
    for packed in (False, True):
        _, result = convert(model, packed=packed)
        assert result.counts["products in int8"] >= 8
        assert float(next(v for k, v in result.details.items() if k.startswith("cosine"))) > 0.999


@pytest.fixture(scope="module")
def embeddings(minilm: MiniLM) -> tuple[NDArray[np.float32], NDArray[np.float32], PassResult]:
    """The embeddings of some texts by the original and by the packed int8 model in a pack runner."""
    samples = minilm.tokenize([item.text for item in texts()[:80]])
    columns = max(len(sample["input_ids"]) for sample in samples)
    converted, result = convert(minilm.model, packed=True, columns=columns)
    expected = np.stack([out["embedding"] for out in one_by_one(session(minilm.model), samples)])
    got = np.stack(packed_results(Compiler.compile(converted), samples, "embedding"))
    return expected, got, result


@pytest.mark.minilm
def test_real_embeddings_keep_their_direction(
    embeddings: tuple[NDArray[np.float32], NDArray[np.float32], PassResult],
) -> None:
    expected, got, _ = embeddings
    cosines = np.sum(expected * got, axis=1)
    assert cosines.mean() >= 0.995
    assert cosines.min() >= 0.99


@pytest.mark.minilm
def test_real_texts_keep_their_nearest_neighbours(
    embeddings: tuple[NDArray[np.float32], NDArray[np.float32], PassResult],
) -> None:
    def nearest(vectors: NDArray[np.float32]) -> NDArray[np.intp]:
        similar = vectors @ vectors.T
        np.fill_diagonal(similar, -1)
        return similar.argmax(axis=1)

    expected, got, _ = embeddings
    assert np.mean(nearest(expected) == nearest(got)) >= 0.95


@pytest.mark.minilm
def test_the_real_model_is_a_quarter_of_its_size(
    embeddings: tuple[NDArray[np.float32], NDArray[np.float32], PassResult],
) -> None:
    result = embeddings[2]
    assert result.counts == {"products in int8": 36, "table lookups in int8": 2}
    before, after = map(int, result.details["bytes of weights"].split(" -> "))
    assert after < 0.26 * before


def test_the_same_model_gives_the_same_bytes() -> None:
    model = build_bert(BertConfig(**SIZES["tiny"], head="sequence"))
    once, again = (convert(model, packed=True)[0].SerializeToString(deterministic=True) for _ in range(2))
    assert once == again


def test_the_users_own_quantiser_takes_the_place_of_the_default_one() -> None:
    model = build_bert(BertConfig(**SIZES["tiny"], head="qa"))
    own = FloatToInt8(max_error=0.008)
    converter = Converter(precision="int8", used_passes=[own])
    converter.convert(model)
    results = [record.result for record in converter.records if record.name == "float_to_int8"]
    assert len(results) == 1
    assert any("more than 0.8%" in refusal.reason for refusal in results[0].refusals)
    assert any(name.startswith("cosine") for name in results[0].details) == results[0].modified
    assert own._data is None


def test_the_quantiser_asked_for_by_name_is_given_data_too(caplog: pytest.LogCaptureFixture) -> None:
    converter = Converter(used_passes="float_to_int8")
    converter.convert(build_bert(BertConfig(**SIZES["tiny"], head="qa")))
    assert "cosine of start_logits" in converter.records[-5].result.details
    assert "no sample data" not in caplog.text

"""The real MiniLM in each form that people ship: it packs across rows, keeps its size, and serves its own numbers.

The reference is the variant itself, each text alone, with the engine's optimiser off; the tolerance is the one that
``--check`` prints for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.minilm import MiniLMNotFoundError
from models.texts import texts
from models.variants import CONVERTER_OPTIONS, FIXED, FIXED_SHAPE, VARIANTS, Source, make, open_source
from passes.packed_model import PackedModel
from poprt import runtime
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt_format.packing import ANY
from tests.numerics import Arrays, one_by_one

pytestmark = pytest.mark.minilm

COLUMNS, ROWS, MOST, LONGEST = 64, 4, 8, 40
TEXTS = 6
#: Variants that give the numbers of another one.
SAME_AS = {"external data": "float32", FIXED: "float32"}


class Variants:
    """Makes each variant once, when it is first asked for."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.samples = [sample for sample in self._tokenized() if len(sample["input_ids"]) <= LONGEST][:TEXTS]
        self._expected: dict[str, list[Arrays]] = {}

    def path(self, name: str) -> Path:
        path = self.source.folder / f"{name}.onnx"
        return path if path.exists() else make(name, self.source)

    def expected(self, name: str) -> list[Arrays]:
        """What the variant gives for each sample alone."""
        name = SAME_AS.get(name, name)
        if name not in self._expected:
            self._expected[name] = one_by_one(self.path(name), self.samples)
        return self._expected[name]

    def _tokenized(self) -> list[Arrays]:
        return self.source.minilm.tokenize([item.text for item in texts()[: 4 * TEXTS]])


@pytest.fixture(scope="session")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Variants]:
    try:
        yield Variants(open_source(tmp_path_factory.mktemp("variants")))
    except MiniLMNotFoundError as error:
        pytest.skip(str(error))


def served(converted: onnx.ModelProto, samples: list[Arrays]) -> list[Arrays]:
    """The embeddings that the compiled model gives in packs."""
    buffers = [{"embedding": np.zeros(384, np.float32)} for _ in samples]
    with runtime.Runner(Compiler.compile(converted), runtime.PackRunnerConfig(), threads=1) as runner:
        futures = [runner.execute_async(sample, out) for sample, out in zip(samples, buffers, strict=True)]
        for future in futures:
            future.wait()
    return buffers


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_packs_and_serves_its_own_numbers(name: str, variants: Variants) -> None:
    model = onnx.load(str(variants.path(name)))
    size = model.ByteSize()
    fixed = name == FIXED
    shapes = {} if fixed else {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    most = {"max_valid_num": MOST, "segment_max_size": FIXED_SHAPE[1] if fixed else LONGEST}
    converter = Converter(
        input_shape=shapes, pack_args=most, check=True, skip_isolation_check=True, **CONVERTER_OPTIONS.get(name, {})
    )
    converted = converter.convert(model)
    packed, verification = PackedModel.read(converted), converter.verification
    assert packed is not None
    assert packed.neighbours == ANY
    assert packed.packed_flops > 0.85 * packed.total_flops
    assert converted.ByteSize() < 1.02 * size + 100_000
    assert verification is not None
    assert verification.passed
    (output,) = verification.outputs
    for got, want in zip(served(converted, variants.samples), variants.expected(name), strict=True):
        assert np.abs(got["embedding"] - want["embedding"]).max() <= output.tolerance

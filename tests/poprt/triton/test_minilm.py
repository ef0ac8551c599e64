"""The real MiniLM, exported: texts of all lengths in one run of stock onnxruntime, as the original text by text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.minilm import MiniLM
from models.minilm_folder import write_minilm_folder
from models.texts import texts
from poprt.text import PackOptions, pack
from poprt.triton import TritonOptions, export_triton
from tests.numerics import one_by_one, session
from tests.poprt.triton.backend import Backend

pytestmark = pytest.mark.minilm


def test_embeddings_are_those_of_the_original_text_by_text(minilm: MiniLM, tmp_path: Path) -> None:
    samples = minilm.tokenize([item.text for item in texts()[:24]])
    expected = [item["embedding"] for item in one_by_one(session(minilm.model, threads=2), samples)]
    packed = pack(write_minilm_folder(tmp_path / "source"), None, PackOptions(progress=False))
    backend = Backend(export_triton(packed.executable, tmp_path, TritonOptions("minilm")).folder)
    answers = backend.run([{name: array[None] for name, array in sample.items()} for sample in samples])
    (output,) = packed.executable.outputs
    np.testing.assert_allclose([answer[output.name][0] for answer in answers], expected, atol=2e-5)

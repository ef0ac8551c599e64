"""Which families' attention runs as one operator in packs of one length, and that it answers the same there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.engine.session import EngineSession
from tests.numerics import one_by_one, random_samples

pytestmark = pytest.mark.export

#: Attentions of two that have a branch for full packs, by family, exporter and the form of attention. The others see
#: more in their scores than padding: ModernBERT's second layer a window, MPNet and DeBERTa relative positions, OPT what
#: comes before.
FUSED = {
    ("bert", "torch-old", "sdpa"): 2,
    ("bert", "torch-new", "sdpa"): 2,
    ("distilbert", "torch-old", "sdpa"): 2,
    ("roberta", "torch-old", "sdpa"): 2,
    ("albert", "torch-new", "sdpa"): 2,
    ("esm", "torch-old", "eager"): 2,
    ("modernbert", "torch-new", "sdpa"): 1,
    ("mpnet", "torch-old", "eager"): 0,
    ("deberta", "torch-old", "eager"): 0,
    ("opt", "torch-old", "sdpa"): 0,
}
LENGTHS = ([7, 7, 7], [12], [1], [12, 3, 1, 7])


@pytest.mark.parametrize(("family", "exporter", "attention"), list(FUSED))
def test_families_whose_mask_only_hides_padding_are_fused(
    family: str, exporter: str, attention: str, exported: Callable[..., Path]
) -> None:
    model = onnx.load(str(exported(family, "hidden", exporter, attention)))
    executable = Compiler.compile(_converted(model), None)
    assert executable.graph.count(b"MultiHeadAttention") == FUSED[family, exporter, attention]
    session = EngineSession(executable, threads=1)
    for lengths in LENGTHS:
        for hidden in ([], [0]):
            _assert_answers(session, model, lengths, hidden)


def _converted(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    shapes = {value.name: [4, 16] for value in model.graph.input}
    pack_args = {"max_valid_num": 8, "segment_max_size": 16}
    return Converter(input_shape=shapes, pack_args=pack_args, disable_progress_bar=True).convert(copy)


def _assert_answers(session: EngineSession, model: onnx.ModelProto, lengths: list[int], hidden: list[int]) -> None:
    """Compare a pack whose samples ``hidden`` mask their second token, where they have one, with single runs."""
    samples = random_samples(lengths)
    for number in hidden:
        samples[number]["attention_mask"][1:2] = 0
    names = [name for name in session.input_names if name != "unpack_info"]
    feeds = {name: np.concatenate([sample[name] for sample in samples])[None] for name in names}
    results = session.run({**feeds, "unpack_info": np.array(lengths, np.int32)[:, None]})
    for number, answer in enumerate(one_by_one(model, samples)):
        for name, result in zip(session.output_names, results, strict=True):
            own = result[number][tuple(map(slice, answer[name].shape))]
            np.testing.assert_allclose(own, answer[name], atol=1e-5)

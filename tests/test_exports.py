"""The zoo of exports that other tests draw on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.exports import EXPORTERS, FAMILIES, HEADS, LABELS, export
from tests.numerics import one_by_one, padded, random_samples, run, session

Exported = Callable[..., Path]

SHAPES = {
    "qa": {"start_logits": (9,), "end_logits": (9,)},
    "sequence": {"logits": (LABELS,)},
    "token": {"logits": (9, LABELS)},
    "mean": {"sentence_embedding": (64,)},
    "hidden": {"last_hidden_state": (9, 64)},
    "pooled": {"pooler_output": (64,)},
}


@pytest.mark.export
@pytest.mark.parametrize("head", HEADS)
def test_each_head_is_exported_with_its_outputs_and_open_dimensions(exported: Exported, head: str) -> None:
    path = exported("bert", head)
    outputs = one_by_one(path, random_samples([9]))[0]
    assert {name: array.shape for name, array in outputs.items()} == SHAPES[head]
    for value in onnx.load(str(path)).graph.input:
        assert [dim.dim_param for dim in value.type.tensor_type.shape.dim] == ["batch", "seq"]


@pytest.mark.export
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_all_exporters_write_the_same_model(exported: Exported, exporter: str) -> None:
    samples = random_samples([3, 20])
    reference = one_by_one(exported("bert", "qa"), samples)
    for expected, got in zip(reference, one_by_one(exported("bert", "qa", exporter, "sdpa"), samples), strict=True):
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, atol=1e-5)


@pytest.mark.export
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "t5-encoder"])
def test_the_mask_of_an_export_hides_the_padding(exported: Exported, family: str) -> None:
    engine, samples = session(exported(family)), random_samples([4, 11])
    together = run(engine, padded(samples))["last_hidden_state"]
    for row, alone in enumerate(one_by_one(engine, samples)):
        expected = alone["last_hidden_state"]
        np.testing.assert_allclose(together[row, : len(expected)], expected, atol=1e-5)


@pytest.mark.export
def test_an_export_is_made_once(exported: Exported) -> None:
    path = exported("bert")
    written_at = path.stat().st_mtime_ns
    assert exported("bert") == path
    assert path.stat().st_mtime_ns == written_at


def test_a_combination_outside_the_table_names_those_inside(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"t5-encoder has no head 'qa', only mean, hidden"):
        export("t5-encoder", "qa", folder=tmp_path)
    with pytest.raises(ValueError, match=r"electra has no attention 'sdpa', only eager"):
        export("electra", attention="sdpa", folder=tmp_path)


def test_every_row_of_the_table_names_known_heads_and_exporters() -> None:
    for name, row in FAMILIES.items():
        assert row.heads, name
        assert set(row.heads) <= set(HEADS), name
        assert row.exporters, f"{name} cannot be exported at all: leave it out"
        assert set(row.exporters) <= set(EXPORTERS), name

"""Encoders of each opset that exporters write pack as today's do; `make zoo ZOO_OPSETS=...` tries all families."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.exports import OPSETS
from tests.zoo import LAYOUTS, attention_at, pack

pytestmark = pytest.mark.export

TOLERANCE = 1e-5
#: Every opset for one family, and the two that differ most from today's for families that differ most from it.
CASES = [
    *(("bert", "torch-old", opset) for opset in (11, 12, 13, 14, 17, 18, OPSETS["torch-old"][-1])),
    *(("bert", "torch-new", opset) for opset in (OPSETS["torch-new"][0], OPSETS["torch-new"][-1])),
    *((family, "torch-old", opset) for family in ("distilbert", "albert") for opset in (11, 12)),
    *((family, "torch-old", 12) for family in ("mpnet", "t5-encoder")),  # at 11 the engine refuses their Min of int64
    ("bert", "transformers-onnx", 11),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("family", "exporter", "opset"), CASES)
def test_an_encoder_packs_at_every_opset(
    family: str, exporter: str, opset: int, layout: str, exported: Callable[..., Path]
) -> None:
    result = pack(exported(family, "hidden", exporter, attention_at(family, opset), opset), layout)
    assert result.refused == ""
    assert result.difference <= TOLERANCE
    assert result.share >= 0.85

"""Every encoder that torch exports packs in both layouts, or says in one sentence why it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.exports import FAMILIES
from tests.zoo import Packed, pack

pytestmark = pytest.mark.export

NAMED = ("bert", "roberta", "distilbert", "albert", "electra", "mpnet", "deberta-v2", "t5-encoder", "modernbert")
#: Least packed share of the FLOPs across rows at 4x32, where hidden sizes are 64. Relative positions are not tokens.
LEAST_SHARE = {"deberta": 0.6, "deberta-v2": 0.7, "squeezebert": 0.7, "nystromformer": 0.75, "xlnet": 0.6, "yoso": 0.8}
#: Families whose samples share a run with others of their length alone; all others take any company.
COMPANY = {"yoso": "same_length", "xlnet": "same_length"}
#: Families that are refused across rows, and what the sentence says.
REFUSED_ACROSS = {"longformer": "no matrix product of this model treats every token alone", "canine": "padding shows"}
#: Families that are refused within rows: their samples would see each other, or nothing shows that they would not.
REFUSED_WITHIN = (
    "deberta",
    "xlm",
    "flaubert",
    "convbert",
    "mobilebert",
    "nystromformer",
    "yoso",
    "xlnet",
    "longformer",
    "canine",
    "gpt2",
    "opt",
)
#: Families whose export fails in both exporters, or whose exports only run at the length of their example.
NOT_EXPORTED = ("funnel",)
#: Causal decoders: the old exporter cannot write their masks.
NEW_ONLY = ("gpt2", "qwen3", "mistral", "llama")
TOLERANCE = 1e-5

Exported = Callable[..., Path]


def _exporters(family: str) -> list[str]:
    if family in NAMED:
        return ["torch-old", "torch-new"]
    return ["torch-new"] if family in NEW_ONLY else ["torch-old"]


CASES = [(f, e) for f in FAMILIES if f not in NOT_EXPORTED for e in _exporters(f)]


@pytest.mark.parametrize(("family", "exporter"), CASES)
def test_samples_laid_end_to_end_give_the_answers_of_single_runs(
    family: str, exporter: str, exported: Exported
) -> None:
    result = pack(exported(family, "hidden", exporter, FAMILIES[family].attention[-1]), "across_rows")
    if family in REFUSED_ACROSS:
        assert REFUSED_ACROSS[family] in result.refused
        return
    assert result.refused == ""
    assert result.difference <= TOLERANCE
    assert result.share >= LEAST_SHARE.get(family, 0.85)
    assert result.unpacks <= 16
    assert result.neighbours == COMPANY.get(family, "any")


@pytest.mark.parametrize(("family", "exporter"), CASES)
def test_samples_that_share_rows_give_the_answers_of_single_runs(
    family: str, exporter: str, exported: Exported
) -> None:
    result = pack(exported(family, "hidden", exporter, FAMILIES[family].attention[-1]), "within_rows")
    if result.refused:
        assert family not in NAMED
        assert family in REFUSED_WITHIN
        return
    assert result.difference <= TOLERANCE


@pytest.mark.parametrize("head", ["qa", "sequence", "token", "mean", "pooled"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "mpnet"])
def test_every_head_packs_in_both_layouts(family: str, head: str, exported: Exported) -> None:
    if head not in FAMILIES[family].heads:
        pytest.skip(f"{family} has no head {head}")
    path = exported(family, head, "torch-new", FAMILIES[family].attention[-1])
    for layout in ("across_rows", "within_rows"):
        result: Packed = pack(path, layout)
        assert result.refused == ""
        assert result.difference <= TOLERANCE


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_transformers_own_exporter_packs(attention: str, exported: Exported) -> None:
    result = pack(exported("bert", "qa", "transformers-onnx", attention), "across_rows")
    assert result.refused == ""
    assert result.difference <= TOLERANCE


@pytest.mark.parametrize("layout", ["across_rows", "within_rows"])
def test_half_precision_stays_close(layout: str, exported: Exported) -> None:
    result = pack(exported("bert", "hidden", "torch-new", "sdpa"), layout, "fp16")
    assert result.difference <= 2e-2

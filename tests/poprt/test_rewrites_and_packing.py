"""Rewrites of an encoder and packing go together, whichever comes first."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

from models.bert import SIZES, BertConfig, build_bert
from passes import PassManager
from poprt.converter import Converter
from tests.passes.rewrites import copy_of, ops

REWRITES = [
    "layer_norm_pattern", "erf_gelu_pattern", "gelu_pattern", "pre_scale", "fused_attention", "merge_matmul",
    "merge_matmul_add", "replace_gemm_with_matmul", "fuse_bn_into_conv", "fuse_bn_into_gemm", "fuse_mul_into_matmul",
    "replace_pow", "replace_div_with_mul", "double_to_float", "replace_castlike", "replace_clip_empty_inputs",
    "remove_input_cast", "fuse_consecutive_reshape", "fuse_consecutive_cast", "eliminate_nop_arithmetic",
]  # fmt: skip
SHAPES = {name: [4, 32] for name in ("input_ids", "attention_mask", "token_type_ids")}
ACROSS: dict[str, Any] = {"pack_args": {"max_valid_num": 9, "segment_max_size": 32}}
WITHIN: dict[str, Any] = {"used_passes": ["insert_attention_mask"]}


def bert(dialect: str) -> onnx.ModelProto:
    return build_bert(BertConfig(**{**SIZES["tiny"], "layers": 1, "dialect": dialect}))


@pytest.mark.parametrize("layout", [ACROSS, WITHIN], ids=["across rows", "within rows"])
@pytest.mark.parametrize(
    ("dialect", "changed"),
    [
        ("old-torch", {"layer_norm_pattern", "erf_gelu_pattern", "pre_scale", "fused_attention"}),
        ("new-torch", {"erf_gelu_pattern", "fused_attention"}),
    ],
)
def test_rewrites_of_the_packed_model_keep_its_numbers(dialect: str, changed: set[str], layout: dict[str, Any]) -> None:
    used = [*layout.get("used_passes", []), *REWRITES]
    converter = Converter(input_shape=SHAPES, check=True, **{**layout, "used_passes": used})
    converter.convert(bert(dialect))
    assert converter.verification is not None
    assert converter.verification.passed
    records = {record.name: record.result for record in converter.records}
    assert records["fused_attention"].counts == {"projections merged": 1}
    assert changed <= {name for name in REWRITES if records[name].modified}
    assert converter.isolation is not None
    assert not converter.isolation.fell_back


@pytest.mark.parametrize("layout", [ACROSS, WITHIN], ids=["across rows", "within rows"])
@pytest.mark.parametrize("dialect", ["old-torch", "new-torch"])
def test_a_rewritten_model_packs(dialect: str, layout: dict[str, Any]) -> None:
    cleaning = ["extract_constant_to_initializer", "constant_folding", "eliminate_duplicate_nodes"]
    rewritten = PassManager([*cleaning, *REWRITES]).run(bert(dialect))
    assert ops(rewritten).count("Split") == ops(bert(dialect)).count("Split") + 1
    converter = Converter(input_shape=SHAPES, check=True, **layout)
    converter.convert(copy_of(rewritten))
    assert converter.verification is not None
    assert converter.verification.passed
    assert converter.isolation is not None
    assert converter.isolation.neighbours == "any"

"""The report says why each Unpack is there, once for nodes that are alike."""

from __future__ import annotations

import pytest

from models.bert import SIZES, BertConfig, build_bert
from passes.base import PassResult
from passes.manager import PassManager
from passes.packing.packed_transformer import PackedTransformer


def _report(layers: int, head: str) -> PassResult:
    sizes = {**SIZES["tiny"], "layers": layers}
    model = build_bert(BertConfig(**sizes, head=head, dialect="new-torch"), seed=0)
    shapes = {value.name: [4, 32] for value in model.graph.input}
    manager = PassManager(
        [
            "extract_constant_to_initializer",
            "constant_folding",
            PackedTransformer({"max_valid_num": 8, "segment_max_size": 32}, shapes),
        ]
    )
    manager.run(model)
    return manager.records[-1].result


@pytest.mark.parametrize("layers", [2, 5])
def test_the_number_of_lines_does_not_grow_with_the_layers(layers: int) -> None:
    result = _report(layers, "qa")
    operators = [refusal.node.op for refusal in result.refusals if refusal.node]
    assert operators.count("MatMul") == 2  # scores and context
    assert len(result.refusals) <= 6
    assert all(f"({layers} nodes alike)" in r.reason for r in result.refusals if r.node and r.node.op == "MatMul")


def test_the_scores_and_the_context_are_told_apart() -> None:
    reasons = {
        refusal.reason.split(" (")[0]
        for refusal in _report(2, "qa").refusals
        if refusal.node and refusal.node.op == "MatMul"
    }
    assert any("contracts tokens" in reason for reason in reasons)
    assert any("[batch, 4, seq, seq]" in reason for reason in reasons)


def test_a_pooling_head_is_named() -> None:
    assert any(refusal.node and refusal.node.op == "ReduceSum" for refusal in _report(2, "mean").refusals)

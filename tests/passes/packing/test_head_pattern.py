import logging

import pytest

from models.bert import SIZES, BertConfig, build_bert
from passes.errors import PackingError
from passes.manager import PassManager
from passes.packing.insert_attention_mask import InsertAttentionMask
from passes.packing.opening.pack_args import parse_pack_args
from passes.shapes.convert_opset import ConvertOpset
from tests.passes.packing.packs import COLUMNS, PACK_ARGS, ROWS, around, packed

BODY = "y = MatMul (x, W1)"


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO, "poprt")


def messages(caplog):
    return [record.getMessage() for record in caplog.records if "head_pattern" in record.getMessage()]


def test_a_pattern_that_matches_is_reported_beside_the_head_that_the_axes_show(caplog):
    packed(around(BODY), head_pattern="s:0->Mul:1->ReduceSum:2->e:3")
    (message,) = messages(caplog)
    assert "matches Mul 'masked', ReduceSum 'pooled'" in message
    assert message.endswith("the per-sample head starts at Mul 'masked'")


def test_a_pattern_that_matches_nothing_is_a_warning_that_names_it(caplog):
    packed(around(BODY), head_pattern="s:0->Split:1->Squeeze:2->e:3")
    assert messages(caplog) == ["pack_args head_pattern 's:0->Split:1->Squeeze:2->e:3' matches no nodes of this model"]
    assert [record.levelname for record in caplog.records if "head_pattern" in record.getMessage()] == ["WARNING"]


def test_a_pattern_changes_nothing_in_the_packed_model():
    plain, with_pattern = packed(around(BODY)), packed(around(BODY), head_pattern="Mul:1->ReduceSum:2")
    assert with_pattern.SerializeToString() == plain.SerializeToString()


def test_without_a_pattern_nothing_is_reported(caplog):
    packed(around(BODY))
    assert messages(caplog) == []


@pytest.mark.parametrize(
    "head_pattern", ["[Split:3->Squeeze:4, Split:3->Squeeze:6]", ["Split:3->Squeeze:4", "Split:3->Squeeze:6"]]
)
def test_several_strings_are_one_pattern(head_pattern):
    parsed = parse_pack_args({**PACK_ARGS, "head_pattern": head_pattern})
    assert parsed.head_pattern == ("Split:3->Squeeze:4", "Split:3->Squeeze:6")


@pytest.mark.parametrize("head_pattern", ["Split->Squeeze:4", ["Split:3->", "Squeeze:4"], [3]])
def test_a_malformed_pattern_is_an_error_that_names_the_option(head_pattern):
    with pytest.raises(PackingError, match=r"pack_args head_pattern: (pattern 'Split|a pattern is a list of strings)"):
        parse_pack_args({**PACK_ARGS, "head_pattern": head_pattern})


def test_packing_within_rows_reports_the_pattern_too(caplog):
    bert = build_bert(BertConfig(**SIZES["tiny"], head="qa"))
    shapes = {value.name: [ROWS, COLUMNS] for value in bert.graph.input}
    step = InsertAttentionMask(shapes, pack_args={**PACK_ARGS, "head_pattern": "Split:1->Split:2"})
    PassManager(["extract_constant_to_initializer", ConvertOpset(17), step]).run(bert)
    assert messages(caplog) == ["pack_args head_pattern 'Split:1->Split:2' matches no nodes of this model"]

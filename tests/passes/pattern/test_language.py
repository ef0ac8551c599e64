import pytest

from passes.errors import RewriteError
from passes.pattern import parse_pattern


def test_a_chain_gives_labels_in_order_and_its_edges():
    pattern = parse_pattern("s:0->MatMul:1->Add:out->e:3")
    assert pattern.ops == {"0": "s", "1": "MatMul", "out": "Add", "3": "e"}
    assert pattern.edges == (("0", "1"), ("1", "out"), ("out", "3"))
    assert pattern.node_labels == ["1", "out"]


def test_blanks_are_ignored_everywhere():
    assert parse_pattern(["  Cast : 7      - >\tMul:5 "]).edges == parse_pattern(["Cast:7->Mul:5"]).edges


def test_one_label_is_one_node_across_strings():
    pattern = parse_pattern(["Split:3->Squeeze:4", "Split:3->Squeeze:6", "Split:3->Squeeze:4"])
    assert pattern.ops == {"3": "Split", "4": "Squeeze", "6": "Squeeze"}
    assert pattern.edges == (("3", "4"), ("3", "6"))


def test_labels_may_be_words_with_punctuation():
    assert parse_pattern("Add:layer.0/attention-out").node_labels == ["layer.0/attention-out"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MatMul->Add:1", r"character 1 \('MatMul'\): expected OpType:label"),
        ("MatMul:0->->Add:1", r"character 11 \(''\): expected OpType:label"),
        ("MatMul:0->", r"character 11 \(''\): expected OpType:label"),
        ("", r"character 1 \(''\): expected OpType:label"),
        ("MatMul:0->Add:", "character 11 .*expected OpType:label"),
        ("MatMul:0->:1", "character 11 .*expected OpType:label"),
        ("MatMul:0 Add:1", "character 1 .*expected OpType:label"),
        ("MatMul:0->Add:1>Mul:2", "character 11 .*expected OpType:label"),
        ("MatMul:0->Add:0", "character 11 .*label '0' already means a node of type 'MatMul'"),
        ("MatMul:0->s:1->Add:2", "character 11 .*'s' means any producer and can only start"),
        ("s:0->e:1->Add:2", "character 6 .*'e' means any consumer and can only end"),
        ("s:0->e:1", "names no operator"),
    ],
)
def test_a_malformed_string_is_an_error_that_shows_the_place(text, message):
    with pytest.raises(RewriteError, match=message):
        parse_pattern(text)


def test_a_label_of_two_types_in_two_strings_is_an_error():
    with pytest.raises(RewriteError, match="label '1' already means a node of type 'MatMul'"):
        parse_pattern(["s:0->MatMul:1", "Add:1->e:2"])


def test_an_empty_pattern_is_an_error():
    with pytest.raises(RewriteError, match="the pattern is empty"):
        parse_pattern([])


def test_a_pattern_of_anything_but_strings_is_an_error():
    with pytest.raises(RewriteError, match="list of strings, not of int"):
        parse_pattern([3])

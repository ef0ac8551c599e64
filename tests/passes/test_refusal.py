"""One record says why a place was left alone: its fields are asked, its text is read."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.base import PassResult
from passes.errors import PackingError
from passes.manager import PassManager
from passes.packing.insert_attention_mask import InsertAttentionMask
from passes.packing.isolation.company import Isolation
from passes.packing.isolation.facts import Facts
from passes.packing.opening.baked_inference import THE_MODEL, Findings
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap
from passes.packing.within_rows.row_analysis import check_all_kept_apart
from passes.refusal import Cause, NodeName, Refusal, RefusedError, because, explain, first_refusal, refused
from passes.shapes.symbolic import SymbolicShapes
from tests.passes.packing.packs import COLUMNS, PACK_ARGS, ROWS, around
from tests.passes.packing.test_isolation_proof import ATTENTION
from tests.passes.packing.test_unbake import BEFORE, pack_small, small

SOFTMAX = gs.Node("Softmax", "weights", inputs=[gs.Variable("scores")], outputs=[gs.Variable("probabilities")])
UNNAMED = gs.Node("Softmax", outputs=[gs.Variable("probabilities")])


@pytest.mark.parametrize(
    ("refusal", "text"),
    [
        (because("it averages"), "it averages"),
        (because("it averages").at(SOFTMAX), "Softmax 'weights': it averages"),
        (because("it averages").at(UNNAMED), "Softmax 'probabilities': it averages"),
        (because("it averages").at(gs.Node("Softmax")), "Softmax '(unnamed)': it averages"),
        (Refusal(NodeName("", "the model"), "is packed already"), "the model: is packed already"),
    ],
)
def test_a_refusal_has_one_rendering(refusal: Refusal, text: str) -> None:
    assert str(refusal) == text
    assert str(RefusedError(refusal)) == text


def test_a_refusal_keeps_the_node_that_it_named_first() -> None:
    refusal = because("it averages", Cause.PADDING).at(SOFTMAX)
    assert refusal.node == NodeName("Softmax", "weights")
    assert refusal.at(gs.Node("Add", "sum")) == refusal
    assert refusal.cause is Cause.PADDING


def test_an_exception_carries_the_refusal() -> None:
    assert refused("it averages", Cause.BATCH).refusal == Refusal(None, "it averages", Cause.BATCH)


def test_several_refusals_are_one_line_that_ends_with_the_number_of_the_others() -> None:
    refusals = [because(letter) for letter in "abcde"]
    assert explain(refusals) == "a; b; c (and 2 more)"
    assert explain(refusals[:3]) == "a; b; c"
    assert explain([]) == ""


def test_the_first_of_several_answers_wins() -> None:
    assert first_refusal([None, because("a"), because("b")]) == because("a")
    assert first_refusal([None, None]) is None


def test_the_result_of_a_pass_takes_nodes_and_names() -> None:
    result = PassResult()
    for place in (SOFTMAX, NodeName("Add", "sum"), "the model"):
        result.refuse(place, "it stays")
    assert [refusal.node for refusal in result.refusals] == [
        NodeName("Softmax", "weights"),
        NodeName("Add", "sum"),
        NodeName("", "the model"),
    ]


def test_what_follows_a_refused_node_is_known_by_its_cause_and_not_by_its_words() -> None:
    graph = gs.Graph(nodes=[SOFTMAX, UNNAMED])
    follows = {id(SOFTMAX): Refusal(NodeName.of(SOFTMAX), "in other words", Cause.FOLLOWS)}
    check_all_kept_apart(graph, follows)
    mixes = Refusal(NodeName.of(UNNAMED), "its input mixes the samples of a row, and so does it")
    with pytest.raises(PackingError, match="'probabilities': its input mixes") as error:
        check_all_kept_apart(graph, {**follows, id(UNNAMED): mixes})
    assert error.value.refusals == (mixes,)


@pytest.mark.parametrize(
    ("causes", "neighbours"),
    [
        ([], "any"),
        ([Cause.PADDING, Cause.PADDING], "same_length"),
        ([Cause.PADDING, Cause.SAMPLES], "none"),
        ([Cause.BATCH], "none"),
        ([Cause.OTHER], "none"),  # what nobody classified is not trusted
    ],
)
def test_the_causes_say_who_may_share_a_run(causes: list[Cause], neighbours: str) -> None:
    isolation = Isolation(tuple(because("?", cause) for cause in causes), lambda _: Facts())
    assert isolation.neighbours == neighbours


#: A head -> the first node of it that the error of packing within rows names, and the cause.
_HEADS = {
    "pooled = ReduceMean <axes = [1], keepdims = 0> (x)": (NodeName("ReduceMean", "pooled"), Cause.PADDING),
    "s = ReduceSum <keepdims = 0> (masked, one)  m = ReduceMean <axes = [0]> (s)  pooled = Sub (s, m)": (
        NodeName("ReduceMean", "m"),
        Cause.BATCH,
    ),
}


@pytest.mark.parametrize("head", _HEADS)
def test_an_error_of_packing_within_rows_carries_its_refusals(head: str) -> None:
    model = around(ATTENTION, head=f"masked = Mul (x, column)  {head}")
    for name, value in (("float_one", 1), ("penalty", -1e4)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.float32), name))
    shapes = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    with pytest.raises(PackingError) as error:
        PassManager([*BEFORE, InsertAttentionMask(shapes, pack_args=PACK_ARGS)]).run(model)
    first = error.value.refusals[0]
    assert (first.node, first.cause) == _HEADS[head]
    assert str(first) in str(error.value)


def test_baked_extents_that_stay_are_refused_node_by_node() -> None:
    with pytest.raises(PackingError, match="which cannot be undone \\(Div 'y' computes with 9, which may be") as error:
        pack_small(small("y = Div (x, length)", length=np.float32(9)))
    assert [refusal.node for refusal in error.value.refusals] == [NodeName("Div", "y")]


def test_an_error_says_the_model_where_no_node_is_to_blame() -> None:
    findings = Findings()
    findings.refuse(THE_MODEL, because("has too many constants"))
    findings.refuse(THE_MODEL, because("and something else"))
    assert list(map(str, findings.refusals.values())) == ["the model: has too many constants"]


def test_whoever_asks_for_axes_that_are_not_there_is_told_the_tensor() -> None:
    tensor, bare, graph = gs.Variable("h", np.float32), gs.Variable("bare"), gs.Graph(opset=17)
    graph.inputs = [tensor, bare]
    shapes = SymbolicShapes()
    shapes.update({"h": (BATCH, SEQ, 8), "bare": (8,)})
    axes = AxisMap(graph, shapes)
    assert axes.require(tensor).canonical
    assert axes.require_shape(tensor) == (BATCH, SEQ, 8)
    assert axes.opset == 17
    with pytest.raises(LookupError, match=r"tensor 'bare' \[8\] carries no tokens"):
        axes.require(bare)
    with pytest.raises(LookupError, match="the rank of tensor 'other' is not known"):
        axes.require_shape(gs.Variable("other"))

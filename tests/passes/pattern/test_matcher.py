from itertools import permutations, product

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from passes.errors import RewriteError
from passes.pattern import PatternMatcher, parse_pattern
from passes.pattern.matcher import Connections, find_matches


def value(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])


def graph_of(nodes, inputs=("x",), outputs=("y",)):
    return helper.make_graph(nodes, "g", [value(n) for n in inputs], [value(n) for n in outputs])


def qkv():
    return graph_of(
        [
            helper.make_node("MatMul", ["x", "w"], ["mm"]),
            helper.make_node("Add", ["b", "mm"], ["sum"]),
            helper.make_node("Split", ["sum"], ["q3", "k3"]),
            helper.make_node("Squeeze", ["q3"], ["q"]),
            helper.make_node("Squeeze", ["k3"], ["k"]),
        ],
        outputs=("q", "k"),
    )


QKV = ["s:0->MatMul:1->Add:2->Split:3->Squeeze:4->e:5", "Split:3->Squeeze:6->e:7"]


def all_matches(matcher, graph):
    matches = []
    while (match := matcher.next_pattern(graph)) is not None:
        matches.append(match)
        assert len(matches) < 1000
    return matches


def positions(match, *labels):
    return tuple(match[label].index for label in labels)


def test_strings_that_share_a_label_match_a_fan_out():
    graph = qkv()
    match = PatternMatcher(QKV).next_pattern(graph)
    assert positions(match, "1", "2", "3", "4", "6") == (0, 1, 2, 3, 4)
    assert match["2"].node is graph.node[1]


@pytest.mark.parametrize("op", ["Where", "WhereV2"])
def test_an_operator_of_the_ipu_also_means_the_standard_one(op):
    graph = graph_of([helper.make_node(op, ["c", "x", "z"], ["w"]), helper.make_node("Softmax", ["w"], ["y"])])
    assert positions(PatternMatcher("WhereV2:1->Softmax:2").next_pattern(graph), "1", "2") == (0, 1)
    assert (PatternMatcher("Where:1->Softmax:2").next_pattern(graph) is None) == (op == "WhereV2")


def test_graph_inputs_and_outputs_stand_for_s_and_e():
    match = PatternMatcher(QKV).next_pattern(qkv())
    for label in ("0", "5", "7"):
        assert (match[label].node, match[label].index) == (None, -1)


def test_nodes_stand_for_s_and_e_where_there_are_some():
    match = PatternMatcher("s:before->Split:1->e:after").next_pattern(qkv())
    assert (match["before"].node.op_type, match["before"].index) == ("Add", 1)
    assert (match["after"].node.op_type, match["after"].index) == ("Squeeze", 3)


def test_the_ways_to_swap_labels_of_one_set_of_nodes_are_one_match():
    assert len(all_matches(PatternMatcher(QKV), qkv())) == 1


def test_one_label_of_s_in_two_strings_is_one_producer():
    shared = ["s:0->Squeeze:1", "s:0->Squeeze:2"]
    assert PatternMatcher(shared).next_pattern(qkv()) is not None
    assert PatternMatcher(["s:0->MatMul:1", "s:0->Add:2"]).next_pattern(qkv()) is None


def test_s_needs_an_input_and_e_a_reader():
    graph = graph_of([helper.make_node("RandomNormal", [], ["dead"], shape=[2])], outputs=())
    assert PatternMatcher("RandomNormal:1").next_pattern(graph)["1"].index == 0
    assert PatternMatcher("s:0->RandomNormal:1").next_pattern(graph) is None
    assert PatternMatcher("RandomNormal:1->e:2").next_pattern(graph) is None


def test_a_model_is_searched_as_its_graph():
    model = helper.make_model(qkv())
    assert len(all_matches(PatternMatcher("Squeeze:1"), model)) == 2


def test_a_loop_that_changes_nothing_gives_each_set_once_in_graph_order():
    matches = all_matches(PatternMatcher(["Split:a->Squeeze:b"]), qkv())
    assert [positions(match, "a", "b") for match in matches] == [(2, 3), (2, 4)]


def test_a_loop_that_sorts_the_nodes_anew_gives_each_set_once():
    graph, matcher, seen = qkv(), PatternMatcher("Squeeze:1"), 0
    while matcher.next_pattern(graph):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        graph.ClearField("node")
        graph.node.extend(copies)
        seen += 1
        assert seen < 10
    assert seen == 2


def test_a_loop_that_renames_outputs_gives_each_node_once():
    graph, matcher, seen = qkv(), PatternMatcher("Squeeze:1"), 0
    while match := matcher.next_pattern(graph):
        match["1"].node.output[0] += "_renamed"
        seen += 1
        assert seen < 10
    assert seen == 2


def test_the_index_follows_changes_between_calls():
    graph, matcher = qkv(), PatternMatcher("Split:a->Squeeze:b")
    first = matcher.next_pattern(graph)
    graph.node.insert(0, helper.make_node("Identity", ["x"], ["copy"]))
    graph.node.remove(first["b"].node)
    second = matcher.next_pattern(graph)
    assert positions(second, "a", "b") == (3, 4)
    assert matcher.next_pattern(graph) is None


def test_a_place_that_a_change_made_is_found():
    graph, matcher = qkv(), PatternMatcher("Relu:1->e:2")
    assert matcher.next_pattern(graph) is None
    graph.node.insert(0, helper.make_node("Relu", ["x"], ["r"]))
    graph.node[1].input[0] = "r"
    assert matcher.next_pattern(graph)["1"].index == 0


def test_another_graph_starts_over():
    matcher = PatternMatcher("MatMul:1")
    assert len(all_matches(matcher, qkv())) == len(all_matches(matcher, qkv())) == 1


def test_what_a_subgraph_reads_feeds_the_node_that_holds_it():
    branch = helper.make_graph([helper.make_node("Neg", ["r"], ["n"])], "branch", [], [value("n")])
    graph = graph_of(
        [
            helper.make_node("Relu", ["x"], ["r"]),
            helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        ]
    )
    assert positions(PatternMatcher("Relu:1->If:2->e:3").next_pattern(graph), "1", "2") == (0, 1)
    assert PatternMatcher("Neg:1").next_pattern(graph) is None


def test_a_large_graph_of_one_type_is_searched_without_trying_all_combinations():
    chain = [helper.make_node("Add", [f"t{i}", f"t{i}"], [f"t{i + 1}"]) for i in range(2000)]
    graph = graph_of(chain, inputs=("t0",), outputs=("t2000",))
    long = "->".join(f"Add:{i}" for i in range(50))
    assert PatternMatcher(f"{long}->Relu:end").next_pattern(graph) is None
    assert positions(PatternMatcher(f"{long}->e:end").next_pattern(graph), "0", "49") == (0, 49)
    apart = ["Add:a->Add:b", "Add:c->Relu:d"]
    assert PatternMatcher(apart).next_pattern(graph) is None


def test_a_malformed_pattern_is_refused_when_the_matcher_is_made():
    with pytest.raises(RewriteError, match="expected OpType:label"):
        PatternMatcher(["MatMul"])


OPS = ("A", "B", "C")


@st.composite
def random_graphs(draw):
    nodes, names = [], ["x", "w"]
    for index in range(draw(st.integers(1, 6))):
        inputs = draw(st.lists(st.sampled_from(names), max_size=2))
        outputs = [f"t{index}_{k}" for k in range(draw(st.integers(1, 2)))]
        nodes.append(helper.make_node(draw(st.sampled_from(OPS)), inputs, outputs))
        names += outputs
    produced = names[2:]
    graph = graph_of(nodes, outputs=draw(st.lists(st.sampled_from(produced), unique=True, max_size=3)))
    draw(st.randoms()).shuffle(order := list(range(len(nodes))))
    graph.ClearField("node")
    graph.node.extend(nodes[i] for i in order)
    return graph


@st.composite
def random_patterns(draw):
    op_of = {str(label): draw(st.sampled_from(OPS)) for label in range(4)}
    strings = []
    for _ in range(draw(st.integers(1, 3))):
        labels = draw(st.lists(st.sampled_from(sorted(op_of)), min_size=1, max_size=3))
        words = [f"{op_of[label]}:{label}" for label in labels]
        head = [f"s:s{draw(st.integers(0, 1))}"] if draw(st.booleans()) else []
        tail = [f"e:e{draw(st.integers(0, 1))}"] if draw(st.booleans()) else []
        strings.append("->".join(head + words + tail))
    return strings


def brute_force(strings, graph):
    """Try every assignment of nodes to labels, and every producer and consumer for s and e."""
    pattern = parse_pattern(strings)
    nodes = list(graph.node)
    inputs = ["x", "w"]
    outputs = [output.name for output in graph.output]

    def feeds(producer, consumer):
        produced = list(nodes[producer].output) if isinstance(producer, int) else [producer]
        read = list(nodes[consumer].input) if isinstance(consumer, int) else [consumer.removeprefix("out:")]
        return bool(set(produced) & set(read))

    anything = [label for label in pattern.ops if pattern.is_any(label)]
    ends = {
        label: [*range(len(nodes)), *(inputs if pattern.ops[label] == "s" else [f"out:{name}" for name in outputs])]
        for label in anything
    }
    matches = set()
    for chosen in permutations(range(len(nodes)), len(pattern.node_labels)):
        bound = dict(zip(pattern.node_labels, chosen, strict=True))
        if any(nodes[position].op_type != pattern.ops[label] for label, position in bound.items()):
            continue
        for others in product(*(ends[label] for label in anything)):
            full = {**bound, **dict(zip(anything, others, strict=True))}
            if all(feeds(full[a], full[b]) for a, b in pattern.edges):
                matches.add(tuple(sorted(bound.items())))
                break
    return matches


@settings(max_examples=300, deadline=None)
@given(random_graphs(), random_patterns())
def test_the_matches_are_those_of_trying_everything(graph, strings):
    pattern = parse_pattern(strings)
    matches = [
        tuple(sorted((label, match[label]) for label in pattern.node_labels))
        for match in find_matches(pattern, Connections(graph))
    ]
    assert len(matches) == len(set(matches))
    expected = brute_force(strings, graph)
    assert set(matches) == expected
    reported = all_matches(PatternMatcher(strings), graph)
    sets = [frozenset(match[label].index for label in pattern.node_labels) for match in reported]
    assert len(sets) == len(set(sets))
    assert set(sets) == {frozenset(position for _, position in match) for match in expected}

"""Attention of full packs: one operator without scores, and the model's own answers; other packs run the old nodes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from models.bert import SIZES, BertConfig, build_bert
from models.dialects import DIALECTS
from passes.graph_io import export_graph, import_graph
from poprt.compiler import Compiler
from poprt.compiler.full_packs.fuse import FuseFullPacks, with_full_packs
from poprt.compiler.full_packs.uniform import FullPackValues
from poprt.compiler.packing_spec import read_packing
from poprt.converter import Converter
from poprt.engine.session import EngineSession
from poprt.executable import Executable
from tests.numerics import Arrays, one_by_one, random_samples
from tests.passes.rewrites import copy_of, parse

ROWS, COLUMNS, MOST, LAYERS = 3, 16, 8, 2
FULL = [[5, 5, 5], [16], [1], [1, 1, 1], [2] * 8]
MIXED = [[5, 9, 1], [16, 1], [3, 16, 1, 7]]


@cache
def original(dialect: str = "new-torch", head: str = "hidden") -> onnx.ModelProto:
    return build_bert(BertConfig(**{**SIZES["tiny"], "layers": LAYERS}, head=head, dialect=dialect))


def converted(model: onnx.ModelProto, **pack_args: object) -> onnx.ModelProto:
    shapes = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    sizes = {"max_valid_num": MOST, "segment_max_size": COLUMNS, **pack_args}
    return Converter(input_shape=shapes, pack_args=sizes, disable_progress_bar=True).convert(copy_of(model))


@cache
def compiled(dialect: str = "new-torch", head: str = "hidden") -> Executable:
    return Compiler.compile(converted(original(dialect, head)), None)


def engine_graph(executable: Executable) -> onnx.GraphProto:
    return onnx.ModelProto.FromString(executable.graph).graph


def branch(node: onnx.NodeProto, name: str) -> onnx.GraphProto:
    return next(attribute.g for attribute in node.attribute if attribute.name == name)


def with_operator(graph: onnx.GraphProto, operator: str) -> list[onnx.GraphProto]:
    """The branches of the graph's Ifs that hold ``operator``."""
    parts = [
        branch(node, name) for node in graph.node if node.op_type == "If" for name in ("then_branch", "else_branch")
    ]
    return [part for part in parts if any(node.op_type == operator for node in part.node)]


def run_pack(session: EngineSession, samples: Sequence[Arrays]) -> Arrays:
    names = [name for name in session.input_names if name != "unpack_info"]
    feeds = {name: np.concatenate([sample[name] for sample in samples])[None] for name in names}
    lengths = np.array([[len(sample["input_ids"])] for sample in samples], np.int32)
    return dict(zip(session.output_names, session.run({**feeds, "unpack_info": lengths}), strict=True))


def assert_answers(executable: Executable, model: onnx.ModelProto, samples: Sequence[Arrays]) -> None:
    results = run_pack(EngineSession(executable, threads=1), samples)
    for number, answer in enumerate(one_by_one(model, samples)):
        for name, expected in answer.items():
            own = results[name][number][tuple(map(slice, expected.shape))]
            np.testing.assert_allclose(own, expected, atol=1e-5)


@pytest.mark.parametrize("lengths", [*FULL, *MIXED], ids=str)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_answers_are_those_of_single_runs_whatever_the_lengths(dialect: str, lengths: list[int]) -> None:
    assert_answers(compiled(dialect), original(dialect), random_samples(lengths))


@pytest.mark.parametrize("head", ["qa", "mean", "sequence"])
def test_heads_that_see_whole_samples_get_the_same(head: str) -> None:
    for lengths in (FULL[0], MIXED[0]):
        assert_answers(compiled(head=head), original(head=head), random_samples(lengths))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_token_that_its_own_sample_masks_stays_hidden_in_a_pack_of_one_length(dialect: str) -> None:
    samples = random_samples([7, 7, 7])
    seen = one_by_one(original(dialect), samples)[1]["last_hidden_state"]
    samples[1]["attention_mask"][3] = 0
    hidden = one_by_one(original(dialect), samples)[1]["last_hidden_state"]
    assert np.abs(hidden - seen).max() > 1e-3
    assert_answers(compiled(dialect), original(dialect), samples)


def test_samples_of_one_length_do_not_move_each_other_by_a_bit() -> None:
    session = EngineSession(compiled(), threads=1)
    samples, others = random_samples([9, 9, 9], seed=1), random_samples([9, 9, 9], seed=2)
    together = run_pack(session, samples)["last_hidden_state"][1]
    np.testing.assert_array_equal(
        run_pack(session, [others[0], samples[1], others[2]])["last_hidden_state"][1], together
    )


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_full_pack_makes_no_scores_and_no_mask(dialect: str) -> None:
    graph = engine_graph(compiled(dialect))
    fused, mixed = with_operator(graph, "MultiHeadAttention"), with_operator(graph, "Softmax")
    assert len(fused) == len(mixed) == LAYERS

    assert "Softmax" not in [node.op_type for node in graph.node]
    for part in fused:
        assert [node.op_type for node in part.node] == ["Reshape"] * 3 + ["MultiHeadAttention", "Reshape"]
        assert all(len(node.input) == 3 for node in part.node if node.op_type == "MultiHeadAttention")
    shared = next(node for node in graph.node if node.op_type == "If")
    assert [node.op_type for node in branch(shared, "then_branch").node] == ["Constant"]


def test_other_packs_run_the_nodes_that_there_were(monkeypatch: pytest.MonkeyPatch) -> None:
    with_branches = EngineSession(compiled(), threads=1)
    monkeypatch.setattr("poprt.compiler.lowering.has_fast_half", lambda: True)
    without = Compiler.compile(converted(original()), None)
    assert not with_operator(engine_graph(without), "MultiHeadAttention")
    for lengths in MIXED:
        samples = random_samples(lengths)
        expected = run_pack(EngineSession(without, threads=1), samples)
        for name, result in run_pack(with_branches, samples).items():
            np.testing.assert_array_equal(result, expected[name])


def test_the_executable_says_that_equal_lengths_cost_less() -> None:
    packing = compiled().packing
    assert packing is not None
    assert packing.equal_lengths_cheaper
    assert packing.pair_bytes > packing.full_pair_bytes == 0


def test_an_attention_that_is_left_alone_keeps_its_scores_in_full_packs_too() -> None:
    executable = compiled()
    assert executable.packing is not None
    graph = engine_graph(executable)
    assert with_full_packs(executable.packing, helper.make_model(graph)).full_pair_bytes == 0
    graph.node.append(helper.make_node("Softmax", ["a"], ["b"]))
    packing = with_full_packs(executable.packing, helper.make_model(graph))
    assert packing.full_pair_bytes == packing.pair_bytes


def test_weights_stay_outside_of_the_branches() -> None:
    graph = engine_graph(compiled())
    ifs = [node for node in graph.node if node.op_type == "If"]
    parts = [branch(node, name) for node in ifs for name in ("then_branch", "else_branch")]
    assert all(numpy_helper.to_array(tensor).size <= 8 for part in parts for tensor in part.initializer)


def test_several_segments_keep_their_shapes_and_their_attention() -> None:
    executable = Compiler.compile(converted(original(), segment_max_size=[8, 8]), None)
    assert executable.packing is not None
    assert not executable.packing.equal_lengths_cheaper
    assert "If" not in [node.op_type for node in engine_graph(executable).node]


def test_a_second_run_changes_nothing() -> None:
    model = onnx.ModelProto.FromString(compiled().graph)
    graph = import_graph(model)
    packing = read_packing(converted(original()))
    assert packing is not None
    before = export_graph(import_graph(model)).SerializeToString()
    assert not FuseFullPacks(packing).apply(graph).modified
    assert export_graph(graph).SerializeToString() == before


def biased(bias: np.ndarray) -> onnx.ModelProto:
    """The encoder with a constant [16, 16], cut to the sample's length, that every layer adds to its scores."""
    model = copy_of(original("old-torch"))
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), "bias"))
    for name, values in (("from", [0, 0]), ("axes", [0, 1]), ("last", [-1])):
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), f"bias_{name}"))
    for place in [place for place, node in enumerate(graph.node) if node.op_type == "Softmax"][::-1]:
        softmax = graph.node[place]
        scores, name = softmax.input[0], f"biased_{place}"
        softmax.input[0] = name
        nodes = [
            helper.make_node("Shape", [scores], [f"{name}_shape"], start=2),
            helper.make_node("Slice", ["bias", "bias_from", f"{name}_shape", "bias_axes"], [f"{name}_part"]),
            helper.make_node("Add", [scores, f"{name}_part"], [name]),
        ]
        for node in nodes[::-1]:
            graph.node.insert(place, node)
    model.opset_import[0].version = max(model.opset_import[0].version, 15)
    return model


RISING = np.arange(256.0).reshape(16, 16) / 64


@pytest.mark.parametrize("bias", [RISING, np.triu(np.full((16, 16), -1e4), 1)], ids=["relative", "causal"])
def test_what_is_added_beside_the_mask_keeps_its_path(bias: np.ndarray) -> None:
    model = biased(bias)
    executable = Compiler.compile(converted(model), None)
    assert not with_operator(engine_graph(executable), "MultiHeadAttention")
    for lengths in (FULL[0], MIXED[0]):
        assert_answers(executable, model, random_samples(lengths))


MASKS = """g (int64[1, T] mask, int64[1, T] ids, float[4] x) => (float[1, T] additive, bool[1, T] flag, float[4] y) {
    one = Constant <value_float = 1.0> ()
    low = Constant <value_float = -10000.0> ()
    number = Cast <to = 1> (mask)
    hidden = Sub (one, number)
    additive = Mul (hidden, low)
    same = Equal (ids, ids)
    kept = Cast <to = 9> (mask)
    flag = And (same, kept)
    other = Equal (mask, ids)
    chosen = Where (kept, additive, number)
    mixed = Where (other, additive, number)
    y = Neg (x)
}"""


def test_what_a_full_pack_makes_of_its_mask_is_known_and_nothing_else() -> None:
    graph = import_graph(parse(MASKS))
    tensors = graph.tensors()
    values = FullPackValues(graph, tensors["mask"])
    assert values.is_known(tensors["additive"], 0)
    assert values.is_known(tensors["flag"], True)
    assert values.is_known(tensors["chosen"], 0)
    assert [values.value(tensors[name]) for name in ("other", "mixed", "y", "ids")] == [None] * 4
    assert FullPackValues(graph, None).value(tensors["additive"]) is None

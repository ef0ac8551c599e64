"""The pass as its callers meet it: what it refuses and how it says so, what it writes, and that it repeats itself."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models.bert import SIZES, BertConfig, build_bert
from passes.errors import PackingError
from passes.manager import PassManager
from passes.ops import MINIMUM_OPSET
from passes.packing.packed_transformer import PackedTransformer
from passes.shapes.convert_opset import ConvertOpset
from tests.numerics import Arrays, one_by_one, random_samples, run
from tests.passes.packing.packs import COLUMNS, MOST, PACK_ARGS, ROWS, around, metadata, pack, packed
from tests.passes.rewrites import copy_of

ATTENTION = """
    xt = Transpose <perm = [0, 2, 1]> (x)  raw = MatMul (x, xt)  key = Unsqueeze (keep, one)
    off = Constant <value_float = -10000.0> ()  on = Constant <value_float = 1.0> ()  drop = Sub (on, key)
    bias = Mul (drop, off)  scores = Add (raw, bias)  w = Softmax (scores)  y = MatMul (w, x)
"""


def bert(**options) -> onnx.ModelProto:
    return build_bert(BertConfig(**{**SIZES["tiny"], "layers": 1, "head": "hidden", "dialect": "new-torch", **options}))


def apply(model, pack_args=PACK_ARGS, shapes=None, **options):
    """The packed model and what the pass reported."""
    if shapes is None:
        shapes = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    manager = PassManager([ConvertOpset(MINIMUM_OPSET), PackedTransformer(pack_args, shapes, **options)])
    packed_model = manager.run(copy_of(model))
    return packed_model, manager.records[-1].result


@pytest.mark.parametrize(
    ("pack_args", "message"),
    [
        ({}, "lacks max_valid_num; for example"),
        ({"max_valid_num": 4}, "lacks segment_max_size"),
        ({"segment_max_size": 4}, "lacks max_valid_num"),
        ({"max_valid_num": 0, "segment_max_size": 4}, "max_valid_num=0 is no positive whole number"),
        ({"max_valid_num": "many", "segment_max_size": 4}, "max_valid_num='many' is no positive"),
        ({"max_valid_num": 2.5, "segment_max_size": 4}, "max_valid_num=2.5 is no positive"),
        ({"max_valid_num": 4, "segment_max_size": "4+"}, "segment_max_size='' is no positive"),
        ({"max_valid_num": 4, "segment_max_size": [4, -1]}, "segment_max_size=-1 is no positive"),
        (
            {"max_valid_num": 4, "segment_max_sise": 4},
            "unknown key 'segment_max_sise' .*did you mean 'segment_max_size'",
        ),
        ({"max_valid_num": 4, "segment_max_size": 4, "zebra": 1}, "unknown key 'zebra' .*known are max_valid_num"),
    ],
)
def test_malformed_pack_args_are_an_error_that_names_the_key(pack_args, message):
    with pytest.raises(PackingError, match=message):
        PackedTransformer(pack_args)


def test_options_that_steer_another_device_are_announced(caplog):
    with caplog.at_level("WARNING", logger="poprt"):
        PackedTransformer({**PACK_ARGS, "enable_double_batch_unpack": True, "efficiency_priority": True})
    assert [record.message.split()[1] for record in caplog.records] == [
        "enable_double_batch_unpack",
        "efficiency_priority",
    ]


def test_packs_that_could_never_fill_the_rows_are_refused_with_the_number_that_could():
    with pytest.raises(PackingError, match=r"too small for inputs of shape \[3, 12\].*use max_valid_num=9 or more"):
        apply(bert(), {"max_valid_num": 8, "segment_max_size": 4})
    apply(bert(), {"max_valid_num": 9, "segment_max_size": 4})


@pytest.mark.parametrize("groups", ["[[nothing,]]", [["nothing"]], "[[input_ids,],[nothing,]]"])
def test_a_dynamic_group_that_names_no_input_is_an_error_that_lists_the_inputs(groups):
    with pytest.raises(PackingError, match=r"dynamic_groups names 'nothing'.*input_ids"):
        apply(bert(), {**PACK_ARGS, "dynamic_groups": groups})


def test_a_dynamic_group_may_name_an_input():
    packed_model, _ = apply(bert(), {**PACK_ARGS, "dynamic_groups": "[[attention_mask,]]"})
    assert metadata(packed_model)["dynamic_inputs"] == ["input_ids", "attention_mask", "token_type_ids"]


def test_an_opset_that_is_too_old_is_an_error_that_says_what_to_run():
    model = bert()
    model.opset_import[0].version = 13
    with pytest.raises(PackingError, match=r"needs opset 15 or newer, the model has 13; run convert_opset before it"):
        PackedTransformer(PACK_ARGS).run(model)


def test_inputs_of_two_sequences_are_refused_by_name():
    model = bert()
    model.graph.input.append(helper.make_tensor_value_info("other", TensorProto.INT64, ["batch", "other_sequence"]))
    with pytest.raises(PackingError, match=r"input 'other' .* does not have the axes"):
        apply(model, shapes={})


def test_a_model_that_masks_nothing_runs_in_packs_of_one_length():
    body = "n = Cast <to = 1> (mask)  h = Unsqueeze (n, last)  y = Add (x, h)"
    head = "xt = Transpose <perm = [0, 2, 1]> (x)  sc = MatMul (x, xt)  w = Softmax (sc)  pooled = MatMul (w, x)"
    model = around(body, head=head)
    del model.graph.output[:1]
    said = metadata(packed(model))
    assert said["neighbours"] == "same_length"
    assert said["mask"] == "mask"  # by its name alone
    assert "Softmax" in said["isolation"]


def test_a_model_whose_products_all_mix_tokens_is_refused_with_the_reasons():
    model = around("m = Mul (e, column)  y = ReduceSum <keepdims = 0> (m, one)", head="pooled = Identity (y)")
    first = next(node for node in model.graph.node if node.op_type == "MatMul")
    turned = helper.make_node("CumSum", ["embedded", "scalar_one"], ["summed"])
    pair = helper.make_node("Transpose", ["summed"], ["turned"], perm=[0, 2, 1])
    product = helper.make_node("MatMul", ["turned", "summed"], ["x"], name="pairs")
    spread = helper.make_node("Add", ["embedded", "embedded"], ["e"])
    del model.graph.initializer[:]
    rng = np.random.default_rng(0)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name)
        for name, array in {
            "T": rng.normal(size=(64, 8)).astype(np.float32),
            "one": np.array([1]),
            "last": np.array([-1]),
            "scalar_one": np.array(1),
        }.items()
    )
    place = list(model.graph.node).index(first)
    model.graph.node.remove(first)
    for node in reversed([turned, pair, product, spread]):
        model.graph.node.insert(place, node)
    del model.graph.output[1:]
    with pytest.raises(PackingError, match=r"no matrix product of this model treats every token alone.*MatMul 'pairs'"):
        packed(model)


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("y = Transpose <perm = [1, 0, 2]> (x)", r"\[seq, batch, 8\]"),
        ("rows = Constant <value_ints = [-1, 8]> ()  y = Reshape (x, rows)", r"\[batch\*seq, 8\]"),
        ("n = ReduceMax <keepdims = 0> (ids)  y = Cast <to = 1> (n)", r"\[\]"),
    ],
)
def test_an_output_that_has_no_row_for_each_sample_is_refused_by_name_and_shape(body, shape):
    with pytest.raises(PackingError, match=f"output 'y' {shape} does not hold one row a sample.*--remove_outputs"):
        packed(around(body))


def test_packing_a_packed_model_does_nothing_and_says_so():
    once, _ = apply(bert())
    again, result = apply(once)
    assert not result.modified
    assert [refusal.reason for refusal in result.refusals] == ["the model is packed already"]
    assert again.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


def test_the_same_model_gives_the_same_bytes():
    first, second = (apply(bert())[0].SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_the_packed_model_says_how_it_is_packed():
    packed_model, result = apply(bert())
    said = metadata(packed_model)
    share = said.pop("packed_flops") / said.pop("total_flops")
    assert 0.8 < share < 1
    assert result.details["packed share of FLOPs"] == round(share, 4)
    assert said == {
        "layout": "across_rows",
        "subsampling": [1, 1, 0],
        "rows": ROWS,
        "columns": COLUMNS,
        "max_valid_num": MOST,
        "segment_max_size": [9],
        "unpack_info": "unpack_info",
        "dynamic_inputs": ["input_ids", "attention_mask", "token_type_ids"],
        "mask": "attention_mask",
        "position_ids": "",
        "outputs": {"last_hidden_state": "tokens"},
        "shape_agnostic": True,
        "neighbours": "any",
        "isolation": "",
        "token_axes": {},
        "cell_bytes": 1024,
        "pair_bytes": 4,
        "pair_inputs": {},
        "run_inputs": [],
        "sample_inputs": [],
    }


def test_every_refusal_names_a_node_and_a_reason():
    _, result = apply(bert())
    assert result.refusals
    assert all(refusal.node and refusal.reason for refusal in result.refusals)


@pytest.mark.parametrize("head", ["qa", "sequence", "token", "mean", "hidden"])
@pytest.mark.parametrize("dialect", ["old-torch", "new-torch"])
def test_a_mask_that_numbers_the_samples_gives_the_same_numbers(head, dialect):
    model = bert(head=head, dialect=dialect)
    packed_model, _ = apply(model)
    batch = random_samples([5, 9, 1, 7, 2, 9])
    plain = run(packed_model, pack(batch))
    for number, sample in enumerate(batch, 1):
        sample["attention_mask"] *= number
    for name, values in run(packed_model, pack(batch)).items():
        np.testing.assert_array_equal(values, plain[name])


@pytest.mark.parametrize("sizes", ["3+5", [3, 5], "8"])
def test_segments_stand_in_their_own_columns(sizes):
    """A sample of segments (a, b) is one sequence whose tokens stand in the columns of their segments."""
    model = around(ATTENTION)
    parts = [3, 5] if sizes != "8" else [8]
    packed_model = packed(model, segment_max_size=sizes, max_valid_num=5)
    lengths = np.array([[3, 5], [1, 2], [2, 4]]) if len(parts) == 2 else np.array([[8], [3], [6]])
    totals = lengths.sum(axis=1)
    rng = np.random.default_rng(0)
    batch: list[Arrays] = [{"ids": rng.integers(1, 64, n), "mask": np.ones(n, np.int64)} for n in totals]
    feeds = pack(batch, most=5)
    feeds["unpack_info"] = np.zeros((5, len(parts)), np.int32)
    feeds["unpack_info"][: len(lengths)] = lengths
    got = run(packed_model, feeds)["y"]
    starts = np.cumsum([0, *parts[:-1]])
    for row, counts, want in zip(got, lengths, one_by_one(model, batch), strict=False):
        columns = np.concatenate([start + np.arange(count) for start, count in zip(starts, counts, strict=True)])
        np.testing.assert_allclose(row[columns], want["y"], atol=1e-5)

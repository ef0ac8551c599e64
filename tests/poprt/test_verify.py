"""The numeric comparison: it passes what is equal, and fails what is not."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from models.bert import SIZES, BertConfig, build_bert
from poprt.converter import Converter
from poprt.engine.cpu import lacks_int8_dot_products
from poprt.errors import PoprtError
from poprt.own_precision import own_precision
from poprt.sample_data import model_inputs, random_array
from poprt.verify import TOLERANCE, verify
from poprt.verify_packed import as_declared, pack_samples
from poprt_format.packing import ACROSS_ROWS, WITHIN_ROWS, Packing

PACKING = Packing(
    layout=ACROSS_ROWS,
    rows=3,
    columns=8,
    max_valid_num=5,
    segment_max_size=(8,),
    unpack_info="unpack_info",
    dynamic_inputs=("ids", "mask"),
    mask="mask",
    position_ids="",
    outputs={"y": "tokens"},
)


def model_of(text: str) -> onnx.ModelProto:
    return parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>\n' + text)


def bert(**config: object) -> onnx.ModelProto:
    return build_bert(BertConfig(**{**SIZES["tiny"], "head": "hidden", **config}))


def spoil(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with its largest weight turned around."""
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(model)
    largest = max(spoilt.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(largest)
    largest.CopyFrom(numpy_helper.from_array(np.flip(values), largest.name))
    return spoilt


def test_a_model_equals_itself() -> None:
    check = verify(bert(), bert()).outputs[0]
    assert check.passed
    assert check.max_abs_diff == check.served_abs_diff == check.optimiser_abs_diff < 1e-6  # its rewrites add otherwise


def test_int8_is_judged_without_the_overflow_of_some_kernels(caplog: pytest.LogCaptureFixture) -> None:
    model = model_of("g (float[5,96] x) => (float[5,80] y) { p = Sigmoid (x)  y = MatMul (p, w) }")
    w = np.random.default_rng(0).uniform(0.5, 1, (96, 80)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    converter = Converter(precision="int8", check=True)
    converter.convert(model)
    assert converter.verification is not None
    assert converter.verification.outputs[0].max_abs_diff < 0.5  # of about 36; what overflows loses 4.6
    assert ("reduce_range=True" in caplog.text) == lacks_int8_dot_products()
    report = next(record.result.details for record in converter.records if record.name == "float_to_int8")
    assert float(report["largest difference of y"]) < 0.5


def test_a_model_too_large_for_one_message_goes_through_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poprt.verify.LARGEST_MESSAGE", 1000)
    model = bert()
    before = model.SerializeToString(deterministic=True)
    assert verify(model, bert()).passed
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("head", ["hidden", "mean"])
def test_samples_of_several_segments_are_compared_where_their_tokens_are(head: str) -> None:
    model = bert(head=head)
    packed = Converter(pack_args={"max_valid_num": 5, "segment_max_size": "3+6"}).convert(model)
    outcome = verify(model, packed)
    assert outcome.passed
    assert outcome.runs > 1


def test_altered_weights_fail() -> None:
    outcome = verify(bert(), spoil(bert()))
    assert not outcome.passed
    assert outcome.outputs[0].max_abs_diff > outcome.outputs[0].tolerance


def test_a_packed_model_with_altered_weights_fails() -> None:
    shapes = {name: [3, 8] for name in ("input_ids", "attention_mask", "token_type_ids")}
    model = bert()
    packed = Converter(pack_args={"max_valid_num": 5, "segment_max_size": 8}, input_shape=shapes).convert(model)
    assert verify(model, packed).passed
    assert not verify(model, spoil(packed)).passed


@pytest.mark.parametrize(("head", "longest"), [("qa", 8), ("qa", 5), ("sequence", 8), ("mean", 5)])
@pytest.mark.parametrize("passes", [[], ["insert_attention_mask"]])
def test_an_original_of_fixed_extents_is_run_with_samples_filled_up_and_repeated(
    head: str, longest: int, passes: list[str]
) -> None:
    model = bert(head=head)
    for value in model.graph.input:
        for dim, extent in zip(value.type.tensor_type.shape.dim, (4, 8), strict=True):
            dim.dim_value = extent
    for value in model.graph.output:
        for dim, extent in zip(value.type.tensor_type.shape.dim, (4, 8)[: 1 + (head == "qa")], strict=False):
            dim.dim_value = extent
    options = {"pack_args": {"max_valid_num": 8, "segment_max_size": longest}, "used_passes": passes}
    packed = Converter(disable_progress_bar=True, **options).convert(copy.deepcopy(model))
    assert verify(model, packed).passed
    assert not verify(model, spoil(packed)).passed


def test_a_sample_is_filled_up_to_what_is_declared_and_repeated() -> None:
    feeds = {"ids": np.array([[3, 1]]), "user": np.ones((1, 2), np.float32), "scale": np.array(2.0)}
    declared = {"ids": [2, 4], "user": [2, 2], "scale": []}
    fitted = as_declared(feeds, declared)
    assert fitted["ids"].tolist() == [[3, 1, 0, 0]] * 2
    assert fitted["user"].shape == (2, 2)
    assert fitted["scale"] == 2.0
    assert as_declared(feeds, {"ids": ["batch", "seq"]})["ids"].tolist() == [[3, 1]]


def test_a_nan_on_one_side_fails_and_on_both_sides_passes() -> None:
    good = model_of("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }")
    bad = model_of("g (float[2,3] x) => (float[2,3] y) { a = Sub(x, x)  b = Div(a, a)  y = Relu(b) }")
    assert verify(good, bad).outputs[0].max_abs_diff == np.inf
    assert not verify(good, bad).passed
    assert verify(bad, bad).passed


def test_whole_numbers_must_be_equal() -> None:
    first = model_of("g (float[2,3] x) => (int64[2] y) { y = ArgMax<axis=1, keepdims=0>(x) }")
    last = model_of("g (float[2,3] x) => (int64[2] y) { y = ArgMin<axis=1, keepdims=0>(x) }")
    assert verify(first, first, "fp16").passed
    assert not verify(first, last, "fp16").passed


def test_models_without_a_common_output_cannot_be_compared() -> None:
    with pytest.raises(PoprtError, match="no output in common"):
        verify(
            model_of("g (float[2] x) => (float[2] y) { y = Relu(x) }"),
            model_of("g (float[2] x) => (float[2] z) { z = Relu(x) }"),
        )


def test_a_model_that_the_engine_lacks_an_operator_for_is_a_clear_error() -> None:
    unknown = model_of("g (float[2] x) => (float[2] y) { y = NoSuchOperator(x) }")
    with pytest.raises(PoprtError, match="NoSuchOperator"):
        verify(unknown, unknown)


def test_ids_stay_within_the_table_that_they_index_and_masks_are_zero_or_one() -> None:
    model = bert(position_ids=True, vocab=50)
    infos = {info.name: info for info in model_inputs(model)}
    rng = np.random.default_rng(0)
    data = {name: random_array(info, (64, 32), rng) for name, info in infos.items()}
    assert (infos["input_ids"].kind, infos["input_ids"].rows) == ("ids", 50)
    assert data["input_ids"].max() == 49
    assert set(np.unique(data["token_type_ids"])) == {0, 1}
    assert set(np.unique(data["attention_mask"])) == {0, 1}
    np.testing.assert_array_equal(data["position_ids"][0], np.arange(32))


def packed_case(**changes: Any) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]], object]:
    packing = dataclasses.replace(PACKING, **changes)
    plain = "int64[B,S] ids, int64[B,S] mask"
    body = "=> (float[B,S,4] y) <float[50,4] t> { e = Gather(t, ids)  m = Cast<to=1>(mask)  y = Mul(e, e) }"
    originals = model_inputs(model_of(f"g ({plain}) {body}"))
    converted = model_inputs(model_of(f"g ({plain}, int32[M,K] unpack_info) {body}"))
    case = pack_samples(packing, originals, converted, np.random.default_rng(1))
    return case.converted_feeds, case.original_feeds, case


def test_samples_are_laid_end_to_end_across_rows() -> None:
    feeds, samples, case = packed_case()
    lengths = feeds["unpack_info"][:, 0]
    stream = feeds["ids"].reshape(-1)
    start = 0
    for sample, length in zip(samples, lengths, strict=False):
        np.testing.assert_array_equal(stream[start : start + length], sample["ids"][0])
        start += length
    assert feeds["mask"].sum() == start == lengths.sum()
    assert any(places[0] // 8 != places[-1] // 8 for places in case.places)


@pytest.mark.parametrize(("neighbours", "count"), [("same_length", 3), ("none", 1)])
def test_samples_whose_padding_would_show_have_none(neighbours: str, count: int) -> None:
    feeds, samples, _ = packed_case(neighbours=neighbours)
    assert [int(length) for length in feeds["unpack_info"][:, 0] if length] == [8] * count
    assert len(samples) == count


def test_samples_within_rows_are_numbered_by_the_mask() -> None:
    feeds, samples, case = packed_case(layout=WITHIN_ROWS, segment_max_size=(4,), outputs={"y": "packed"})
    assert all(places[0] // 8 == places[-1] // 8 for places in case.places)
    assert feeds["mask"].max() >= 2
    tokens = np.arange(3 * 8 * 4.0).reshape(3, 8, 4)
    expected = np.zeros((1, *samples[1]["ids"].shape[1:], 4))
    _, cut = case.pair("y", expected, tokens, 1)
    np.testing.assert_array_equal(cut, tokens.reshape(24, 4)[case.places[1]])


def test_each_segment_starts_at_its_own_column() -> None:
    feeds, samples, case = packed_case(segment_max_size=(3, 4))
    assert feeds["unpack_info"].shape == (5, 2)
    np.testing.assert_array_equal(case.columns[0], np.arange(7))  # the first sample is as long as one may be
    for sample, columns, lengths in zip(samples, case.columns, feeds["unpack_info"], strict=False):
        assert set(columns) == {*range(lengths[0]), *range(3, 3 + lengths[1])}
        assert sample["mask"].sum() == lengths.sum()


def halved(text: str, kind: str = "float16") -> onnx.ModelProto:
    model = model_of(text.replace("half", kind))
    model.graph.initializer.append(
        helper.make_tensor("w", onnx.TensorProto.DataType.Value(kind.upper()), [4], [0.1] * 4)
    )
    return model


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("g (half[4] x) => (half[4] y) { y = Mul (x, w) }", "half"),
        ("g (float[4] x) => (float[4] y) { a = Cast <to = TO> (x)  b = Mul (a, w)  y = Cast <to = 1> (b) }", "half"),
        ("g (int64[4] i) => (half[4] y) { a = Gather (w, i)  y = Mul (a, a) }", "half"),
        ("g (float[4] x) => (float[4] y) { c = Cast <to = 1> (w)  y = Mul (x, c) }", "fp32"),
        ("g (int64[4] i) => (float[4] y) { a = Gather (w, i)  y = Cast <to = 1> (a) }", "fp32"),
        (
            """g (half[4] x, bool c) => (half[4] y) {
            y = If (c) <then_branch = t () => (half[4] a) { a = Mul (x, w) },
                        else_branch = e () => (half[4] b) { b = Neg (x) }> }""",
            "half",
        ),
    ],
)
@pytest.mark.parametrize(("kind", "name", "number"), [("float16", "fp16", "10"), ("bfloat16", "bf16", "16")])
def test_a_model_computes_in_half_where_a_node_reads_it(
    text: str, precision: str, kind: str, name: str, number: str
) -> None:
    model = halved(text.replace("TO", number), kind)
    assert own_precision(model) == (name if precision == "half" else "fp32")


def test_a_half_precision_model_has_the_tolerance_of_its_own_type() -> None:
    original = halved("g (half[4] x) => (half[4] y) { a = Mul (x, w)  y = Sub (a, a) }")
    close = halved("g (half[4] x) => (half[4] y) { a = Mul (x, w)  y = Mul (a, e) }")
    far = copy.deepcopy(close)
    for model, factor in ((close, 1e-2), (far, 0.5)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float16), "e"))
    assert verify(original, close).passed
    assert not verify(original, far).passed
    assert verify(original, close).outputs[0].tolerance == pytest.approx(TOLERANCE["fp16"])
    exact = halved("g (float[4] x) => (float[4] y) { c = Cast <to = 1> (w)  y = Mul (x, c) }")
    assert verify(exact, exact).outputs[0].tolerance < 1e-4

"""``insert_attention_mask`` by name: where the Converter runs it, and what the passes after it make of its graph."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest

from models.bert import SIZES, BertConfig, build_bert
from passes.errors import RewriteError
from passes.packed_model import PackedModel
from poprt.compiler import Compiler
from poprt.convert_options import WITHIN_ROWS_PASS
from poprt.converter import Converter
from poprt.engine.session import EngineSession
from poprt.errors import RequestTooLongError
from poprt.executable import Executable
from poprt.runtime import DeclaredSession, PackAlgorithm, PackRunner, PackRunnerConfig, pack_data
from tests.numerics import one_by_one, random_samples, run

ROWS, COLUMNS = 3, 16
SOON = 20
LENGTHS = [5, 9, 1, 16, 7, 3]
TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3}


def bert(head: str = "qa", position_ids: bool = False) -> onnx.ModelProto:
    return build_bert(BertConfig(**SIZES["tiny"], head=head, position_ids=position_ids))


def shapes_for(model: onnx.ModelProto) -> dict[str, list[int]]:
    return {value.name: [ROWS, COLUMNS] for value in model.graph.input}


def passes_of(converter: Converter) -> list[str]:
    return [record.name for record in converter.records]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("position_ids", [False, True])
def test_samples_that_share_rows_get_what_they_get_alone(precision: str, position_ids: bool) -> None:
    model = bert(position_ids=position_ids)
    converter = Converter(used_passes=WITHIN_ROWS_PASS, input_shape=shapes_for(model), precision=precision)
    converted = converter.convert(model)
    samples = random_samples(LENGTHS, position_ids=True)
    pack = pack_data(samples, 0, ROWS, COLUMNS, 9, 1, across_rows=False)
    assert pack.count == len(samples)
    results = run(converted, pack.data)
    for place, expected in zip(pack.specs, one_by_one(model, samples), strict=True):
        for name, values in expected.items():
            got = results[name][place.row, place.start : place.start + place.length]
            np.testing.assert_allclose(got, values, rtol=0, atol=TOLERANCE[precision])


def test_it_runs_before_the_shapes_are_fixed_and_declares_every_shape_afterwards() -> None:
    model = bert()
    converter = Converter(used_passes=[WITHIN_ROWS_PASS], input_shape=shapes_for(model))
    converted = converter.convert(model)
    order = passes_of(converter)
    assert order.count(WITHIN_ROWS_PASS) == 1
    assert order.index("eliminate_duplicate_nodes") < order.index(WITHIN_ROWS_PASS) < order.index("const_input_shape")
    for value in (*converted.graph.input, *converted.graph.output):
        assert [dim.dim_value for dim in value.type.tensor_type.shape.dim] == [ROWS, COLUMNS], value.name
    onnx.checker.check_model(converted, full_check=True)
    packed = PackedModel.read(converted)
    assert packed is not None
    assert (packed.rows, packed.columns, packed.within_rows) == (ROWS, COLUMNS, True)


def test_shape_arithmetic_is_folded_because_nothing_inside_has_other_extents() -> None:
    model = bert()
    keywords: dict[str, Any] = {"used_passes": WITHIN_ROWS_PASS, "input_shape": shapes_for(model)}
    folded, kept = (Converter(**keywords, skip_passes=skip).convert(model) for skip in ("", "trace_folding"))
    assert sum(node.op_type == "Shape" for node in kept.graph.node) > 0
    assert sum(node.op_type == "Shape" for node in folded.graph.node) == 0


def test_fp16_masks_are_fp16_and_the_mask_input_is_int32() -> None:
    model = bert()
    converted = Converter(used_passes=WITHIN_ROWS_PASS, input_shape=shapes_for(model), precision="fp16").convert(model)
    masks = [node for node in converted.graph.node if node.op_type == "AttentionMask"]
    assert masks
    for node in masks:
        kinds = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        assert kinds["dataType"] == b"FLOAT16"
    assert {value.type.tensor_type.elem_type for value in converted.graph.input} == {onnx.TensorProto.INT32}


def test_an_added_position_input_is_declared_like_the_others() -> None:
    model = bert()
    columns = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    converted = Converter(used_passes=WITHIN_ROWS_PASS, input_shape=columns, batch_size=ROWS, batch_axis=0).convert(
        model
    )
    shapes = {v.name: [dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in converted.graph.input}
    assert shapes == {**columns, "position_ids": [ROWS, COLUMNS]}


def test_positions_that_the_model_does_not_take_yet_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = bert()
    with caplog.at_level(logging.WARNING, "poprt"):
        Converter(
            used_passes=WITHIN_ROWS_PASS, input_shape={**shapes_for(model), "position_ids": [ROWS, COLUMNS]}
        ).convert(model)
    (message,) = [record.message for record in caplog.records if "position_ids" in record.message]
    assert "attention_mask" in message


def test_an_old_model_is_raised_to_the_opset_that_packing_needs() -> None:
    model = onnx.version_converter.convert_version(bert(), 14)
    converted = Converter(used_passes=WITHIN_ROWS_PASS, input_shape=shapes_for(model)).convert(model)
    assert {entry.domain: entry.version for entry in converted.opset_import}[""] == 17


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"infer_shape_ahead": True}, "leave out one of the two"),
        ({"pack_args": {"max_valid_num": 4}, "infer_shape_ahead": True}, "leave out one of the two"),
    ],
)
def test_what_cannot_go_with_it_is_an_error(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(RewriteError, match=message):
        Converter(used_passes=WITHIN_ROWS_PASS, **keywords)


def test_other_passes_that_the_user_names_still_run_after_the_default_ones() -> None:
    model = bert()
    converter = Converter(used_passes=f"eliminate_identity,{WITHIN_ROWS_PASS}", input_shape=shapes_for(model))
    converter.convert(model)
    assert passes_of(converter)[-5] == "eliminate_identity"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("head", ["sequence", "mean", "qa"])
def test_with_pack_args_a_head_over_whole_samples_reads_one_final_unpack(head: str, precision: str) -> None:
    model, most = bert(head), 9
    converter = Converter(
        used_passes=WITHIN_ROWS_PASS,
        pack_args={"max_valid_num": most, "segment_max_size": COLUMNS},
        input_shape=shapes_for(model),
        precision=precision,
        check=True,
    )
    converted = converter.convert(model)
    assert converter.verification is not None
    assert converter.verification.passed
    assert "packed_transformer" not in passes_of(converter)
    samples = random_samples(LENGTHS, position_ids=True)
    pack = pack_data(samples, 0, ROWS, COLUMNS, most, 1, across_rows=False)
    results = run(converted, {**pack.data, "unpack_info": pack.unpack_info})
    for index, expected in enumerate(one_by_one(model, samples)):
        place = pack.specs[index]
        for name, values in expected.items():
            shared = results[name][place.row, place.start : place.start + place.length]
            got = shared if head == "qa" else results[name][index]
            np.testing.assert_allclose(got, values, rtol=0, atol=TOLERANCE[precision])


@pytest.mark.parametrize("head", ["sequence", "mean"])
def test_without_pack_args_a_head_over_whole_samples_is_refused_by_name(head: str) -> None:
    model = bert(head)
    with pytest.raises(RewriteError, match=rf"{WITHIN_ROWS_PASS}.*give --pack_args as well.*one final Unpack"):
        Converter(used_passes=WITHIN_ROWS_PASS, input_shape=shapes_for(model)).convert(model)


@pytest.mark.parametrize("algorithm", PackAlgorithm)
@pytest.mark.parametrize("delimiter", [0, 1])
def test_requests_to_a_model_with_one_final_unpack_get_what_they_get_alone(
    algorithm: PackAlgorithm, delimiter: int
) -> None:
    model = bert("mean")
    converter = Converter(
        used_passes=WITHIN_ROWS_PASS,
        pack_args={"max_valid_num": 5, "segment_max_size": COLUMNS},
        input_shape=shapes_for(model),
    )
    config = PackRunnerConfig(timeout_microseconds=1000)
    config.algorithm = algorithm
    config.enable_input_single_row_mode("attention_mask", "unpack_info", delimiter)
    samples = random_samples(LENGTHS * 3)
    expected = [result["embedding"] for result in one_by_one(model, samples)]
    results = [np.full_like(want, 9) for want in expected]
    with PackRunner(Compiler.compile(converter.convert(model)), config) as runner:
        futures = [
            runner.execute_async(sample, {"embedding": out}) for sample, out in zip(samples, results, strict=True)
        ]
        for future in futures:
            future.wait(SOON)
    np.testing.assert_allclose(results, expected, rtol=0, atol=1e-5)


def test_the_packed_share_leaves_out_a_head_that_reads_the_unpack() -> None:
    shapes = {name: [4, 32] for name in ("input_ids", "attention_mask", "token_type_ids")}
    shares = {}
    for head in ("token", "sequence"):
        model = build_bert(BertConfig(**SIZES["tiny"], head=head, dialect="new-torch"), seed=0)
        converter = Converter(
            input_shape=shapes,
            pack_args={"max_valid_num": 8, "segment_max_size": 32},
            used_passes=["insert_attention_mask"],
        )
        converter.convert(model)
        details = [r.result.details for r in converter.records if r.name == "insert_attention_mask"]
        shares[head] = details[0]["packed share of FLOPs"]
    assert shares["token"] == 1
    assert 0.9 < shares["sequence"] < 1


def compiled_rows() -> tuple[onnx.ModelProto, Executable]:
    """A model, and its executable packed within rows."""
    model = bert()
    converter = Converter(used_passes=[WITHIN_ROWS_PASS], input_shape=shapes_for(model))
    return model, Compiler.compile(converter.convert(model), None)


class CountedRows(EngineSession):
    """Notes how many rows each run has."""

    def __init__(self, executable: Executable) -> None:
        super().__init__(executable)
        self.rows: list[int] = []

    def run(self, feeds: Mapping[str, Any], output_names: Sequence[str] | None = None) -> list[Any]:
        self.rows.append(len(feeds["input_ids"]))
        return super().run(feeds, output_names)


def test_only_rows_that_hold_samples_are_run() -> None:
    model, executable = compiled_rows()
    assert executable.manifest.batch_axes == dict.fromkeys(executable.manifest.batch_axes, 0) != {}
    samples = random_samples([5, 9, 16], position_ids=True)
    pack = pack_data(samples, 0, ROWS, COLUMNS, 9, 1, across_rows=False)
    engine = CountedRows(executable)
    assert executable.packing is not None
    names = list(executable.packing.outputs)
    results = dict(zip(names, DeclaredSession(executable, session=engine).run(pack.data, names), strict=True))
    assert engine.rows == [2]
    for place, expected in zip(pack.specs, one_by_one(model, samples), strict=True):
        for name, values in expected.items():
            got = results[name][place.row, place.start : place.start + place.length]
            np.testing.assert_allclose(got, values, rtol=0, atol=TOLERANCE["fp32"])
            assert results[name].shape == (ROWS, COLUMNS)
            assert not results[name][2].any()


def test_a_runner_runs_the_rows_that_it_needs_on_several_lanes() -> None:
    model, executable = compiled_rows()
    engine = CountedRows(executable)
    samples = random_samples([n % 16 + 1 for n in range(0, 300, 7)])
    outputs = [{"start_logits": np.zeros(len(s["input_ids"]), np.float32)} for s in samples]
    with PackRunner(executable, PackRunnerConfig(lanes=2), session=engine) as runner:
        for future in [runner.execute_async(s, out) for s, out in zip(samples, outputs, strict=True)]:
            future.wait(SOON)
        runner.execute(samples[0], outputs[0])
    assert engine.rows[-1] == 1
    assert max(engine.rows) <= ROWS
    for out, expected in zip(outputs, one_by_one(model, samples), strict=True):
        np.testing.assert_allclose(out["start_logits"], expected["start_logits"], rtol=0, atol=TOLERANCE["fp32"])


def test_a_final_unpack_holds_the_declared_rows() -> None:
    model = bert("sequence")
    converter = Converter(
        used_passes=[WITHIN_ROWS_PASS],
        input_shape=shapes_for(model),
        pack_args={"max_valid_num": 6, "segment_max_size": COLUMNS},
    )
    executable = Compiler.compile(converter.convert(model), None)
    assert not executable.manifest.batch_axes
    assert executable.packing is not None
    assert executable.packing.unpack_info


@pytest.mark.parametrize("head", ["mean", "sequence", "qa"])
@pytest.mark.parametrize("longest", [5, 9, COLUMNS])
def test_a_head_finds_its_samples_where_they_may_be_shorter_than_a_row(head: str, longest: int) -> None:
    """The first sample of a row comes after the rest of the one before, which may be longer than any sample."""
    model = bert(head)
    pack_args = {"max_valid_num": 9, "segment_max_size": longest}
    options = {"used_passes": [WITHIN_ROWS_PASS], "pack_args": pack_args, "disable_progress_bar": True}
    converted = Converter(input_shape=shapes_for(model), **options).convert(bert(head))
    samples = random_samples([min(length, longest) for length in [*LENGTHS, 5, 5, 4, 5]])
    want = one_by_one(model, samples)
    with PackRunner(Compiler.compile(converted), PackRunnerConfig()) as runner:
        shapes = {desc.name: desc.shape for desc in runner.get_execute_outputs()}
        out = [{name: np.zeros(array.shape, np.float32) for name, array in answer.items()} for answer in want]
        for future in runner.submit(list(zip(samples, out, strict=True))):
            future.wait(60)
    for got, expected in zip(out, want, strict=True):
        for name, values in expected.items():
            np.testing.assert_allclose(got[name], values, rtol=0, atol=1e-5, err_msg=f"{name} {shapes[name]}")


def test_a_sample_that_is_longer_than_the_head_takes_is_refused() -> None:
    model = bert("mean")
    options = {"used_passes": [WITHIN_ROWS_PASS], "pack_args": {"max_valid_num": 9, "segment_max_size": 5}}
    converted = Converter(input_shape=shapes_for(model), disable_progress_bar=True, **options).convert(model)
    (sample,) = random_samples([6])
    with (
        PackRunner(Compiler.compile(converted), PackRunnerConfig()) as runner,
        pytest.raises(RequestTooLongError, match="6 tokens, at most 5"),
    ):
        runner.execute(sample, {"embedding": np.zeros(64, np.float32)})

"""The trial at the end of a conversion: it finds what the analysis missed, and says what was tried."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from models.bert import SIZES, BertConfig, build_bert
from passes.errors import PackingError
from passes.packed_model import PackedModel
from passes.parted import PartedModel
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.errors import CompileError
from poprt.executable import Executable
from poprt.isolation import IsolationTrial, _compare, try_isolation
from poprt.isolation_bench import Bench, Sample
from poprt.sample_data import InputInfo, model_inputs, other_array, random_array
from poprt.smaller_extents import extents_to_try, resized
from poprt.verify_packed import draw_sample
from poprt_format.packing import ANY

ROWS, COLUMNS, MOST = 4, 64, 12
WITHIN_ROWS_PASS = "insert_attention_mask"
LAYOUTS: dict[str, dict[str, Any]] = {
    "across_rows": {"pack_args": {"max_valid_num": MOST, "segment_max_size": COLUMNS}},
    "segments": {"pack_args": {"max_valid_num": MOST, "segment_max_size": "24+40"}},
    "within_rows": {"used_passes": [WITHIN_ROWS_PASS]},
    "within_rows+unpack": {
        "pack_args": {"max_valid_num": MOST, "segment_max_size": COLUMNS},
        "used_passes": [WITHIN_ROWS_PASS],
    },
}


def bert(head: str = "qa") -> onnx.ModelProto:
    return build_bert(BertConfig(**{**SIZES["tiny"], "layers": 1}, head=head))


def converter_for(model: onnx.ModelProto, layout: str = "across_rows", **options: Any) -> Converter:
    rows = options.pop("rows", ROWS)
    shapes = {value.name: [rows, COLUMNS] for value in model.graph.input}
    used = [*LAYOUTS[layout].get("used_passes", []), *options.pop("used_passes", [])]
    return Converter(input_shape=shapes, **{**LAYOUTS[layout], **options, "used_passes": used})


def convert(model: onnx.ModelProto, layout: str = "across_rows", **options: Any) -> tuple[onnx.ModelProto, Any]:
    converter = converter_for(model, layout, **options)
    return converter.convert(model), converter.isolation


def mixing(axis: int) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    """A pass after packing that takes the mean along ``axis`` from the first output: a fault that nothing proves."""

    def run(model: onnx.ModelProto) -> onnx.ModelProto:
        graph = model.graph
        name = graph.output[0].name
        for node in graph.node:
            for index, output in enumerate(node.output):
                if output == name:
                    node.output[index] = f"{name}_before"
        axes: dict[str, Any] = {"axes": [axis]}
        inputs = [f"{name}_before"]
        if next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx")) >= 18:
            axes = {}
            graph.initializer.append(numpy_helper.from_array(np.array([axis]), "mixed_axes"))
            inputs.append("mixed_axes")
        graph.node.append(helper.make_node("ReduceMean", inputs, ["mean"], "leak", keepdims=1, **axes))
        graph.node.append(helper.make_node("Sub", [f"{name}_before", "mean"], [name], "taken"))
        return model

    return run


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_each_layout_and_precision_is_tried_and_holds(layout: str, precision: str) -> None:
    _, trial = convert(bert(), layout, precision=precision)
    in_company, beside_others = trial.findings
    assert trial.neighbours == "any"
    assert not trial.fell_back
    assert "longer and shorter" in in_company.experiment
    assert in_company.difference <= 1e-6
    assert (beside_others.difference, beside_others.tolerance) == (0, 0)


def test_a_model_that_is_not_packed_is_not_tried() -> None:
    converter = Converter()
    converter.convert(bert())
    assert converter.isolation is None


@pytest.mark.isolation_failure
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(("axis", "left"), [(1, "same_length"), (0, "none")])
def test_what_the_analysis_missed_falls_back(axis: int, left: str, precision: str, isolation_trials: list[str]) -> None:
    converted, trial = convert(bert(), used_passes=[mixing(axis)], precision=precision)
    packing = Compiler.compile(converted).packing
    assert packing is not None
    assert trial.fell_back
    assert (trial.neighbours, packing.neighbours) == (left, left)
    assert "moved by" in packing.isolation
    [message] = isolation_trials
    for part in ("start_logits", "please report", "ReduceMean", "onnxruntime", packing.isolation.split(", ", 1)[1]):
        assert part in message


@pytest.mark.parametrize("axis", [1, 0])
def test_samples_that_share_rows_and_mix_are_refused_by_output(axis: int) -> None:
    with pytest.raises(PackingError, match=r"output 'start_logits' moved by .*Pack with --pack_args alone"):
        convert(bert(), "within_rows", used_passes=[mixing(axis)])


def read(model: onnx.ModelProto) -> PackedModel:
    packed = PackedModel.read(model)
    assert packed is not None
    return packed


def stated(model: onnx.ModelProto, neighbours: str) -> IsolationTrial:
    """The trial of a converted model that says itself what may share a run."""
    return try_isolation(PartedModel(model), replace(read(model), neighbours=neighbours), model_inputs(bert()))


@pytest.mark.isolation_failure
@pytest.mark.parametrize(("precision", "falls_back"), [("int8", False), ("fp32", True)])
def test_where_a_rounding_may_tip_over_one_of_several_draws_has_to_hold(
    precision: str, falls_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def experiments(bench: Bench, plan: Any, inputs: Any, seed: int, packing: Any) -> list[Any]:
        return [compare([1.0], [1.0 if seed else 2.0])]

    monkeypatch.setattr("poprt.isolation._experiments", experiments)
    _, trial = convert(bert(), precision=precision)
    assert trial.fell_back == falls_back


def test_only_what_the_model_says_is_tried() -> None:
    leaking, _ = convert(bert(), used_passes=[mixing(1)], skip_isolation_check=True)
    trial = stated(leaking, "same_length")
    assert not trial.fell_back
    assert all("its length" in finding.experiment or "tokens" in finding.experiment for finding in trial.findings)
    assert stated(leaking, "none").not_tried == "each sample runs by itself"


def test_it_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Compiler, "compile", staticmethod(lambda *args: pytest.fail("it was compiled")))
    converted, trial = convert(bert(), used_passes=[mixing(1)], skip_isolation_check=True)
    assert "skip_isolation_check" in trial.not_tried
    assert read(converted).neighbours == ANY


def test_a_model_that_does_not_compile_here_is_converted_and_not_tried(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(model: onnx.ModelProto) -> Executable:
        raise CompileError("no such operator")

    converter = converter_for(bert())
    converted = converter.convert(bert(), compile_model=refuse)
    assert read(converted).neighbours == ANY
    assert converter.isolation is not None
    assert converter.isolation.not_tried == "no such operator"
    assert "could not be tried: no such operator" in caplog.text


def test_one_sample_a_pack_leaves_nothing_to_try() -> None:
    _, trial = convert(bert(), rows=1, pack_args={"max_valid_num": 1, "segment_max_size": COLUMNS})
    assert trial.not_tried


@pytest.mark.parametrize(("most", "longest"), [(2, COLUMNS), (ROWS * COLUMNS, 1)])
def test_small_packs_are_tried_with_what_they_hold(most: int, longest: int) -> None:
    pack = {"max_valid_num": most, "segment_max_size": longest}
    _, trial = convert(bert(), rows=min(ROWS, most), pack_args=pack)
    assert len(trial.findings) == 2


def compare(before: Sequence[float], after: Sequence[float], tolerance: float = 1e-5) -> Any:
    return _compare("here", {"y": np.array(before)}, {"y": np.array(after)}, tolerance, False)


def test_results_that_are_not_finite_are_compared_as_such() -> None:
    assert compare([np.nan, np.inf, 1], [np.nan, np.inf, 1]).passed
    for other in (1.0, np.inf, -np.inf):
        assert not compare([np.nan, 1], [other, 1]).passed
    assert not compare([np.inf, 1], [-np.inf, 1]).passed


def test_whole_numbers_are_equal_or_not() -> None:
    before, after = {"y": np.array([1, 5])}, {"y": np.array([1, 6])}
    assert not _compare("here", before, after, 2e-5, False).passed
    assert _compare("here", before, after, 5e-2, True).passed  # int8 may tip an argmax


def test_a_difference_is_measured_against_the_output() -> None:
    assert compare([1000.0, 0.0], [1000.0, 0.001]).passed
    assert not compare([0.05, 0.0], [0.05, 0.001]).passed


def executable_in_rows() -> Executable:
    return Compiler.compile(convert(bert(), "within_rows", skip_isolation_check=True)[0])


def test_a_graph_of_fixed_extents_is_tried_on_few_tokens() -> None:
    bench = Bench(executable_in_rows())
    used: list[tuple[int, int]] = []
    inputs = model_inputs(bert())

    def run(packing: Any) -> list[Any]:
        lengths = np.array([5])
        feeds = draw_sample(inputs, packing, lengths, np.random.default_rng(0))
        assert bench.run(packing, [Sample(feeds, lengths)])[0]["start_logits"].shape == (5,)
        used.append((packing.rows, packing.columns))
        return []

    bench.judge(run)
    assert used == [(2, 25)]


def test_a_graph_that_insists_on_its_extents_is_tried_at_those(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poprt.smaller_extents._resized_target", lambda target, *_: list(target))
    _, trial = convert(bert(), "within_rows")
    assert len(trial.findings) == 2
    assert not trial.fell_back


def test_the_declared_extents_decide() -> None:
    bench = Bench(executable_in_rows())
    failed = [replace(compare([1.0], [2.0]))]
    asked = []

    def judge(packing: Any) -> Any:
        asked.append((packing.rows, packing.columns))
        return failed if packing.columns < COLUMNS or packing.rows < ROWS else []

    assert bench.judge(judge) == []
    assert asked == [(2, 25), (2, COLUMNS), (ROWS, COLUMNS)]


def test_resizing_shares_the_weights() -> None:
    executable = executable_in_rows()
    assert executable.packing is not None
    small = resized(executable, extents_to_try(executable.packing)[0])
    for spec in executable.manifest.weights:
        assert np.shares_memory(small.weight(spec.name), executable.weight(spec.name))


def test_other_tokens_are_other_ones_at_every_place() -> None:
    rng = np.random.default_rng(0)
    for info in (
        InputInfo("ids", np.dtype(np.int64), (), "ids", 1000),
        InputInfo("types", np.dtype(np.int32), (), "ids", 2),
        InputInfo("numbers", np.dtype(np.float32), (), "numbers"),
    ):
        array = random_array(info, (1, 500), rng)
        other = other_array(info, array, rng)
        assert other.dtype == info.dtype
        assert (other != array).all()
        assert info.kind != "ids" or (other.min() >= 0 and other.max() < info.rows)
    mask = InputInfo("mask", np.dtype(np.int64), (), "mask")
    np.testing.assert_array_equal(other_array(mask, np.ones((1, 4)), rng), np.ones((1, 4)))


def test_ids_that_serve_as_the_mask_are_drawn_as_ids() -> None:
    info = InputInfo("ids", np.dtype(np.int64), ("batch", "seq"), "ids", 1000)
    packing = replace(read(convert(bert(), skip_isolation_check=True)[0]), dynamic_inputs=("ids",), mask="ids")
    packing = replace(packing, segment_max_size=(64,))
    ids = draw_sample([info], packing, np.array([40]), np.random.default_rng(0))["ids"]
    assert len(np.unique(ids)) > 20


def test_a_custom_logger_gets_the_warning(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("somebody's own")
    convert(bert(), used_passes=[mixing(1)], logger=logger)
    assert [record.name for record in caplog.records if "please report" in record.getMessage()] == [logger.name]

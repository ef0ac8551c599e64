"""A request whose values are NaN or infinite leaves every other request of its pack as it is."""

import dataclasses
from functools import cache

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.bert import SIZES, BertConfig, build_bert
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.executable import Executable
from poprt.runtime import PackAlgorithm, PackRunner, PackRunnerConfig
from tests.numerics import random_samples
from tests.poprt.runtime.fake_engine import FakeEngine, executable, with_budget

SOON = 60
ROWS, COLUMNS, MOST = 3, 16, 12
POISON, INFINITE = 7, 8  # ids whose rows in the table are NaN and infinite
LENGTHS = [5, 9, 2, 16, 1, 7, 3, 4]


@cache
def poisoned(head: str, layout: str, precision: str) -> Executable:
    model = build_bert(BertConfig(**SIZES["tiny"], head=head))
    table = next(t for t in model.graph.initializer if "word" in t.name)
    words = numpy_helper.to_array(table).copy()
    words[POISON], words[INFINITE] = np.nan, np.inf
    table.CopyFrom(numpy_helper.from_array(words, table.name))
    converted = Converter(
        input_shape={item.name: [ROWS, COLUMNS] for item in model.graph.input},
        pack_args={"max_valid_num": MOST, "segment_max_size": COLUMNS},
        used_passes=["insert_attention_mask"] if layout == "within_rows" else [],
        precision=precision,
        disable_progress_bar=True,
    ).convert(onnx.ModelProto.FromString(model.SerializeToString()))
    return Compiler.compile(converted)


def answers(compiled: Executable, samples: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
    """The first output of each sample, all in one pack."""
    (name, kind), *_ = compiled.packing.outputs.items()
    spec = next(spec for spec in compiled.outputs if spec.name == name)
    shape = (COLUMNS, *spec.shape[2:]) if kind == "packed" else spec.shape[1:]
    config = PackRunnerConfig(token_budget=0, algorithm=PackAlgorithm.first_fit)
    outs = [{name: np.zeros(shape, spec.dtype)} for _ in samples]
    with PackRunner(compiled, config, threads=1) as runner:
        requests = [runner._request(sample, out) for sample, out in zip(samples, outs, strict=True)]
        if compiled.packing.within_rows:  # across rows the choice goes by what packs cost, which is measured
            assert set(runner._worker.choose(requests)) == set(requests)
        runner._worker.run(requests)
    return [out[name] for out in outs]


@pytest.mark.parametrize(("head", "precision"), [("hidden", "fp32"), ("mean", "fp32"), ("hidden", "int8")])
@pytest.mark.parametrize("layout", ["across_rows", "within_rows"])
def test_only_the_request_itself_is_not_finite(layout, head, precision):
    compiled = poisoned(head, layout, precision)
    samples = random_samples(LENGTHS)
    for sample in samples:
        sample["input_ids"] = np.maximum(sample["input_ids"], INFINITE + 1)
    bad = {1: POISON, 6: INFINITE}
    for number, token in bad.items():
        samples[number]["input_ids"][-1] = token
    together = answers(compiled, samples)
    for number, (got, sample) in enumerate(zip(together, samples, strict=True)):
        (want,) = answers(compiled, [sample])
        assert np.isfinite(got).all() == (number not in bad)
        np.testing.assert_allclose(got, want, atol=2e-2 if precision == "int8" else 1e-5)


class Spreading(FakeEngine):
    """Shares rows as attention does: a NaN anywhere in a row is everywhere in it."""

    def _outputs(self, feeds):
        outputs = super()._outputs(feeds)
        row_is_bad = (feeds["input_ids"] == POISON).any(axis=1)
        for name in ("logits", "hidden"):
            outputs[name] = outputs[name].copy()
            outputs[name][row_is_bad] = np.nan
        return outputs | {"best": outputs["logits"].astype(np.float32).argsort(axis=1)}


def fake_runner(outputs=("logits", "hidden")):
    compiled = executable(layout="within_rows", ragged=False, unpack=False, max_valid_num=9)
    packing = dataclasses.replace(compiled.packing, outputs=dict.fromkeys((*outputs, "best"), "packed"))
    best = dataclasses.replace(compiled.outputs[0], name="best", dtype="int64", engine_dtype="int64")
    manifest = dataclasses.replace(compiled.manifest, packing=packing, outputs=(*compiled.outputs, best))
    compiled = Executable.build(manifest, b"")
    engine = Spreading(compiled)
    return PackRunner(compiled, with_budget(None), session=engine), engine


def run_ids(runner, name, all_ids):
    outs = [{name: np.zeros(8)} for _ in all_ids]
    requests = []
    for ids, out in zip(all_ids, outs, strict=True):
        inputs = {"input_ids": np.array(ids), "attention_mask": np.ones(len(ids), int)}
        requests.append(runner._request(inputs, out))
    runner._worker.run(requests)
    return [out[name].tolist() for out in outs]


def test_only_the_row_that_is_not_finite_is_run_again_and_several_of_it_share_a_run():
    runner, engine = fake_runner()
    logits = run_ids(runner, "logits", [[1, 2, 3], [POISON], [4, 5], [8] * 6, [9, 9]])
    assert [int((call["attention_mask"].max(axis=1) > 0).sum()) for call in engine.calls] == [2, 3]
    assert logits[0][:3] == [1, 2 + 1 / 16, 3 + 2 / 16]
    assert np.isnan(logits[1][0])
    assert np.isfinite(logits[2] + logits[3] + logits[4]).all()
    runner.close()


def test_a_request_alone_in_its_row_is_not_run_again():
    runner, engine = fake_runner()
    run_ids(runner, "logits", [[POISON] * 8, [1] * 8])
    assert len(engine.calls) == 1
    runner.close()


def test_whole_numbers_are_judged_by_the_floats_beside_them():
    runner, engine = fake_runner()
    run_ids(runner, "best", [[1, 2, 3], [POISON]])
    assert len(engine.calls) == 2
    runner.close()


def test_a_part_of_a_pack_that_needs_more_rows_than_the_whole_takes_another_run():
    runner, engine = fake_runner()
    runner._worker.max_count = 2
    runner._worker._shared.keywords["max_count"] = 2
    logits = run_ids(runner, "logits", [[1], [2], [3], [4], [5]])
    assert [values[0] for values in logits] == [1, 2, 3, 4, 5]
    assert len(engine.calls) == 3
    runner.close()

"""What is exported answers in Triton's backend as the original does, each sample alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from models.bert import SIZES, BertConfig, build_bert
from poprt.compiler import Compiler, CompilerOptions
from poprt.converter import Converter
from poprt.errors import PoprtError
from poprt.executable import Executable
from poprt.text import PackOptions, pack
from poprt.triton import TritonOptions, export_triton
from poprt.triton import interface as interfaces
from poprt.triton import repository as repositories
from tests.numerics import Arrays, one_by_one, random_samples
from tests.poprt.triton.backend import Backend, read_config
from tests.text_folders import bert_folder, embedding_folder, outputs_of, pooled

LONGEST = 12
LENGTHS = (5, 1, 12, 3, 3, 7)


@cache
def original(head: str, position_ids: bool = False) -> onnx.ModelProto:
    sizes = {**SIZES["tiny"], "max_positions": 32}
    return build_bert(BertConfig(**sizes, head=head, labels=3, position_ids=position_ids))


@cache
def packed(head: str, position_ids: bool = False, precision: str = "fp32") -> Executable:
    return compiled(original(head, position_ids), precision)


def compiled(model: onnx.ModelProto, precision: str = "fp32", options: CompilerOptions | None = None) -> Executable:
    shape = {item.name: [4, LONGEST] for item in model.graph.input}
    limits = {"max_valid_num": 8, "segment_max_size": LONGEST}
    chosen = {"pack_args": limits, "precision": precision, "disable_progress_bar": True}
    converter = Converter(input_shape=shape, skip_isolation_check=True, **chosen)  # type: ignore[arg-type]
    return Compiler.compile(converter.convert(model), None, options)


def with_packing(executable: Executable, **fields: object) -> Executable:
    """The executable with another account of its packing."""
    packing = dataclasses.replace(executable.packing, **fields)  # type: ignore[type-var]
    weights = {spec.name: executable.weight(spec.name) for spec in executable.manifest.weights}
    return Executable.build(dataclasses.replace(executable.manifest, packing=packing), executable.graph, weights)


def exported(executable: Executable, folder: Path, **options: object) -> Path:
    return export_triton(executable, folder, TritonOptions("encoder", **options)).folder  # type: ignore[arg-type]


def requests_of(samples: Sequence[Arrays], batches: Sequence[int] | None = None) -> list[Arrays]:
    """One request a sample; or requests of several samples of one length, by their sizes."""
    sizes = batches or [1] * len(samples)
    starts = np.cumsum([0, *sizes]).tolist()
    parts = [samples[start : start + size] for start, size in zip(starts, sizes, strict=False)]
    return [{name: np.stack([sample[name] for sample in part]) for name in part[0]} for part in parts]


def assert_equal(answers: Sequence[Arrays], expected: Sequence[Arrays], tolerance: float = 2e-5) -> None:
    rows = [{name: array[row] for name, array in answer.items()} for answer in answers for row in range(len_of(answer))]
    assert len(rows) == len(expected)
    for row, sample in zip(rows, expected, strict=True):
        assert row.keys() == sample.keys()
        for name, array in sample.items():
            assert row[name].shape == array.shape
            np.testing.assert_allclose(row[name], array, atol=tolerance * np.abs(array).max(), rtol=0)


def len_of(answer: Arrays) -> int:
    return len(next(iter(answer.values())))


@pytest.mark.parametrize(
    ("head", "position_ids"),
    [("mean", False), ("sequence", False), ("qa", False), ("token", False), ("hidden", True), ("mean", True)],
)
def test_ragged_requests_are_answered_as_by_the_original(head: str, position_ids: bool, tmp_path: Path) -> None:
    backend = Backend(exported(packed(head, position_ids), tmp_path))
    assert all(declared.allow_ragged_batch for declared in backend.config.input)
    samples = random_samples(LENGTHS, position_ids=position_ids)
    expected = one_by_one(original(head, position_ids), samples)
    assert_equal(backend.run(requests_of(samples)), expected)
    assert_equal(backend.run(requests_of(samples[2:3])), expected[2:3])
    pair = [samples[3], samples[4], samples[0]]
    assert_equal(backend.run(requests_of(pair, [2, 1])), [expected[3], expected[4], expected[0]])


def test_a_request_of_samples_of_one_length_is_not_one_long_sample(tmp_path: Path) -> None:
    backend = Backend(exported(packed("token"), tmp_path))
    samples = random_samples((4, 4, 4, 2))
    assert_equal(backend.run(requests_of(samples, [3, 1])), one_by_one(original("token"), samples))


def test_masks_inside_a_sample_count(tmp_path: Path) -> None:
    backend = Backend(exported(packed("mean"), tmp_path))
    samples = random_samples((6, 6, 3))
    samples[1]["attention_mask"][-2:] = 0
    assert_equal(backend.run(requests_of(samples)), one_by_one(original("mean"), samples))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 1e-2), ("int8", 5e-2)])
def test_other_precisions_run_in_stock_onnxruntime(precision: str, tolerance: float, tmp_path: Path) -> None:
    executable = packed("mean", precision=precision)
    backend = Backend(exported(executable, tmp_path))
    samples = random_samples(LENGTHS)
    assert_equal(backend.run(requests_of(samples)), one_by_one(original("mean"), samples), tolerance)
    assert backend.config.output[0].data_type == {"fp16": 11, "int8": 11}[precision]  # TYPE_FP32 on a CPU


@pytest.mark.parametrize("head", ["mean", "token", "qa"])
def test_samples_that_need_neighbours_of_their_length_come_as_a_plain_batch(head: str, tmp_path: Path) -> None:
    backend = Backend(exported(with_packing(packed(head), neighbours="same_length"), tmp_path))
    assert not any(declared.allow_ragged_batch for declared in backend.config.input)
    assert not backend.config.batch_input
    assert not backend.config.batch_output
    assert backend.config.max_batch_size == 8
    samples = random_samples((5, 5, 5))
    assert_equal(backend.run(requests_of(samples, [2, 1])), one_by_one(original(head), samples))


def test_a_sample_that_may_have_no_neighbours_runs_alone(tmp_path: Path) -> None:
    executable = with_packing(packed("mean"), neighbours="none", isolation="a reduction over the batch")
    backend = Backend(exported(executable, tmp_path))
    assert backend.config.max_batch_size == 1
    assert not backend.config.HasField("dynamic_batching")
    samples = random_samples((5,))
    assert_equal(backend.run(requests_of(samples)), one_by_one(original("mean"), samples))
    with pytest.raises(PoprtError, match=r"max_batch_size is 2, expected 1 to 1 \(a reduction over the batch\)"):
        exported(executable, tmp_path, max_batch_size=2)


@pytest.mark.parametrize("neighbours", ["any", "same_length"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda sample: sample["input_ids"].__setitem__(1, -1), "input_ids_must_be_0_to_999"),
        (lambda sample: sample["input_ids"].__setitem__(1, 1000), "input_ids_must_be_0_to_999"),
        (lambda sample: sample["token_type_ids"].__setitem__(0, 2), "token_type_ids_must_be_0_to_1"),
        (lambda sample: sample.update(attention_mask=np.ones(3, np.int64)), "attention_mask_must_be_as_long_as_input"),
        (lambda sample: sample.update(random_samples((13,))[0]), "input_ids_must_have_1_to_12_values"),
        (lambda sample: sample.update({name: array[:0] for name, array in sample.items()}), "input_ids_must_have_1_to"),
    ],
)
def test_a_wrong_request_fails_with_what_is_expected(
    neighbours: str, spoil: object, message: str, tmp_path: Path
) -> None:
    backend = Backend(exported(with_packing(packed("mean"), neighbours=neighbours), tmp_path))
    (sample,) = random_samples((4,))
    spoil(sample)  # type: ignore[operator]
    with pytest.raises(Exception, match=message):
        backend.run(requests_of([sample]))


def test_inputs_whose_lengths_cancel_out_are_refused(tmp_path: Path) -> None:
    backend = Backend(exported(packed("mean"), tmp_path))
    first, second = random_samples((4, 6))
    first["attention_mask"], second["attention_mask"] = second["attention_mask"], first["attention_mask"]
    with pytest.raises(Exception, match="attention_mask_must_be_as_long_as_input_ids"):
        backend.run(requests_of([first, second]))


def test_the_configuration_says_how_requests_are_batched(tmp_path: Path) -> None:
    config = read_config(exported(packed("qa"), tmp_path, instances=2, threads=3))
    assert config.max_batch_size == 8
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert [(group.count, type(group).Kind.Name(group.kind)) for group in config.instance_group] == [(2, "KIND_CPU")]
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert parameters == {"intra_op_thread_count": "3", "share_session_between_instances": "true"}
    assert {item.target_name[0]: item.source_input[0] for item in config.batch_input} == {
        "unpack_info": "input_ids",
        "attention_mask_shape": "attention_mask",
        "token_type_ids_shape": "token_type_ids",
    }
    assert {item.target_name[0] for item in config.batch_output} == {"start_logits", "end_logits"}


def test_a_batch_takes_no_more_memory_than_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable = packed("mean")
    assert executable.packing is not None
    monkeypatch.setattr(interfaces, "PADDED_BYTES", 3 * executable.packing.padded_bytes(1, LONGEST))
    assert read_config(exported(executable, tmp_path)).max_batch_size == 3
    assert read_config(exported(executable, tmp_path, max_batch_size=8)).max_batch_size == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch_size": 9}, "max_batch_size is 9, expected 1 to 8"),
        ({"name": "../x"}, r"name is '../x', expected letters"),
        ({"name": ".hidden"}, "expected letters"),
        ({"instances": 0}, "instances=0"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, object], message: str, tmp_path: Path) -> None:
    chosen = TritonOptions(**{"name": "encoder", **options})  # type: ignore[arg-type]
    with pytest.raises(PoprtError, match=message):
        export_triton(packed("mean"), tmp_path, chosen)
    assert not list(tmp_path.iterdir())


def test_what_triton_cannot_serve_is_refused_with_the_reason(tmp_path: Path) -> None:
    converter = Converter(
        input_shape={name: [2, 6] for name in ("input_ids", "attention_mask", "token_type_ids")},
        used_passes=["insert_attention_mask"],
        disable_progress_bar=True,
    )
    within = Compiler.compile(converter.convert(original("token")), None)
    plain = Compiler.compile(original("mean").SerializeToString(), None)
    cases = [
        (within, r"its samples share rows \(insert_attention_mask\)"),
        (plain, "the executable is not packed"),
        (with_packing(packed("mean"), ragged=False), "its graph takes only packs of 4 x 12 tokens, because its seq"),
        (with_packing(packed("mean"), ragged=False, segment_max_size=(6, 6)), "because samples have several segments"),
        (with_packing(packed("mean"), token_axes={"embedding": (1,)}), "output 'embedding': its size depends on"),
    ]
    for executable, message in cases:
        with pytest.raises(PoprtError, match=message):
            exported(executable, tmp_path)
    manifest = dataclasses.replace(packed("mean").manifest, custom_ops=("shop.Special",))
    weights = {spec.name: packed("mean").weight(spec.name) for spec in manifest.weights}
    with pytest.raises(PoprtError, match=r"needs the operators shop\.Special"):
        exported(Executable.build(manifest, packed("mean").graph, weights), tmp_path)
    assert not list(tmp_path.iterdir())


def test_many_weights_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repositories, "LARGEST_MESSAGE", 1000)
    folder = exported(packed("mean"), tmp_path)
    assert sorted(path.name for path in (folder / "1").iterdir()) == ["model.onnx", "model.onnx.data"]
    assert (folder / "1" / "model.onnx").stat().st_size < (folder / "1" / "model.onnx.data").stat().st_size
    samples = random_samples(LENGTHS)
    assert_equal(Backend(folder).run(requests_of(samples)), one_by_one(original("mean"), samples))


def test_a_value_a_sample_is_an_output_without_extents(tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(original("mean"))
    model.graph.initializer.append(onnx.helper.make_tensor("first", onnx.TensorProto.INT64, [], [0]))
    model.graph.node.append(onnx.helper.make_node("Gather", ["embedding", "first"], ["score"], axis=1))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, ["batch"]))
    samples = random_samples(LENGTHS)
    backend = Backend(exported(compiled(model), tmp_path))
    assert list(backend.config.output[0].dims) == [1]
    assert_equal(backend.run(requests_of(samples)), one_by_one(model, samples))


def test_weights_that_a_runner_may_replace_are_constant_there(tmp_path: Path) -> None:
    model = original("mean")
    executable = compiled(model, options=CompilerOptions(constant_weights=False))
    assert any(not spec.constant for spec in executable.manifest.weights)
    samples = random_samples(LENGTHS)
    assert_equal(Backend(exported(executable, tmp_path)).run(requests_of(samples)), one_by_one(model, samples))


def test_exporting_twice_gives_the_same_files(tmp_path: Path) -> None:
    first, second = (exported(packed("qa"), tmp_path / name) for name in ("a", "b"))
    again = exported(packed("qa"), tmp_path / "a")
    for path in sorted(item for item in first.rglob("*") if item.is_file()):
        data = path.read_bytes()
        assert data == (second / path.relative_to(first)).read_bytes()
        assert data == (again / path.relative_to(first)).read_bytes()


def test_a_text_model_brings_its_tokenizer(tmp_path: Path) -> None:
    source = embedding_folder(tmp_path / "embedder", "mean")
    executable = pack(source, None, PackOptions(progress=False)).executable
    folder = export_triton(executable, tmp_path, TritonOptions("texts")).folder
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = ("the bank of new york", "a river", "anna sold the old house")
    encodings = tokenizer.encode_batch(list(texts))
    requests = [
        {
            "input_ids": np.array([encoding.ids]),
            "attention_mask": np.array([encoding.attention_mask]),
            "token_type_ids": np.array([encoding.type_ids]),
        }
        for encoding in encodings
    ]
    for text, answer in zip(texts, Backend(folder).run(requests), strict=True):
        (vectors,) = answer.values()
        expected = pooled(outputs_of(source, text)["last_hidden_state"], "mean")
        np.testing.assert_allclose(vectors[0], expected, atol=2e-5 * np.abs(expected).max())
    assert json.loads((folder / "text.json").read_bytes())["task"] == "embedding"
    assert not (folder / "labels.txt").exists()


def test_labels_are_there_for_clients_that_ask_for_classes(tmp_path: Path) -> None:
    labels = {"0": "good", "1": "bad", "2": "so so"}
    source = bert_folder(tmp_path / "classifier", "sequence", "BertForSequenceClassification", id2label=labels)
    executable = pack(source, None, PackOptions(progress=False)).executable
    folder = export_triton(executable, tmp_path, TritonOptions("labels")).folder
    assert (folder / "labels.txt").read_text() == "good\nbad\nso so\n"
    assert read_config(folder).output[0].label_filename == "labels.txt"


def test_nothing_is_written_where_onnxruntime_refuses_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> ort.InferenceSession:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(repositories, "plain_session", refuse)
    with pytest.raises(PoprtError, match="onnxruntime does not load the graph, so nothing is written: no kernel"):
        exported(packed("mean"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_answers_that_move_with_their_company_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    executable = packed("mean")
    weights = {spec.name: executable.weight(spec.name) for spec in executable.manifest.weights}
    manifest = dataclasses.replace(executable.manifest, shared_scales=("MatMulInteger 'x'",))
    exported(executable, tmp_path)
    assert not caplog.messages
    exported(Executable.build(manifest, executable.graph, weights), tmp_path)
    assert "answers move with the other requests of a batch" in caplog.text

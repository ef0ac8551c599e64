import dataclasses

import numpy as np
import pytest

from poprt.errors import InputError, RequestTooLongError
from poprt.executable import Executable, TensorSpec
from poprt.runtime import DeclaredSession, PackRunner, pack_data
from tests.poprt.runtime.fake_engine import DYNAMIC, HIDDEN, FakeEngine, executable, expected

SAMPLES = [np.arange(n, dtype=np.int32) + 10 * n for n in (3, 4, 2, 5, 1)]


def feeds(samples=SAMPLES, max_valid_num=6):
    data = [{"input_ids": ids, "position_ids": np.arange(len(ids))} for ids in samples]
    pack = pack_data(data, 0, 3, 8, max_valid_num, 1, True)
    assert pack.count == len(samples)
    return {**pack.data, "unpack_info": pack.unpack_info}


def session(ragged=True, **options):
    compiled = executable(ragged=ragged, **options)
    engine = FakeEngine(compiled)
    return DeclaredSession(compiled, session=engine), engine


@pytest.mark.parametrize("ragged", [True, False])
def test_declared_arrays_give_declared_shapes_and_types_and_one_row_a_sample(ragged):
    declared, _ = session(ragged)
    logits, hidden, pooled = declared.run(feeds())
    assert (logits.shape, logits.dtype) == ((6, 8), np.float16)
    assert (hidden.shape, hidden.dtype) == ((6, 8, HIDDEN), np.float32)
    assert pooled.shape == (6, 2)
    for i, ids in enumerate(SAMPLES):
        want = expected(ids)
        np.testing.assert_array_equal(logits[i, : len(ids)], want["logits"].astype(np.float16))
        np.testing.assert_array_equal(hidden[i, : len(ids)], want["hidden"])
        np.testing.assert_array_equal(pooled[i], want["pooled"])
        assert not logits[i, len(ids) :].any()
    assert not logits[5].any()


def test_a_ragged_engine_gets_real_tokens_only():
    declared, engine = session()
    declared.run(feeds(), ["pooled"])
    (call,) = engine.calls
    assert all(call[name].shape == (1, 15) for name in DYNAMIC)
    assert call["unpack_info"].tolist() == [[3], [4], [2], [5], [1]]


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_a_large_pack_is_run_in_parts_of_similar_length(lanes):
    lengths = np.random.default_rng(lanes).integers(1, 65, 100).tolist()
    samples = [np.arange(1, n + 1, dtype=np.int32) for n in lengths]
    compiled = executable(rows=64, columns=64, segments=(64,), max_valid_num=128)
    engine = FakeEngine(compiled)
    declared = DeclaredSession(compiled, session=engine)
    declared._lanes = lanes
    data = [{"input_ids": ids, "position_ids": np.arange(len(ids))} for ids in samples]
    pack = pack_data(data, 0, 64, 64, 128, 1, True)
    logits, _, pooled = declared.run({**pack.data, "unpack_info": pack.unpack_info})
    for i, ids in enumerate(samples):
        np.testing.assert_array_equal(logits[i, : len(ids)], expected(ids)["logits"].astype(np.float16))
        np.testing.assert_array_equal(pooled[i], expected(ids)["pooled"])
        assert not logits[i, len(ids) :].any()
    assert not pooled[100:].any()
    parts = [call["unpack_info"][:, 0] for call in engine.calls]
    assert len(parts) == lanes * round(sum(lengths) / 512 / lanes)
    assert sorted(np.concatenate(parts).tolist()) == sorted(lengths)
    assert max(part.sum() for part in parts) < 1.3 * sum(lengths) / len(parts)
    assert sum(part.max() * len(part) for part in parts) < 1.25 * sum(lengths)


def test_samples_of_length_zero_may_stand_anywhere():
    declared, engine = session()
    inputs = feeds(SAMPLES[:2])
    inputs["unpack_info"] = np.array([[0], [3], [0], [0], [4], [0]], np.int32)
    _, _, pooled = declared.run(inputs)
    assert engine.calls[0]["unpack_info"].tolist() == [[3], [4]]
    np.testing.assert_array_equal(pooled[1], expected(SAMPLES[0])["pooled"])
    np.testing.assert_array_equal(pooled[4], expected(SAMPLES[1])["pooled"])
    assert not pooled[[0, 2, 3, 5]].any()


def test_a_pack_without_samples_gives_zeros_and_does_not_run():
    declared, engine = session()
    inputs = feeds() | {"unpack_info": np.zeros((6, 1), np.int32)}
    assert not any(output.any() for output in declared.run(inputs))
    assert engine.calls == []


def test_unpack_info_may_leave_out_its_segment_axis():
    declared, _ = session()
    inputs = feeds()
    (want,) = declared.run(inputs, ["logits"])
    (got,) = declared.run(inputs | {"unpack_info": inputs["unpack_info"][:, 0]}, ["logits"])
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("ragged", [True, False])
def test_segments_land_in_their_declared_columns(ragged):
    declared, _ = session(ragged, segments=(3, 5), max_valid_num=2)
    inputs = {name: np.zeros((3, 8), np.int32) for name in DYNAMIC}
    inputs["input_ids"].flat[:9] = range(1, 10)
    inputs["attention_mask"].flat[:9] = 1
    inputs["unpack_info"] = np.array([[2, 3], [0, 4]], np.int32)
    (logits,) = declared.run(inputs, ["logits"])
    assert logits.tolist() == [[1, 2, 0, 3, 4, 5, 0, 0], [0, 0, 0, 6, 7, 8, 9, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unpack_info": np.array([[3], [-1], [2], [0], [0], [0]], np.int32)}, "negative"),
        ({"unpack_info": np.full((6, 1), 5, np.int32)}, "30 tokens, 3 x 8 fit"),
        ({"unpack_info": np.zeros((5, 1), np.int32)}, r"'unpack_info': expected shape \[6, 1\], got \[5, 1\]"),
        ({"input_ids": np.zeros((3, 8), np.float32)}, "'input_ids': expected int32, got float32"),
        ({"input_ids": np.full((3, 8), 2**40)}, "'input_ids': values from 1099511627776"),
        ({"input_ids": np.zeros((8, 3), np.int32)}, r"'input_ids': expected shape \[3, 8\], got \[8, 3\]"),
        ({"other": np.zeros(1)}, "unknown input 'other'"),
    ],
)
@pytest.mark.parametrize("ragged", [True, False])
def test_wrong_inputs_are_named(change, message, ragged):
    declared, engine = session(ragged)
    with pytest.raises(InputError, match=message):
        declared.run(feeds() | change)
    assert engine.calls == []


def test_a_missing_input_and_an_unknown_output_are_named():
    declared, _ = session()
    inputs = feeds()
    with pytest.raises(InputError, match="unknown output 'nope'"):
        declared.run(inputs, ["nope"])
    del inputs["attention_mask"]
    with pytest.raises(InputError, match="missing input 'attention_mask'"):
        declared.run(inputs)


def test_a_sample_beyond_segment_max_size_is_refused():
    declared, _ = session()
    with pytest.raises(RequestTooLongError, match="9 tokens in segment 0, segment_max_size is 8"):
        declared.run(feeds() | {"unpack_info": np.array([[9], [0], [0], [0], [0], [0]], np.int32)})


def test_a_token_axis_inside_a_samples_row_is_filled_up_to_the_declared_extent():
    compiled = executable()
    output = TensorSpec("scores", (6, 2, 8), "float32", "float32")
    packing = dataclasses.replace(compiled.packing, outputs={"scores": "sample"})
    manifest = dataclasses.replace(compiled.manifest, outputs=(output,), packing=packing)

    class ScoresByToken(FakeEngine):
        def _outputs(self, feeds):
            logits = super()._outputs(feeds)["logits"]
            return {"scores": np.stack([logits, -logits], axis=1)}

    compiled = Executable.build(manifest, b"")
    (scores,) = DeclaredSession(compiled, session=ScoresByToken(compiled)).run(feeds())
    assert scores.shape == (6, 2, 8)
    runner = PackRunner(compiled, session=ScoresByToken(compiled))
    for i, ids in enumerate(SAMPLES):
        want = np.zeros((2, 8), np.float32)
        want[:, : len(ids)] = np.stack([expected(ids)["logits"], -expected(ids)["logits"]])
        np.testing.assert_array_equal(scores[i], want)
        buffer = np.full((2, 8), 99, np.float32)
        runner.execute({"input_ids": ids, "attention_mask": np.ones_like(ids)}, {"scores": buffer})
        np.testing.assert_array_equal(buffer, want)
    runner.close()


def test_an_extent_that_the_model_does_not_say_is_as_long_as_the_longest_result():
    compiled = executable()
    output = TensorSpec("scores", (6, 0), "float32", "float32")
    packing = dataclasses.replace(compiled.packing, outputs={"scores": "sample"}, neighbours="same_length")
    compiled = Executable.build(dataclasses.replace(compiled.manifest, outputs=(output,), packing=packing), b"")

    class Scores(FakeEngine):
        def _outputs(self, feeds):
            return {"scores": super()._outputs(feeds)["logits"]}

    (scores,) = DeclaredSession(compiled, session=Scores(compiled)).run(feeds())
    assert scores.shape == (6, 5)
    for row, ids in zip(scores, SAMPLES, strict=False):
        np.testing.assert_array_equal(row, np.pad(expected(ids)["logits"], (0, 5 - len(ids))))

"""Sessions over a model file, compiled or as it is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

import poprt
from models.bert import BertConfig, build_bert
from poprt.backend import Backend, get_session
from poprt.converter import Converter
from poprt.errors import CompileError, ExecutableError, InputError, PoprtError
from poprt.executable import Executable
from tests import numerics
from tests.poprt.test_compiler import linear

KINDS = ["poprt", "onnxruntime"]
X = np.random.default_rng(0).standard_normal((2, 32)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_both_backends_run_a_path_and_bytes(tmp_path: Path, kind: str) -> None:
    model = linear()
    onnx.save(model, str(tmp_path / "m.onnx"))
    expected = numerics.run(model, {"x": X})
    for source in (str(tmp_path / "m.onnx"), model.SerializeToString()):
        session = get_session(source, 1, kind).load()
        s, y = session.run(["s", "y"], {"x": X})
        np.testing.assert_allclose(s, expected["s"], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(y, expected["y"], rtol=1e-5, atol=1e-5)
        assert len(session.run(None, {"x": X})) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_inputs_and_outputs_are_told_in_order_with_shape_and_type(kind: str, dtype: type) -> None:
    session = get_session(linear(dtype).SerializeToString(), backend=kind)
    session.load()
    inputs, outputs = session.get_io_info()
    assert list(inputs.items()) == [("x", ([0, 32], np.dtype(dtype)))]
    assert list(outputs) == ["y", "s"]
    assert session.run(["y"], {"x": X.astype(dtype)})[0].dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_or_missing_feed_is_an_input_error(kind: str) -> None:
    session = get_session(linear(), backend=kind).load()
    with pytest.raises(InputError, match="unpack_info"):
        session.run(None, {"x": X, "unpack_info": np.zeros(4, np.int32)})
    with pytest.raises(InputError, match="x"):
        session.run(None, {})


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_has_to_be_loaded(kind: str) -> None:
    session = get_session(linear(), backend=kind)
    for call in (session.get_io_info, lambda: session.run(None, {"x": X})):
        with pytest.raises(PoprtError, match=r"load\(\)"):
            call()
    assert session.load() is session
    assert session.load() is session


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_runs_from_several_threads(kind: str) -> None:
    session = get_session(linear(), backend=kind).load()
    inputs = [np.full((2, 32), index, np.float32) for index in range(16)]
    alone = [session.run(["y"], {"x": x})[0] for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for expected, (got,) in zip(alone, pool.map(lambda x: session.run(["y"], {"x": x}), inputs), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_the_executable_is_written_on_request(tmp_path: Path) -> None:
    get_session(linear(), 1, "poprt", output_dir=str(tmp_path / "new"), export_popef=True).load()
    assert [spec.name for spec in Executable(tmp_path / "new" / "executable.popef").inputs] == ["x"]


def test_compiler_options_are_used() -> None:
    session = get_session(linear(), options={"constant_weights": False}).load()
    assert session._loaded is not None
    assert {spec.constant for spec in session._loaded[0].manifest.weights} == {False}
    with pytest.raises(CompileError, match="num_io_tiles"):
        get_session(linear(), options={"num_io_tiles": "many"})


def test_what_cannot_be_loaded_is_an_error_of_ours() -> None:
    with pytest.raises(CompileError):
        get_session(b"\xff\xff").load()
    with pytest.raises(ExecutableError):
        get_session(b"\xff\xff", backend="onnxruntime").load()
    with pytest.raises(PoprtError, match="'ipu'"):
        get_session(linear(), backend="ipu")


def test_devices_and_steps_are_announced_as_without_effect(caplog: pytest.LogCaptureFixture) -> None:
    get_session(linear(), 2, batches_per_step=8)
    assert "num_devices=2 has no effect" in caplog.text
    assert "batches_per_step=8 has no effect" in caplog.text


def test_the_package_resolves_its_names_lazily() -> None:
    assert poprt.Backend is Backend
    assert poprt.backend.get_session is get_session
    with pytest.raises(AttributeError, match="nothing"):
        _ = poprt.nothing


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_packed_model_gives_each_samples_own_result_in_the_declared_shape(precision: str) -> None:
    model = build_bert(BertConfig(vocab=40, hidden=32, layers=2, heads=2, intermediate=64, max_positions=32))
    names = [item.name for item in model.graph.input]
    lengths, rows, columns, most = [5, 16, 1, 9], 2, 16, 6
    rng = np.random.default_rng(0)
    samples = [
        {
            name: (rng.integers(0, 40, (1, n)) if "input_ids" in name else np.full((1, n), int("mask" in name)))
            for name in names
        }
        for n in lengths
    ]
    converted = Converter(
        input_shape={name: [rows, columns] for name in names},
        precision=precision,
        pack_args={"max_valid_num": most, "segment_max_size": columns},
    ).convert(model)
    session = get_session(converted).load()
    inputs, outputs = session.get_io_info()
    feeds = {"unpack_info": np.array([*lengths, 0, 0], np.int32)}
    for name in names:
        stream = np.zeros(rows * columns, np.int32)
        stream[: sum(lengths)] = np.concatenate([sample[name][0] for sample in samples])
        feeds[name] = stream.reshape(rows, columns)
    assert set(inputs) == set(feeds)
    results = dict(zip(outputs, session.run(None, feeds), strict=True))
    tolerance = 1e-5 if precision == "fp32" else 5e-3
    for name, (shape, dtype) in outputs.items():
        assert (list(results[name].shape), results[name].dtype) == (shape, dtype)
        for index, sample in enumerate(samples):
            expected = numerics.run(model, sample)[name][0]
            np.testing.assert_allclose(results[name][index][: len(expected)], expected, rtol=tolerance, atol=tolerance)
    (first,) = session.run([next(iter(outputs))], feeds)
    np.testing.assert_array_equal(first, results[next(iter(outputs))])

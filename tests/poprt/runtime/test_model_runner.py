import datetime
import logging
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from poprt.errors import InputError, PoprtError
from poprt.executable import Executable, Manifest, TensorSpec
from poprt.runtime import DeviceManager, ModelRunner, ReplicaIdToDevice, RuntimeConfig, pack_data
from poprt.runtime.model_runner import _BatchWorker
from poprt.runtime.row_batches import RowBatches
from poprt.runtime.served_model import Rows
from tests.poprt.runtime.fake_engine import FakeEngine, executable, expected

SOON = 20


class Adder:
    """O = X + Y on exactly ``shape``; records the inputs."""

    def __init__(self, shape):
        self.shape = shape
        self.calls = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def run(self, feeds, output_names=None):
        assert feeds["X"].shape == feeds["Y"].shape == self.shape
        assert feeds["X"].flags.c_contiguous
        self.calls.append(feeds["X"].copy())
        self.entered.set()
        assert self.gate.wait(SOON)
        return [feeds["X"] + feeds["Y"]]


def start(config=None, shape=(4, 2), dtype="float32"):
    specs = [TensorSpec(name, shape, dtype, "float32") for name in "XYO"]
    engine = Adder(shape)
    compiled = Executable.build(Manifest(tuple(specs[:2]), (specs[2],), ()), b"")
    return ModelRunner(compiled, config, session=engine), engine


def request(n, seed=0, shape=(0, 2), dtype=np.float32, axis=0):
    size = [n if i == axis else extent for i, extent in enumerate(shape)]
    rng = np.random.default_rng(seed)
    inputs = {name: rng.uniform(0, 1, size).astype(dtype) for name in "XY"}
    return inputs, {"O": np.full(size, 99, dtype)}


def dynamic(axis=0, **options):
    return RuntimeConfig(batching_dim=axis, timeout_ns=datetime.timedelta(microseconds=300), **options)


@pytest.mark.parametrize("n", [1, 3, 4, 5, 7, 8, 11])
@pytest.mark.parametrize("axis", [0, 1])
def test_any_batch_size_gives_as_many_rows(n, axis):
    shape = (4, 2) if axis == 0 else (2, 4)
    runner, engine = start(dynamic(axis), shape)
    inputs, outputs = request(n, shape=shape, axis=axis)
    runner.execute(inputs, outputs)
    np.testing.assert_array_equal(outputs["O"], inputs["X"] + inputs["Y"])
    assert len(engine.calls) == -(-n // 4)
    runner.close()


def test_the_rest_of_a_batch_is_padded_with_zeros():
    runner, engine = start(dynamic())
    inputs, outputs = request(1)
    runner.execute(inputs, outputs)
    assert not engine.calls[0][1:].any()
    runner.close()


def test_requests_that_arrive_while_the_engine_is_busy_share_a_batch():
    runner, engine = start(dynamic())
    engine.gate.clear()
    first = runner.execute_async(*request(4))
    assert engine.entered.wait(SOON)
    pairs = [request(n, seed=n) for n in (1, 2, 3, 5, 1)]
    futures = [runner.execute_async(*pair) for pair in pairs]
    engine.gate.set()
    for future, (inputs, outputs) in zip([first, *futures], [request(4), *pairs], strict=True):
        future.wait(SOON)
        if future is not first:
            np.testing.assert_array_equal(outputs["O"], inputs["X"] + inputs["Y"])
    assert len(engine.calls) == 1 + 1 + 1 + 2  # 4 | 1 + 2 + 1 | 3 | 5
    runner.close()


def test_without_batching_dim_the_declared_shape_is_required():
    runner, _ = start()
    with pytest.raises(InputError, match=r"'X': expected shape \[4, 2\], got \[3, 2\]; set batching_dim"):
        runner.execute(*request(3))
    inputs, outputs = request(4)
    runner.execute(inputs, outputs)
    np.testing.assert_array_equal(outputs["O"], inputs["X"] + inputs["Y"])
    runner.close()


def test_outputs_are_filled_in_place_and_cast_to_the_callers_type():
    runner, _ = start(dtype="float16")
    inputs, _ = request(4, dtype=np.float16)
    store = np.zeros((4, 2), np.float64)
    outputs = {"O": store}
    view = store[1:3]
    runner.execute(inputs, outputs)
    assert outputs["O"] is store
    want = inputs["X"].astype(np.float32) + inputs["Y"].astype(np.float32)
    np.testing.assert_array_equal(view, want.astype(np.float16)[1:3])
    runner.close()


def test_thousands_of_requests_with_the_same_arrays_from_many_threads():
    runner, _ = start(dynamic())
    inputs, outputs = request(3)
    failures = []

    def client():
        try:
            for future in [runner.execute_async(inputs, outputs) for _ in range(300)]:
                future.wait(SOON)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    np.testing.assert_array_equal(outputs["O"], inputs["X"] + inputs["Y"])
    runner.close()


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"Y": np.zeros((2, 2), np.float32)}, {}, "'X' has 3, 'Y' has 2"),
        (
            {"X": np.zeros((3, 5), np.float32)},
            {},
            r"'X': expected shape \[4, 2\] \(any size along axis 0\), got \[3, 5\]",
        ),
        ({"X": np.zeros((3, 2), np.complex64)}, {}, "'X': expected float32, got complex64"),
        ({"Z": np.zeros((3, 2), np.float32)}, {}, "unknown input 'Z'"),
        ({}, {"O": np.zeros((4, 2), np.float32)}, r"'O': expected shape \[3, 2\], got \[4, 2\]"),
        ({}, {"P": np.zeros((3, 2), np.float32)}, "unknown output 'P'"),
    ],
)
def test_a_wrong_request_names_the_tensor(inputs, outputs, message):
    runner, engine = start(dynamic())
    base = request(3)
    with pytest.raises(InputError, match=message):
        runner.execute(base[0] | inputs, base[1] | outputs)
    with pytest.raises(InputError, match=message):
        runner.execute_async(base[0] | inputs, base[1] | outputs).wait(SOON)
    assert engine.calls == []
    runner.close()


def test_types_are_cast_when_checks_are_off():
    runner, _ = start(RuntimeConfig(validate_io_params=False), dtype="int32")
    strict, _ = start(dtype="int32")
    inputs, outputs = request(4)
    with pytest.raises(InputError, match="'X': expected int32, got float32"):
        strict.execute(inputs, outputs)
    runner.execute(inputs, outputs)
    assert (outputs["O"] == 0).all()
    runner.close()
    strict.close()


def test_requests_fill_the_rows_that_the_oldest_leaves_free():
    model = SimpleNamespace(batches=RowBatches({}, 4, any_size=False))
    waiting = [Rows(size, {}, {}, model) for size in (1, 2, 3, 5, 1, 2)]
    worker, batches = _BatchWorker([model]), []
    while waiting:
        batch = worker.choose(waiting)
        assert batch[0] is waiting[0]
        batches.append([request.size for request in batch])
        waiting = [request for request in waiting if request not in batch]
    assert batches == [[1, 2, 1], [3], [5, 2]]


def test_batching_along_an_axis_that_tensors_do_not_share_is_refused():
    with pytest.raises(PoprtError, match="batching_dim=2: 'X' of shape"):
        start(RuntimeConfig(batching_dim=2))
    compiled = executable()
    with pytest.raises(PoprtError, match="same extent"):
        ModelRunner(compiled, RuntimeConfig(batching_dim=0), session=FakeEngine(compiled))


def test_a_packed_executable_takes_its_declared_arrays():
    compiled = executable()
    runner = ModelRunner(compiled, session=FakeEngine(compiled))
    samples = [{"input_ids": np.arange(n) + n, "position_ids": np.arange(n)} for n in (3, 4, 2)]
    pack = pack_data(samples, 0, 3, 8, 6, 1, True)
    for info in (pack.unpack_info, pack.unpack_info[:, 0]):
        outputs = {"logits": np.full((6, 8), 99, np.float32)}
        runner.execute({**pack.data, "unpack_info": info}, outputs)
        for i, one in enumerate(samples):
            np.testing.assert_array_equal(
                outputs["logits"][i, : i + 9][: len(one["input_ids"])], expected(one["input_ids"])["logits"]
            )
        assert not outputs["logits"][3:].any()
    runner.close()


def test_options_without_effect_are_announced_once(caplog):
    with caplog.at_level(logging.WARNING, "poprt"):
        runner, _ = start(RuntimeConfig(auto_reset=True))
        runner.execute(*request(4))
        runner.execute(*request(4))
    assert caplog.text.count("no effect on this engine: auto_reset") == 1
    runner.close()


def test_device_names_answer_as_scripts_expect():
    manager = DeviceManager()
    assert manager.ipu_hardware_version() in ("ipu2", "ipu21")
    assert manager.get_num_devices() >= 1
    devices = ReplicaIdToDevice()
    devices[0] = manager.get_specific_device(0)
    assert devices[0] == manager.get_device(1)
    with pytest.raises(PoprtError, match="no device 3"):
        manager.get_specific_device(3)


def test_importing_the_runtime_loads_neither_onnx_nor_the_engine():
    code = (
        "import sys, poprt.runtime\n"
        "loaded = {'onnx', 'onnx_graphsurgeon', 'onnxruntime', 'passes'} & set(sys.modules)\n"
        "sys.exit(str(loaded) if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_program_that_ends_with_requests_outstanding_does_not_hang():
    code = """
import numpy as np
from tests.poprt.runtime.test_model_runner import start, request, dynamic
runner, engine = start(dynamic())
for _ in range(100):
    runner.execute_async(*request(3))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr

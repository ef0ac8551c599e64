"""Models of opset 11 to 13, converted to half precision with a batch size, and run with any."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from poprt import runtime
from tests.numerics import run
from tests.poprt_cli.command import Poprt

NAMES = ("vit", "swin", "clip", "resnet", "conformer", "wide_deep")
SIZES = (1, 3, 4, 9)
#: Of an output's largest value: float16 has eleven bits, and errors add up.
TOLERANCE = 5e-3


@pytest.mark.export
@pytest.mark.parametrize("opset", [11, 12, 13])
@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_converted_with_a_batch_size_and_run_with_any(name: str, opset: int, poprt: Poprt) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install '.[export]'")
    pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[export]'")
    from tests.compatibility.torch_models import write

    original, feeds = write(name, opset)
    onnx.save(original, "model.onnx")
    words = ["--precision", "fp16", "--batch_size", 4, "--batch_axis", 0, "--convert_version", 11, "--export_popef"]
    result = poprt("-i", "model.onnx", *words, "--output_dir", "out")
    assert result.exit_code == 0, result.output
    config = runtime.RuntimeConfig()
    config.timeout_ns = 300 * 1000
    config.batching_dim = 0
    with runtime.Runner(str(Path("out") / "executable.popef"), config) as runner, ThreadPoolExecutor(3) as pool:
        for worst in pool.map(lambda size: largest_difference(runner, original, drawn(feeds, size)), SIZES):
            assert worst <= TOLERANCE


def drawn(feeds: dict[str, Any], size: int) -> dict[str, Any]:
    """A batch of ``size`` of the two samples in ``feeds``, with noise on what are no ids."""
    rng = np.random.default_rng(size)
    batch = {name: np.resize(array, (size, *array.shape[1:])) for name, array in feeds.items()}
    return {
        name: (array * rng.uniform(0.5, 1, array.shape)).astype(array.dtype) if array.dtype.kind == "f" else array
        for name, array in batch.items()
    }


def largest_difference(runner: runtime.Runner, original: onnx.ModelProto, feeds: dict[str, Any]) -> float:
    expected = run(original, feeds)
    size = len(next(iter(feeds.values())))
    inputs = {desc.name: feeds[desc.name].astype(desc.numpy_data_type()) for desc in runner.get_execute_inputs()}
    outputs = {}
    for desc in runner.get_execute_outputs():
        shape = desc.shape
        assert shape is not None
        assert (shape[0], desc.numpy_data_type()) == (4, "float16")
        outputs[desc.name] = np.zeros([size, *shape[1:]], desc.numpy_data_type())
    runner.execute(inputs, outputs)
    return max(float(np.abs(outputs[name] - array).max() / np.abs(array).max()) for name, array in expected.items())

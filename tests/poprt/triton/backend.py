"""What Triton's onnxruntime backend does with a model's folder, as its documentation and its source describe it.

It reads ``config.pbtxt``, opens the graph with onnxruntime's own rewrites, and runs the requests of one batch: a ragged
input is laid end to end, a batch input is made of the shapes, and outputs are divided by the requests again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

Arrays = dict[str, np.ndarray]


def read_config(folder: Path) -> Any:
    """``config.pbtxt``, by Triton's own protobuf."""
    reason = "tritonclient[grpc] brings Triton's ModelConfig"
    protobuf = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason=reason)
    from google.protobuf import text_format

    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), protobuf.ModelConfig())


class Backend:
    """One model that is loaded, after the checks that the backend makes."""

    def __init__(self, folder: Path) -> None:
        self.config = read_config(folder)
        assert self.config.name == folder.name
        assert self.config.backend == "onnxruntime"
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        path = folder / "1" / "model.onnx"
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs = {item.name: item for item in self.session.get_inputs()}
        assert len(inputs) == len(self.config.input) + len(self.config.batch_input)
        for declared in self.config.input:
            assert not declared.optional
            open_axes = 1 if declared.allow_ragged_batch else 2
            assert len(inputs[declared.name].shape) == open_axes
            assert not any(isinstance(extent, int) for extent in inputs[declared.name].shape)
        self._check_outputs()

    def _check_outputs(self) -> None:
        outputs = {item.name: item for item in self.session.get_outputs()}
        scattered = {item.target_name[0] for item in self.config.batch_output}
        for declared in self.config.output:
            assert declared.name in outputs
            if declared.name in scattered:
                continue
            dims = declared.reshape.shape if declared.HasField("reshape") else declared.dims
            extents = [extent if isinstance(extent, int) else -1 for extent in outputs[declared.name].shape]
            assert extents == [-1, *dims]

    def run(self, requests: Sequence[Mapping[str, np.ndarray]]) -> list[Arrays]:
        """Answer the requests of one batch, [batch, ...] each, in one run."""
        sizes = [len(next(iter(request.values()))) for request in requests]
        assert sum(sizes) <= self.config.max_batch_size
        feeds = {declared.name: self._gathered(declared, requests) for declared in self.config.input}
        for declared in self.config.batch_input:
            feeds[declared.target_name[0]] = self._item_shapes(declared, requests)
        names = [declared.name for declared in self.config.output]
        results = dict(zip(names, self.session.run(names, feeds), strict=True))
        answers = [{name: np.empty(0) for name in names} for _ in requests]
        sources = {item.target_name[0]: item.source_input[0] for item in self.config.batch_output}
        for declared in self.config.output:
            parts = (
                _scattered(results[declared.name], declared, [request[sources[declared.name]] for request in requests])
                if declared.name in sources
                else np.split(results[declared.name], np.cumsum(sizes)[:-1])
            )
            for answer, part in zip(answers, parts, strict=True):
                answer[declared.name] = part
        return answers

    def _gathered(self, declared: Any, requests: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
        arrays = [request[declared.name] for request in requests]
        if declared.allow_ragged_batch:
            return np.concatenate([array.reshape(-1) for array in arrays])
        assert len({array.shape[1:] for array in arrays}) == 1, "the scheduler batches requests of one shape alone"
        return np.concatenate(arrays)

    def _item_shapes(self, declared: Any, requests: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
        assert type(declared).Kind.Name(declared.kind) == "BATCH_ITEM_SHAPE"
        arrays = [request[declared.source_input[0]] for request in requests]
        return np.array([array.shape[1:] for array in arrays for _ in range(len(array))], np.int32)


def _scattered(values: np.ndarray, declared: Any, sources: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Parts of ``values`` by the shapes of one input: an open extent of the output is that of the input."""
    flat, parts, start = values.reshape(-1), [], 0
    for source in sources:
        shape = [source.shape[axis] if extent == -1 else extent for axis, extent in enumerate([-1, *declared.dims])]
        end = start + int(np.prod(shape))
        parts.append(flat[start:end].reshape(shape))
        start = end
    assert start == flat.size
    return parts

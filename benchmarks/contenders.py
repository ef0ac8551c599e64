"""Ways to run samples of many lengths through one encoder: in padded batches, or packed by a poprt runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from poprt import runtime
from poprt.engine.plain import plain_session

Array = NDArray[Any]
#: One request: inputs [length, ...] by name.
Sample = Mapping[str, Array]
#: The outputs for one request by name, without the batch axis and without padding.
Result = dict[str, Array]


class Contender(Protocol):
    """A way to run samples."""

    @property
    def name(self) -> str:
        """What it does."""

    def run(self, samples: Sequence[Sample]) -> list[Result]:
        """Run all samples and return the result of each, in their order."""

    def fed(self, lengths: Sequence[int]) -> int:
        """How many tokens are fed to the engine for samples of these lengths, padding included."""

    def engine_seconds(self) -> float | None:
        """Seconds spent in the engine's run call so far; None where nobody counts them."""


class Engine(Protocol):
    """Runs padded batches, several at the same time if it is asked to."""

    #: Outputs with a token axis after the batch axis.
    token_outputs: frozenset[str]

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Inputs [rows, width, ...] in, outputs [rows, ...] or [rows, width, ...] out."""


class OnnxRuntime:
    """Plain onnxruntime at its best: every optimisation on, all usable cores.

    Args:
        model: an ONNX model with open dimensions, serialised, or its path.
        optimise: off, the graph runs as it is written; that is the reference for numbers.
        threads: threads for one operator; 0 takes the usable cores.
    """

    def __init__(self, model: bytes | str, *, optimise: bool = True, threads: int = 0) -> None:
        self._session = plain_session(model, optimise=optimise, threads=threads or None)
        self._inputs = [item.name for item in self._session.get_inputs()]
        outputs = self._session.get_outputs()
        self._outputs = [item.name for item in outputs]
        self.token_outputs = frozenset(o.name for o in outputs if len(o.shape) > 1 and not isinstance(o.shape[1], int))

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run one batch."""
        results = self._session.run(self._outputs, {name: feeds[name] for name in self._inputs})
        return dict(zip(self._outputs, results, strict=True))


@dataclass(frozen=True)
class Padded:
    """Batches of samples, padded at the end with zeros.

    Attributes:
        name: of the contender.
        engine: what runs a batch.
        rows: samples in a batch; 1 runs each alone, without padding.
        columns: pad every batch to [rows, columns]; 0 pads to the batch's longest sample, and the last batch is short.
        sort: sort all samples by length first, which takes having them all.
        workers: batches that run at the same time.
    """

    name: str
    engine: Engine
    rows: int
    columns: int = 0
    sort: bool = False
    workers: int = 1

    def run(self, samples: Sequence[Sample]) -> list[Result]:
        """Run all samples and return the result of each, in their order."""
        lengths = [sample_length(sample) for sample in samples]
        results: list[Result] = [{} for _ in samples]

        def run_batch(batch: Sequence[int], rows: int, width: int) -> None:
            outputs = self.engine(pad([samples[i] for i in batch], rows, width))
            for name, values in outputs.items():
                per_token = name in self.engine.token_outputs
                for i, row in zip(batch, values, strict=False):
                    results[i][name] = row[: lengths[i]] if per_token else row

        if self.workers == 1:
            for batch in self._batches(lengths):
                run_batch(*batch)
        else:
            with ThreadPoolExecutor(self.workers) as pool:
                for done in [pool.submit(run_batch, *batch) for batch in self._batches(lengths)]:
                    done.result()
        return results

    def fed(self, lengths: Sequence[int]) -> int:
        """How many tokens are fed to the engine for samples of these lengths, padding included."""
        return sum(rows * width for _, rows, width in self._batches(lengths))

    def engine_seconds(self) -> float | None:
        """Nobody counts them."""
        return None

    def _batches(self, lengths: Sequence[int]) -> list[tuple[list[int], int, int]]:
        """Samples, rows and width of each batch."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__) if self.sort else list(range(len(lengths)))
        batches = [order[start : start + self.rows] for start in range(0, len(order), self.rows)]
        return [(b, self.rows if self.columns else len(b), self.columns or max(lengths[i] for i in b)) for b in batches]


class Packed:
    """A poprt pack runner that gets one request a sample, all of them submitted before the first is waited for.

    Args:
        name: of the contender.
        runner: of a packed executable.
    """

    def __init__(self, name: str, runner: runtime.Runner) -> None:
        self.name = name
        self.runner = runner
        packing = runner.executable.packing
        assert packing is not None, "the executable is not packed"
        self._outputs = [
            (desc.name, packing.outputs[desc.name] != "sample", desc.shape or [], desc.numpy_data_type())
            for desc in runner.get_execute_outputs()
        ]

    def run(self, samples: Sequence[Sample]) -> list[Result]:
        """Run all samples and return the result of each, in their order."""
        buffers = [self.buffers(sample_length(sample)) for sample in samples]
        futures = [self.runner.execute_async(sample, out) for sample, out in zip(samples, buffers, strict=True)]
        for future in futures:
            future.wait()
        return buffers

    def buffers(self, length: int) -> Result:
        """Arrays for the outputs of one sample."""
        return {
            name: np.empty((length, *shape[2:]) if per_token else shape[1:], dtype)
            for name, per_token, shape, dtype in self._outputs
        }

    def fed(self, lengths: Sequence[int]) -> int:
        """The samples' own tokens: none is added."""
        return sum(lengths)

    def engine_seconds(self) -> float | None:
        """Seconds spent in the engine's run call so far, by each lane on average."""
        if not isinstance(self.runner, runtime.PackRunner):
            return None
        return self.runner.stats().engine_seconds / self.runner.lanes


def sample_length(sample: Sample) -> int:
    """Tokens of a sample."""
    return len(next(iter(sample.values())))


def pad(samples: Sequence[Sample], rows: int, width: int) -> dict[str, Array]:
    """The samples, each [length, ...], as one batch [rows, width, ...], filled up with zeros."""
    feeds = {name: np.zeros((rows, width, *values.shape[1:]), values.dtype) for name, values in samples[0].items()}
    for row, sample in enumerate(samples):
        for name, values in sample.items():
            feeds[name][row, : len(values)] = values
    return feeds

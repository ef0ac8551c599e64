"""The ways to run samples: each takes them all and gives each sample's own results back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.packed_bert.packing_utils import PackedData, pack_data
from poprt import runtime

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Pass:
    """All samples, run once: results [length] by output name for each, and the tokens that the engine computed."""

    results: list[Arrays]
    computed: int


@dataclass(frozen=True)
class Way:
    """One way: what it is called, how it runs all samples, and the runner that clients call one by one, if any."""

    name: str
    run: Callable[[Sequence[Arrays]], Pass]
    served: runtime.Runner | None = None


def padded(executable: runtime.Executable, rows: int, columns: int) -> Way:
    """Each sample has a row of its own and is filled up with zeros."""
    runner = runtime.Runner(executable, runtime.RuntimeConfig(batching_dim=0))

    def run(samples: Sequence[Arrays]) -> Pass:
        results = []
        for start in range(0, len(samples), rows):
            batch = samples[start : start + rows]
            feeds = {name: np.concatenate([pad(sample, columns)[name] for sample in batch]) for name in batch[0]}
            outputs = {desc.name: np.zeros((len(batch), columns), np.float32) for desc in runner.get_execute_outputs()}
            runner.execute(_known(runner, feeds), outputs)
            results += [_cut(outputs, row, slice(0, length_of(sample))) for row, sample in enumerate(batch)]
        return Pass(results, -(-len(samples) // rows) * rows * columns)

    return Way("padded", run, runner)


def offline(name: str, executable: runtime.Executable, rows: int, columns: int, most: int, *, across: bool) -> Way:
    """The program lays the samples out by itself and runs whole packs."""
    runner = runtime.Runner(executable)

    def run(samples: Sequence[Arrays]) -> Pass:
        results: list[Arrays] = []
        packs = 0
        while len(results) < len(samples):
            pack = pack_data(samples, len(results), rows, columns, most, 1, across)
            outputs = {desc.name: np.zeros(desc.shape, np.float32) for desc in runner.get_execute_outputs()}
            runner.execute(_known(runner, {**pack.data, "unpack_info": pack.unpack_info}), outputs)
            results += _results(outputs, pack, across)
            packs += 1
        return Pass(results, _computed(executable, samples, packs * rows * columns))

    return Way(name, run)


def online(name: str, executable: runtime.Executable, config: runtime.PackRunnerConfig) -> Way:
    """Each sample is a request; the runner packs those that wait."""
    runner = runtime.PackRunner(executable, config)
    packing = executable.manifest.packing
    capacity = packing.rows * packing.columns if packing else 0

    def run(samples: Sequence[Arrays]) -> Pass:
        before = runner.stats().packs
        names = [desc.name for desc in runner.get_execute_outputs()]
        results = [{name: np.zeros(length_of(sample), np.float32) for name in names} for sample in samples]
        futures = [
            runner.execute_async(_known(runner, sample), out) for sample, out in zip(samples, results, strict=True)
        ]
        for future in futures:
            future.wait()
        return Pass(results, _computed(executable, samples, (runner.stats().packs - before) * capacity))

    return Way(name, run, runner)


def latencies(way: Way, samples: Sequence[Arrays], clients: int, columns: int) -> list[float]:
    """Seconds of each request while ``clients`` threads send the samples one after the other."""
    runner = way.served
    if runner is None:
        return []
    seconds: list[float] = []
    failures: list[BaseException] = []

    def client(first: int) -> None:
        try:
            for sample in samples[first::clients]:
                seconds.append(_one_request(runner, sample, columns))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(first,)) for first in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return seconds


def _one_request(runner: runtime.Runner, sample: Arrays, columns: int) -> float:
    packs = isinstance(runner, runtime.PackRunner)
    feeds = _known(runner, sample if packs else pad(sample, columns))
    shape = (length_of(sample),) if packs else (1, columns)
    outputs = {desc.name: np.zeros(shape, np.float32) for desc in runner.get_execute_outputs()}
    start = time.perf_counter()
    runner.execute(feeds, outputs)
    return time.perf_counter() - start


def length_of(sample: Arrays) -> int:
    """The tokens of a sample."""
    return len(sample["input_ids"])


def pad(sample: Arrays, columns: int) -> Arrays:
    """The sample as one row, [1, columns] by input."""
    return {name: np.pad(values, (0, columns - len(values)))[None] for name, values in sample.items()}


def _known(runner: runtime.Runner, feeds: Arrays) -> Arrays:
    """The feeds that this form of the model takes: only packing within rows needs positions."""
    names = {desc.name for desc in runner.get_execute_inputs()}
    return {name: array for name, array in feeds.items() if name in names}


def _results(outputs: Arrays, pack: PackedData, across: bool) -> list[Arrays]:
    """Across rows the graph gives a row to each sample; within rows a result lies where its sample was put."""
    if across:
        return [_cut(outputs, row, slice(0, place.length)) for row, place in enumerate(pack.specs)]
    return [_cut(outputs, place.row, slice(place.start, place.start + place.length)) for place in pack.specs]


def _cut(outputs: Arrays, row: int, columns: slice) -> Arrays:
    return {name: array[row, columns] for name, array in outputs.items()}


def _computed(executable: runtime.Executable, samples: Sequence[Arrays], capacity: int) -> int:
    """An executable that takes any number of tokens computes no padding; others compute whole packs."""
    packing = executable.manifest.packing
    return sum(map(length_of, samples)) if packing is not None and packing.ragged else capacity

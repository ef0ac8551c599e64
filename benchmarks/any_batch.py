"""An unpacked executable that declares 16 rows, on other batch sizes, against plain onnxruntime on as many rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.comparison import Comparison, compare
from benchmarks.contenders import OnnxRuntime, Result
from benchmarks.networks import Network, networks
from benchmarks.rounds import Report
from benchmarks.workloads import ROWS
from poprt import runtime
from poprt.compiler import Compiler
from poprt.converter import Converter

BATCHES = (1, 3, 7, 16, 17, 33)
COLUMNS = 64


def measure_any_batch(
    size: str, batches: Sequence[int], seconds: float, pairs: int, report: Report
) -> list[Comparison]:
    """Compare each network (the BERT is of ``size``) at each batch size."""
    comparisons = []
    for network in networks(size, COLUMNS):
        plain = OnnxRuntime(network.model.SerializeToString())
        with _runner(network) as runner:
            comparisons += [_compare(network, plain, runner, rows, seconds, pairs) for rows in batches]
        report(f"{network.name}: done")
    return comparisons


def _runner(network: Network) -> runtime.Runner:
    shapes = {name: [ROWS, *row] for name, row in network.inputs.items()}
    model = Converter(input_shape=shapes, disable_progress_bar=True).convert(network.model)
    return runtime.Runner(Compiler.compile(model), runtime.RuntimeConfig(batching_dim=0))


def _compare(
    network: Network, plain: OnnxRuntime, runner: runtime.Runner, rows: int, seconds: float, pairs: int
) -> Comparison:
    feeds = network.feeds(rows)
    outputs: Result = {name: np.empty_like(values) for name, values in plain(feeds).items()}

    def run_ours() -> list[Result]:
        runner.execute(feeds, outputs)
        return [outputs]

    def run_theirs() -> list[Result]:
        return [dict(plain(feeds))]

    return compare(f"{network.name}: batch of {rows}", run_ours, run_theirs, seconds, pairs)

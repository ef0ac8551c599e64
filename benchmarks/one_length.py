"""What packs of one length bring, for models whose answers would show padding, over one request at a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.contenders import Contender, OnnxRuntime, Packed, Padded, Result, sample_length
from benchmarks.rounds import Report
from benchmarks.workloads import DISTRIBUTIONS, Requests, build, compile_packed, config_of
from poprt import runtime
from poprt.engine.cpu import usable_cores
from poprt.executable import Executable


@dataclass(frozen=True)
class Rate:
    """One way to answer the requests.

    Attributes:
        requests_per_second: the median over the rounds.
        ratio: over that of the original model, one request at a time.
        packs: runs of the engine for all requests.
        difference: of a logit from that of the original model, the largest.
    """

    name: str
    requests_per_second: float
    ratio: float
    packs: int
    difference: float


@dataclass(frozen=True)
class OneLengthResult:
    """All ways, in the order measured; the first is the baseline."""

    size: str
    lengths: str
    waiting: int
    distinct: int
    rates: list[Rate]


def measure_one_length(size: str, lengths: str, waiting: int, rounds: int, report: Report) -> OneLengthResult:
    """Hand ``waiting`` requests at once to each contender, ``rounds`` times in turns."""
    chosen = DISTRIBUTIONS[lengths]
    samples = Requests(chosen, config_of(size).vocab).take(0, waiting)
    model = build(size)
    plain = model.SerializeToString()
    executable = compile_packed(model, chosen.longest)
    runners = {
        "poprt: one request a pack": _runner(executable, "none"),
        "poprt: packs of one length": _runner(executable, "same_length"),
        "poprt: packs of similar length (hides padding)": _runner(executable, "any"),
    }
    contenders: list[Contender] = [
        Padded("onnxruntime: one at a time", OnnxRuntime(plain), 1),
        Padded("onnxruntime: one at a time on each core", OnnxRuntime(plain, threads=1), 1, workers=usable_cores()),
        *(Packed(name, runner) for name, runner in runners.items()),
    ]
    report(f"{size}: {waiting} requests of {len({sample_length(sample) for sample in samples})} lengths")
    first = {contender.name: contender.run(samples) for contender in contenders}
    packs = {name: runner.stats().packs for name, runner in runners.items()}
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for turn in range(rounds):
        for contender in contenders:
            begin = time.perf_counter()
            contender.run(samples)
            seconds[contender.name].append(time.perf_counter() - begin)
        report(f"round {turn + 1} of {rounds}: done")
    for runner in runners.values():
        runner.close()
    base, *_ = contenders
    medians = {name: statistics.median(rounds) for name, rounds in seconds.items()}
    rates = [
        Rate(
            name,
            waiting / median,
            medians[base.name] / median,
            packs.get(name, waiting),
            _difference(first[name], first[base.name]),
        )
        for name, median in medians.items()
    ]
    distinct = len({sample_length(sample) for sample in samples})
    return OneLengthResult(size, str(chosen), waiting, distinct, rates)


def _runner(executable: Executable, neighbours: str) -> runtime.PackRunner:
    """A pack runner over an executable that says which samples may share a run."""
    manifest = executable.manifest
    assert manifest.packing is not None, "the executable is not packed"
    packing = replace(manifest.packing, neighbours=neighbours)
    weights = {spec.name: executable.weight(spec.name) for spec in manifest.weights}
    variant = Executable.build(replace(manifest, packing=packing), executable.graph, weights)
    return runtime.PackRunner(variant, runtime.PackRunnerConfig(queue_limit=1 << 16))


def _difference(results: Sequence[Result], reference: Sequence[Result]) -> float:
    """The largest absolute difference of any value."""
    pairs = [(mine[name], theirs[name]) for mine, theirs in zip(results, reference, strict=True) for name in theirs]
    return max(float(np.abs(mine - theirs).max()) for mine, theirs in pairs)

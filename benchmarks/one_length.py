"""What packs of one length bring, for models whose answers would show padding, over one request at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from benchmarks.contenders import Contender, OnnxRuntime, Packed, Padded, sample_length
from benchmarks.pairs import Paired, Quartiles, repeated, run_pairs
from benchmarks.rounds import Report, difference
from benchmarks.workloads import DISTRIBUTIONS, Requests, build, compile_packed, config_of
from poprt import runtime
from poprt.engine.cpu import usable_cores
from poprt.executable import Executable

_OURS = "poprt: packs of one length"


@dataclass(frozen=True)
class Rate:
    """One way to answer the requests.

    Attributes:
        requests_per_second: over all slices of this way.
        paired: packs of one length against it; None for packs of one length themselves.
        packs: runs of the engine for all requests.
        difference: of a logit from that of the original model, the largest.
    """

    name: str
    requests_per_second: Quartiles
    paired: Paired | None
    packs: int
    difference: float


@dataclass(frozen=True)
class OneLengthResult:
    """All ways; the first answers one request at a time in plain onnxruntime, and the numbers are compared with its."""

    size: str
    lengths: str
    waiting: int
    distinct: int
    rates: list[Rate]


def measure_one_length(size: str, lengths: str, waiting: int, pairs: int, report: Report) -> OneLengthResult:
    """Hand ``waiting`` requests at once to packs of one length and to each other way, in pairs."""
    chosen = DISTRIBUTIONS[lengths]
    samples = Requests(chosen, config_of(size).vocab).take(0, waiting)
    model = build(size)
    plain = model.SerializeToString()
    executable = compile_packed(model, chosen.longest)
    alone, equal, similar = (_runner(executable, neighbours) for neighbours in ("none", "same_length", "any"))
    ours = Packed(_OURS, equal)
    others: list[Contender] = [
        Padded("onnxruntime: one at a time", OnnxRuntime(plain), 1),
        Padded("onnxruntime: one at a time on each core", OnnxRuntime(plain, threads=1), 1, workers=usable_cores()),
        Packed("poprt: one request a pack", alone),
        Packed("poprt: packs of similar length (hides padding)", similar),
    ]
    distinct = len({sample_length(sample) for sample in samples})
    report(f"{size}: {waiting} requests of {distinct} lengths")
    first = {contender.name: contender.run(samples) for contender in (*others, ours)}
    runners = {contender.name: contender.runner for contender in (*others, ours) if isinstance(contender, Packed)}
    packs = {name: runner.stats().packs for name, runner in runners.items() if isinstance(runner, runtime.PackRunner)}
    paired: dict[str, Paired] = {}
    for other in others:
        side, beside = (repeated(partial(each.run, samples), 0) for each in (ours, other))
        paired[other.name] = run_pairs(side, beside, pairs)
        report(f"{other.name}: done")
    for runner in runners.values():
        runner.close()
    reference = first[others[0].name]
    rates = [
        Rate(
            name,
            _scaled(pair.theirs, waiting),
            pair,
            packs.get(name, waiting),
            difference(first[name], reference, "fp32"),
        )
        for name, pair in paired.items()
    ]
    own = _scaled(paired[others[0].name].ours, waiting)
    rates.insert(3, Rate(_OURS, own, None, packs[_OURS], difference(first[_OURS], reference, "fp32")))
    return OneLengthResult(size, str(chosen), waiting, distinct, rates)


def _scaled(rates: Quartiles, requests: int) -> Quartiles:
    return Quartiles(rates.low * requests, rates.median * requests, rates.high * requests)


def _runner(executable: Executable, neighbours: str) -> runtime.PackRunner:
    """A pack runner over an executable that says which samples may share a run."""
    manifest = executable.manifest
    assert manifest.packing is not None, "the executable is not packed"
    packing = replace(manifest.packing, neighbours=neighbours)
    weights = {spec.name: executable.weight(spec.name) for spec in manifest.weights}
    variant = Executable.build(replace(manifest, packing=packing), executable.graph, weights)
    return runtime.PackRunner(variant, runtime.PackRunnerConfig(queue_limit=1 << 16))

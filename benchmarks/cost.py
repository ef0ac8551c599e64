"""What a token costs, against the length of its sample and against the width of the model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.contenders import Contender, OnnxRuntime, Padded, Sample
from benchmarks.ours import OfflinePacks
from benchmarks.rounds import Report
from benchmarks.workloads import Lengths, Requests, compile_packed, config_of, useful_flops
from models.bert import BertConfig, build_bert

LENGTHS = (4, 8, 16, 32, 64, 128, 256)
HIDDEN = (128, 256, 384, 512, 768, 1024)
HEAD_SIZE = 64
PACK_TOKENS = 512  # of the requests of a batch or a pack


@dataclass(frozen=True)
class Cost:
    """One point of a curve.

    Attributes:
        at: sample length, or hidden size.
        microseconds: for a token.
        gflops: useful floating-point operations a second, in thousands of millions.
    """

    contender: str
    at: int
    microseconds: float
    gflops: float


@dataclass(frozen=True)
class CostResult:
    """Both curves.

    Attributes:
        by_length: the model of ``size``, samples of one length each.
        by_hidden: models of ``layers`` layers, samples of ``length`` tokens.
    """

    size: str
    layers: int
    length: int
    by_length: list[Cost]
    by_hidden: list[Cost]


def measure_cost(
    size: str,
    seconds: float,
    rounds: int,
    report: Report,
    *,
    lengths: Sequence[int] = LENGTHS,
    hidden: Sequence[int] = HIDDEN,
    layers: int = 2,
    length: int = 128,
) -> CostResult:
    """Measure both curves; at each point all contenders run in turns, and medians count."""
    config = config_of(size)
    model = _Model(config, max(lengths))
    by_length = []
    for at in lengths:
        by_length += _costs(model, at, at, seconds, rounds)
        report(f"length {at}: done")
    by_hidden = []
    for width in hidden:
        narrow = replace(config, hidden=width, heads=max(1, width // HEAD_SIZE), intermediate=4 * width, layers=layers)
        by_hidden += _costs(_Model(narrow, length), length, width, seconds, rounds)
        report(f"hidden size {width}: done")
    return CostResult(size, layers, length, by_length, by_hidden)


class _Model:
    """A model in plain onnxruntime and as a packed executable."""

    def __init__(self, config: BertConfig, longest: int) -> None:
        self.config = config
        model = build_bert(config)
        self._engine = OnnxRuntime(model.SerializeToString())
        self._packed = OfflinePacks(compile_packed(model, longest), f"poprt: packs of {PACK_TOKENS} tokens")

        #: Packs that run at the same time: as many are measured.
        self.lanes = self._packed.lanes

    def contenders(self, rows: int) -> list[Contender]:
        """Three ways to run samples of one length, ``rows`` of them a batch; none pads anything."""
        return [
            Padded("onnxruntime: one at a time", self._engine, 1),
            Padded(f"onnxruntime: batches of {PACK_TOKENS} tokens", self._engine, rows),
            self._packed,
        ]


def _costs(model: _Model, length: int, at: int, seconds: float, rounds: int) -> list[Cost]:
    count = max(1, PACK_TOKENS // length) * model.lanes
    samples = Requests(Lengths("equal", length, 0, length), model.config.vocab).take(0, count)
    contenders = model.contenders(count // model.lanes)
    for contender in contenders:
        contender.run(samples)
    taken: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            taken[contender.name].append(_seconds_a_run(contender, samples, seconds))
    work, tokens = useful_flops(model.config, [length] * count), count * length
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    return [Cost(name, at, median / tokens * 1e6, work / median / 1e9) for name, median in medians.items()]


def _seconds_a_run(contender: Contender, samples: Sequence[Sample], seconds: float) -> float:
    runs, begin = 0, time.perf_counter()
    while not runs or time.perf_counter() - begin < seconds:
        contender.run(samples)
        runs += 1
    return (time.perf_counter() - begin) / runs

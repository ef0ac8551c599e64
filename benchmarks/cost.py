"""What a token costs, against the length of its sample and against the width of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.contenders import Contender, OnnxRuntime, Padded
from benchmarks.ours import OfflinePacks
from benchmarks.pairs import Paired, repeated, run_pairs
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
        paired: packs against it; None for packs themselves.
    """

    contender: str
    at: int
    microseconds: float
    gflops: float
    paired: Paired | None


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
    pairs: int,
    report: Report,
    *,
    lengths: Sequence[int] = LENGTHS,
    hidden: Sequence[int] = HIDDEN,
    layers: int = 2,
    length: int = 128,
) -> CostResult:
    """Measure both curves; at each point packs run in pairs with either of the others."""
    config = config_of(size)
    model = _Model(config, max(lengths))
    by_length = []
    for at in lengths:
        by_length += _costs(model, at, at, seconds, pairs)
        report(f"length {at}: done")
    by_hidden = []
    for width in hidden:
        narrow = replace(config, hidden=width, heads=max(1, width // HEAD_SIZE), intermediate=4 * width, layers=layers)
        by_hidden += _costs(_Model(narrow, length), length, width, seconds, pairs)
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

    @property
    def packed(self) -> Contender:
        """Packs; nothing in them is padded."""
        return self._packed

    def others(self, rows: int) -> list[Contender]:
        """The other ways to run samples of one length, ``rows`` of them a batch; none pads anything."""
        return [
            Padded("onnxruntime: one at a time", self._engine, 1),
            Padded(f"onnxruntime: batches of {PACK_TOKENS} tokens", self._engine, rows),
        ]


def _costs(model: _Model, length: int, at: int, seconds: float, pairs: int) -> list[Cost]:
    count = max(1, PACK_TOKENS // length) * model.lanes
    samples = Requests(Lengths("equal", length, 0, length), model.config.vocab).take(0, count)
    others = model.others(count // model.lanes)
    for contender in (*others, model.packed):
        contender.run(samples)
    work, tokens = useful_flops(model.config, [length] * count), count * length

    def cost(name: str, rate: float, paired: Paired | None) -> Cost:
        return Cost(name, at, 1e6 / rate / tokens, work * rate / 1e9, paired)

    costs = []
    ours = repeated(partial(model.packed.run, samples), seconds)
    for other in others:
        paired = run_pairs(ours, repeated(partial(other.run, samples), seconds), pairs)
        costs.append(cost(other.name, paired.theirs.median, paired))
    return [*costs, cost(model.packed.name, paired.ours.median, None)]

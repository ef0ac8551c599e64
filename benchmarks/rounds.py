"""Slices of a contender: some requests, timed; how many of them to take, and whether the numbers are right."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.contenders import Contender, Result, sample_length
from benchmarks.workloads import Requests
from poprt.errors import PoprtError

#: Slices are whole batches of the fixed shape.
MULTIPLE = 16
#: Largest difference of a logit from the reference; or, where products are rounded (bf16, int8), of the differences'
#: root mean square relative to the reference's.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.05, "int8": 0.25}

Report = Callable[[str], None]


@dataclass(frozen=True)
class Slice:
    """One run of a contender over some requests."""

    lengths: tuple[int, ...]
    fed: int
    seconds: float
    engine_seconds: float | None

    @property
    def tokens(self) -> int:
        """Tokens of the requests, without padding."""
        return sum(self.lengths)


@dataclass
class Timing:
    """All slices of a contender. Figures are medians over the slices."""

    slices: list[Slice] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of requests, without padding, in a second."""
        return statistics.median(item.tokens / item.seconds for item in self.slices)

    @property
    def padding(self) -> float:
        """The share of padding in what was fed."""
        return 1 - sum(item.tokens for item in self.slices) / sum(item.fed for item in self.slices)

    @property
    def overhead(self) -> float | None:
        """The share of the time outside the engine's run call; None where nobody counts it."""
        shares = [1 - s.engine_seconds / s.seconds for s in self.slices if s.engine_seconds is not None]
        return statistics.median(shares) if shares else None


def time_slice(contender: Contender, requests: Requests, start: int, count: int) -> Slice:
    """Run ``count`` requests from number ``start`` on, and time it."""
    samples = requests.take(start, count)
    lengths = tuple(sample_length(sample) for sample in samples)
    before, begin = contender.engine_seconds(), time.perf_counter()
    contender.run(samples)
    seconds, after = time.perf_counter() - begin, contender.engine_seconds()
    engine = None if before is None or after is None else after - before
    return Slice(lengths, contender.fed(lengths), seconds, engine)


class Sliced:
    """A contender as one side of pairs: each slice begins at another request, the same for whoever is timed beside it.

    Args:
        contender: what runs.
        requests: what it runs.
        count: requests of a slice.
        stride: requests from the begin of a slice to that of the next; those of both sides are equal.
        work: what a slice's rate counts for its lengths; None counts tokens without padding.
        timing: takes the slices.
    """

    def __init__(
        self,
        contender: Contender,
        requests: Requests,
        count: int,
        stride: int,
        work: Callable[[Sequence[int]], float] | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.timing = Timing() if timing is None else timing
        self._contender, self._requests = contender, requests
        self._count, self._stride = count, stride
        self._work = work or sum

    def __call__(self, turn: int) -> float:
        """Run slice number ``turn``, and return its rate."""
        done = time_slice(self._contender, self._requests, turn * self._stride, self._count)
        self.timing.slices.append(done)
        return self._work(done.lengths) / done.seconds


def pair_sides(
    ours: Contender, theirs: Contender, requests: Requests, seconds: float, least: int = MULTIPLE
) -> tuple[Sliced, Sliced]:
    """Both as sides of pairs, with slices of about ``seconds`` and of ``least`` requests at least. Warms both."""
    counts = [slice_count(contender, requests, seconds, least) for contender in (ours, theirs)]
    mine, other = (Sliced(c, requests, n, max(counts)) for c, n in zip((ours, theirs), counts, strict=True))
    return mine, other


def slice_count(contender: Contender, requests: Requests, seconds: float, least: int = MULTIPLE) -> int:
    """Requests of a slice of about ``seconds``: whole batches of the fixed shape, ``least`` of them at least."""
    return max(whole_batches(least), whole_batches(seconds * requests_per_second(contender, requests, seconds / 2)))


def fastest(
    candidates: Sequence[Contender], requests: Requests, most: int, least: int, seconds: float, report: Report
) -> Contender:
    """The fastest of some forms of one contender (batch sizes), all on the same requests.

    Args:
        candidates: the forms.
        requests: what they run.
        most, least: how many requests at most, and at least: a batch of the largest size.
        seconds: that a form may take, about; it decides on the number of requests.
        report: takes a line that names the fastest.
    """
    rate = requests_per_second(candidates[0], requests, seconds / 4)
    count = int(min(most, max(least, rate * seconds)))
    taken = {index: time_slice(each, requests, 0, count).seconds for index, each in enumerate(candidates)}
    best = min(taken, key=taken.__getitem__)
    report(f"best of {len(candidates)}: {candidates[best].name}")
    return candidates[best]


def requests_per_second(contender: Contender, requests: Requests, seconds: float) -> float:
    """How fast ``contender`` is, roughly, from a run of about ``seconds`` or of one batch of the fixed shape."""
    contender.run(requests.take(0, 2))  # warm
    tried = time_slice(contender, requests, 0, MULTIPLE)
    if tried.seconds < seconds / 2:  # too short to tell
        tried = time_slice(contender, requests, 0, whole_batches(seconds / tried.seconds * MULTIPLE))
    return len(tried.lengths) / tried.seconds


def whole_batches(count: float) -> int:
    """The number of requests near ``count`` that makes whole batches of the fixed shape, one at least."""
    return max(1, round(count / MULTIPLE)) * MULTIPLE


class WrongNumbersError(PoprtError):
    """A contender's numbers are too far from the reference's."""


def check_numbers(name: str, results: Sequence[Result], reference: Sequence[Result], precision: str) -> float:
    """How far the results of ``name`` lie from the reference, in the measure that ``TOLERANCE`` limits.

    Raises:
        WrongNumbersError: farther than it allows.
    """
    distance, limit = difference(results, reference, precision), TOLERANCE[precision]
    if distance > limit:
        raise WrongNumbersError(f"{name}: wrong numbers, {distance:.1e} from the reference, allowed {limit}")
    return distance


def difference(results: Sequence[Result], reference: Sequence[Result], precision: str) -> float:
    """How far results lie from the reference, in the measure that ``TOLERANCE`` limits.

    Returns:
        The largest absolute difference, or for bf16 and int8 the root mean square of the differences relative to that
        of the reference. Infinite where a result is missing, misshapen or not a number.
    """
    pairs = []
    for result, expected in zip(results, reference, strict=True):
        for name, values in expected.items():
            if name not in result or result[name].shape != values.shape or not np.isfinite(result[name]).all():
                return float("inf")
            pairs.append((result[name].astype(np.float64).reshape(-1), values.astype(np.float64).reshape(-1)))
    got, want = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    if precision != "fp32":
        return float(np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)))
    return float(np.abs(got - want).max())

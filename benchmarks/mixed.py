"""Short queries and long documents in one queue, against plain onnxruntime, one at a time on each core."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.comparison import Comparison, Files, compare_alone, peak_alone
from benchmarks.rounds import Report
from benchmarks.workloads import Requests, config_of

SHARES = (0.02, 0.1, 0.3)
BUDGETS = (None, 256, 2048, 4096)
_QUERY = (4, 12)
_DOCUMENT = (488, 512)
TOKENS = 6000  # of the requests that wait at once, about


@dataclass(frozen=True)
class Mixture:
    """Queries, and a share of documents among them, in random order."""

    documents: float

    @property
    def mean(self) -> float:
        """Tokens of a request on average."""
        return float(self.documents * np.mean(_DOCUMENT) + (1 - self.documents) * np.mean(_QUERY))

    def draw(self, rng: np.random.Generator, count: int) -> list[int]:
        """Draw ``count`` lengths; the share holds for each draw as nearly as whole requests can."""
        documents = round(self.documents * count)
        lengths = [*rng.integers(*_DOCUMENT, documents, endpoint=True)]
        lengths += [*rng.integers(*_QUERY, count - documents, endpoint=True)]
        return [int(length) for length in rng.permutation(lengths)]


def measure_mixed(
    size: str,
    shares: Sequence[float],
    budgets: Sequence[int | None],
    seconds: float,
    pairs: int,
    report: Report,
    *,
    tokens: int = TOKENS,
) -> list[Comparison]:
    """Compare each share of documents at each token budget (None is the runner's own), with the peak memory of each."""
    config = config_of(size)
    comparisons = []
    with tempfile.TemporaryDirectory() as folder:
        files = Files.write(config, _DOCUMENT[1], Path(folder))
        for share in shares:
            mixture = Mixture(share)
            samples = Requests(mixture, config.vocab).take(0, round(tokens / mixture.mean))
            plain = files.plain_on_each_core()
            plain_peak = peak_alone(plain, samples)[1]
            for budget in budgets:
                case = f"{share:.0%} documents, token budget {'its own' if budget is None else budget}"
                packed = files.packed(budget)
                compared = compare_alone(case, packed, plain, samples, seconds, pairs)
                comparisons.append(replace(compared, peaks=(peak_alone(packed, samples)[1], plain_peak)))
                report(f"{case}: done")
    return comparisons

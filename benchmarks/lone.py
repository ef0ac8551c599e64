"""A lone request on an idle pack runner, against plain onnxruntime with all cores."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.comparison import Comparison, Files, compare_alone
from benchmarks.rounds import Report
from benchmarks.workloads import Lengths, Requests, config_of

SIZES = ("minilm", "bert-base")
TOKENS = (16, 128)
_LONGEST = 256


def measure_lone(
    sizes: Sequence[str], tokens: Sequence[int], seconds: float, pairs: int, report: Report
) -> list[Comparison]:
    """One request after the other, each sent when the one before it is answered."""
    comparisons = []
    for size in sizes:
        config = config_of(size)
        with tempfile.TemporaryDirectory() as folder:
            files = Files.write(config, max(_LONGEST, *tokens), Path(folder))
            for length in tokens:
                sample = Requests(Lengths("equal", length, 0, length), config.vocab).take(0, 1)
                case = f"{size}, {length} tokens"
                comparisons.append(compare_alone(case, files.packed(), files.plain(), sample, seconds, pairs))
                report(f"{case}: done")
    return comparisons

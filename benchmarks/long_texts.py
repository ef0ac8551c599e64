"""One long text at a time: a pack runner against plain onnxruntime, with the memory that each takes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.comparison import Comparison, Files, compare_alone, peak_alone
from benchmarks.contenders import Sample
from benchmarks.rounds import Report
from benchmarks.workloads import Lengths, Requests, config_of

TOKENS = (512, 2048, 8192)


def measure_long_texts(
    size: str, layers: int, tokens: Sequence[int], seconds: float, pairs: int, report: Report
) -> list[Comparison]:
    """Compare each text length through ``layers`` layers of ``size``; peaks are above the memory after loading."""
    config = replace(config_of(size), layers=layers, max_positions=max(512, *tokens))
    comparisons = []
    with tempfile.TemporaryDirectory() as folder:
        files = Files.write(config, max(tokens), Path(folder))
        for length in tokens:
            text = Requests(Lengths("equal", length, 0, length), config.vocab).take(0, 1)
            case = f"{size}, {layers} layers, one text of {length} tokens"
            compared = compare_alone(case, files.packed(), files.plain(), text, seconds, pairs)
            comparisons.append(replace(compared, peaks=_peaks(files, text)))
            report(f"{case}: done")
    return comparisons


def _peaks(files: Files, text: Sequence[Sample]) -> tuple[int, int]:
    ours, theirs = (peak - loaded for loaded, peak in (peak_alone(m, text) for m in (files.packed(), files.plain())))
    return ours, theirs

"""How pairs stand in tables: the median with its quartiles, and a word where the machine drifted."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from benchmarks.comparison import Comparison
from benchmarks.drift import ALLOWED
from benchmarks.pairs import PAIRS, Paired, Quartiles

#: Explains the cells of this room, under a table.
CAPTION = (
    "Slices in turn (A B A B ...), the ratio pair by pair: median and, in brackets, quartiles. Drift "
    f"is how far the machine's own reference loop moved meanwhile; above {ALLOWED:.0%} only ratios count."
)


def quartiles_text(values: Quartiles, digits: int = 2) -> str:
    """Median [lower - upper quartile]."""
    return f"{values.median:.{digits}f} [{values.low:.{digits}f} - {values.high:.{digits}f}]"


def drift_text(paired: Paired) -> str:
    """The drift, said aloud where it is too large; and how many pairs there were, where they are few."""
    text = f"machine drifted {paired.drift:.0%}" if paired.drifted else f"{paired.drift:.0%}"
    return text if paired.pairs >= PAIRS else f"{text}, {paired.pairs} pairs only"


def comparison_table(title: str, comparisons: Sequence[Comparison], *, throughput: bool = False) -> Table:
    """Our way against plain onnxruntime: its ratio of times, or with ``throughput`` that of rates."""
    table = Table(title=title, caption=CAPTION, title_justify="left", caption_justify="left")
    table.add_column("case")
    ratio = "poprt over\nonnxruntime, throughput" if throughput else "poprt over\nonnxruntime, time"
    peaks = any(comparison.peaks for comparison in comparisons)
    memory = ["poprt\npeak MiB", "onnxruntime\npeak MiB"] if peaks else []
    for column in (ratio, "poprt ms", "onnxruntime ms", "drift", "largest\ndifference", *memory):
        table.add_column(column, justify="right")
    for comparison in comparisons:
        paired = comparison.paired
        cells = [quartiles_text(paired.ratio if throughput else paired.ratio.inverse())]
        cells += [f"{1e3 / rates.median:.2f}" for rates in (paired.ours, paired.theirs)]
        cells += [drift_text(paired), f"{comparison.difference:.1e}"]
        cells += [f"{peak / 2**20:.0f}" for peak in comparison.peaks or ()]
        table.add_row(comparison.case, *cells)
    return table

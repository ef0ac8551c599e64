"""Pictures of the results. Without matplotlib there are none, and the caller says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.throughput import CaseResult

HOW_TO = "no picture: pip install matplotlib"
_COLOURS = {"baseline": "tab:gray", "peer": "tab:blue", "poprt": "tab:green"}


def figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A figure and its axes as [rows][columns], drawn without a display.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn, drawn.subplots(rows, columns, squeeze=False)


def plot_throughput(results: Sequence[CaseResult], path: Path) -> None:
    """A bar a contender, as a ratio to the best baseline; its share of the roof beside it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    drawn, axes = figure((len(results) + 1) // 2, min(2, len(results)), 9, 4)
    for result, axis in zip(results, axes.flat, strict=False):
        rows = result.rows[::-1]
        bars = axis.barh([r.name for r in rows], [r.ratio for r in rows], color=[_COLOURS[r.kind] for r in rows])
        axis.bar_label(bars, [f" {r.samples_per_second:.1f}/s, {r.roof_share:.0%} of roof" for r in rows], fontsize=7)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(str(result.case), fontsize=10)
        axis.set_xlabel("throughput over that of the best baseline", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.margins(x=0.35)
    for axis in list(axes.flat)[len(results) :]:
        axis.set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=130)

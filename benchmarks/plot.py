"""Pictures of the results. Without matplotlib there are none, and the caller says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cost import Cost, CostResult
from benchmarks.load import LoadResult
from benchmarks.throughput import CaseResult, Row
from poprt.atomic_file import replacing

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
    """A bar a contender, its throughput over that of the pack runner; its share of the roof beside it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    drawn, axes = figure((len(results) + 1) // 2, min(2, len(results)), 9, 4)
    for result, axis in zip(results, axes.flat, strict=False):
        rows = result.rows[::-1]
        bars = axis.barh([r.name for r in rows], [_over_ours(r) for r in rows], color=[_COLOURS[r.kind] for r in rows])
        axis.bar_label(bars, [f" {r.samples_per_second:.1f}/s, {r.roof_share:.0%} of roof" for r in rows], fontsize=7)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(str(result.case), fontsize=10)
        axis.set_xlabel("throughput over that of the pack runner", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.margins(x=0.35)
    for axis in list(axes.flat)[len(results) :]:
        axis.set_visible(False)
    _save(drawn, path)


def _over_ours(row: Row) -> float:
    return 1.0 if row.paired is None else row.paired.ratio.inverse().median


def plot_load(result: LoadResult, path: Path) -> None:
    """Throughput and latency against the load that was offered.

    Raises:
        ImportError: matplotlib is not installed.
    """
    drawn, ((served, latency),) = figure(1, 2, 6, 4.5)
    for name in result.peaks:
        points = [point for point in result.points if point.server == name]
        offered = [point.offered for point in points]
        served.plot(offered, [point.served for point in points], marker="o", label=name)
        for quantile, style in (("p50", "-"), ("p99", "--"), ("p999", ":")):
            values = [getattr(point, quantile) * 1e3 for point in points]
            latency.plot(offered, values, style, marker="o", label=f"{name}, {quantile}")
    for axis, title in ((served, "requests served a second"), (latency, "latency, ms")):
        axis.set_xlabel("requests offered a second")
        axis.set_ylabel(title)
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    latency.set_yscale("log")
    drawn.suptitle(f"{result.size}, {result.lengths}")
    _save(drawn, path)


def plot_cost(result: CostResult, path: Path) -> None:
    """Time for a token against sample length, and against hidden size.

    Raises:
        ImportError: matplotlib is not installed.
    """
    drawn, ((left, right),) = figure(1, 2, 6, 4.5)
    by_hidden = f"{result.layers} layers, {result.length} tokens a sample"
    curves: tuple[tuple[Any, list[Cost], str, str], ...] = (
        (left, result.by_length, "tokens a sample", result.size),
        (right, result.by_hidden, "hidden size", by_hidden),
    )
    for axis, costs, label, title in curves:
        for name in dict.fromkeys(cost.contender for cost in costs):
            chosen = [cost for cost in costs if cost.contender == name]
            axis.plot([c.at for c in chosen], [c.microseconds for c in chosen], marker="o", label=name)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel(label)
        axis.set_ylabel("microseconds a token")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    _save(drawn, path)


def _save(drawn: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        drawn.savefig(file, dpi=130, format=path.suffix.removeprefix("."))

"""The tables of servers and of encoders."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from benchmarks.drift import ALLOWED
from benchmarks.pair_table import CAPTION, drift_text, quartiles_text
from benchmarks.serve.encode import EncodeRate
from benchmarks.serve.measure import PeakRatio, Point, Served, ServeResult


def serve_tables(result: ServeResult) -> list[Table]:
    """Peaks, ratios of peaks, and latencies."""
    return [_peaks(result.served, result.texts), _ratios(result.ratios), _latencies(result.served)]


def _table(title: str, caption: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for column in left:
        table.add_column(column)
    for column in right:
        table.add_column(column, justify="right")
    return table


def _peaks(served: Sequence[Served], texts: str) -> Table:
    caption = (
        "Peak: clients that ask again as soon as they are answered, as many as suit the server best; median and "
        "quartiles. CPU: user and system of the server's processes. Generator: the load's process, on the same cores. "
        "Event loop: of the CPU time, that of the thread which speaks HTTP; ours tokenises and fills packs there too. "
        "Runner alone: the same executable in process, tokens in, as many requests at once."
    )
    columns = (
        *("least cosine", "clients", "texts/s", "CPU ms\na text", "event loop\nms a text", "generator\nms a text"),
        *("runner alone\ntexts/s", "runner alone\nCPU ms a text"),
    )
    table = _table(f"servers, one text a request, {texts} texts: the peak", caption, ["server"], columns)
    for each in served:
        if each.absent:
            table.add_row(each.name, each.absent)
            continue
        alone = [] if each.runner is None else [f"{each.runner.rate:.0f}", f"{each.runner.cpu_ms:.2f}"]
        cells = [f"{each.cosine:.6f}", str(each.clients), quartiles_text(each.peak, 0), f"{each.cpu_ms:.2f}"]
        table.add_row(each.name, *cells, f"{each.loop_ms:.2f}", f"{each.generator_ms:.2f}", *alone)
    return table


def _ratios(ratios: Sequence[PeakRatio]) -> Table:
    table = _table("peak over peak", CAPTION, ["ours", "over"], ["texts/s", "drift"])
    for each in ratios:
        table.add_row(each.ours, each.theirs, quartiles_text(each.paired.ratio), drift_text(each.paired))
    return table


def _latencies(served: Sequence[Served]) -> Table:
    caption = (
        "Open loop, Poisson arrivals at a fraction of the server's own peak; latency from when a request was due. "
        "Stalls: how late a process that only sleeps woke meanwhile."
    )
    columns = [
        *("offered/s", "served/s", "p50 ms", "p99 ms", "p99.9 ms", "p99 / p50", "requests", "CPU ms\na text"),
        *("stalls\np99 ms", "drift", "failed"),
    ]
    table = _table("latency at fractions of its own peak", caption, ["server", "load"], columns)
    for each in served:
        for point in each.points:
            table.add_row(each.name, *_point_cells(point))
    return table


def _point_cells(point: Point) -> list[str]:
    failed = ", ".join(f"{count} x {status or 'closed'}" for status, count in sorted(point.failures.items()))
    moved = f"machine drifted {point.drift:.0%}" if point.drift > ALLOWED else f"{point.drift:.0%}"
    return [
        *(f"{point.fraction:.0%}", f"{point.offered:.0f}", f"{point.served:.0f}"),
        *(f"{1e3 * seconds:.1f}" for seconds in (point.p50, point.p99, point.p999)),
        *(f"{point.p99 / point.p50:.1f}", str(point.requests), f"{point.cpu_ms:.2f}"),
        *(f"{1e3 * point.stalls.p99:.1f}", moved, failed or "none"),
    ]


def encode_table(rates: Sequence[EncodeRate]) -> Table:
    """Ours over each other, by list of texts."""
    columns = ("batch", "least cosine\nof ours", "ours, texts/s", "theirs, texts/s", "ours over theirs", "drift")
    table = _table("texts in, embeddings out, in process", CAPTION, ["texts", "ours", "theirs"], columns)
    for each in rates:
        if each.paired is None:
            table.add_row(each.texts, each.ours, each.theirs, "", "", "", each.absent)
            continue
        paired = each.paired
        cells = [str(each.batch), f"{each.cosine:.6f}", f"{paired.ours.median:.0f}", f"{paired.theirs.median:.0f}"]
        table.add_row(each.texts, each.ours, each.theirs, *cells, quartiles_text(paired.ratio), drift_text(paired))
    return table

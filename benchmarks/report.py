"""The tables that the commands print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from benchmarks.cost import Cost, CostResult
from benchmarks.load import LoadResult
from benchmarks.one_length import OneLengthResult
from benchmarks.pair_table import CAPTION, drift_text, quartiles_text
from benchmarks.peak import Peak
from benchmarks.profiling import OpTime, Profile
from benchmarks.startup import Startup
from benchmarks.throughput import CaseResult, Row
from benchmarks.token_kinds import KindResult
from benchmarks.variants import VariantRate


def case_table(result: CaseResult) -> Table:
    """One case as a table."""
    table = Table(
        title=f"{result.case} ({result.case.lengths}; mean {result.mean_length:.0f} tokens)",
        caption=f"Best product: {result.best}, {_gflops(result.roof.theirs.median)} on the model's products alone; the "
        f"pack runner is at {quartiles_text(result.roof.ratio)} of it, drift {drift_text(result.roof)}. "
        f"{_peak_text(result.peak)}(offline) needs all requests before it starts. {CAPTION}",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("contender", max_width=64)
    for title in (
        "pack runner\nover it",
        "drift",
        "tokens/s",
        "samples/s",
        "of best\nproduct",
        "of peak",
        "padding",
        "outside\nengine",
        "requests\na slice",
    ):
        table.add_column(title, justify="right")
    best = best_baseline(result)
    for row in result.rows:
        style = {"baseline": "bold" if row is best else "", "poprt": "green"}.get(row.kind, "cyan")
        table.add_row(*_cells(row), style=style)
    for name, reason in result.absent.items():
        table.add_row(name, reason, style="dim")
    return table


def _cells(row: Row) -> list[str]:
    return [
        f"{row.name} (offline)" if row.offline else row.name,
        "" if row.paired is None else quartiles_text(row.paired.ratio),
        "" if row.paired is None else drift_text(row.paired),
        f"{row.tokens_per_second:.0f}",
        f"{row.samples_per_second:.1f}",
        f"{row.roof_share:.0%}",
        "" if row.peak_share is None else f"{row.peak_share:.0%}",
        f"{row.padding:.0%}",
        "" if row.overhead is None else f"{row.overhead:.1%}",
        str(row.requests),
    ]


def _gflops(flops: float) -> str:
    return f"{flops / 1e9:.0f} GFLOP/s"


def _peak_text(peak: Peak | None) -> str:
    return "" if peak is None else f"Peak: {_gflops(peak.flops)}, {peak.name} and nothing else on all cores. "


def best_baseline(result: CaseResult) -> Row | None:
    """The baseline that the pack runner wins least over; None where there is none."""
    rows = [(row.paired.ratio.median, row) for row in result.rows if row.paired and row.kind == "baseline"]
    return min(rows, key=lambda pair: pair[0])[1] if rows else None


def load_table(result: LoadResult) -> Table:
    """Throughput and latency under each load."""
    peaks = "; ".join(f"{name} {peak:.1f}/s" for name, peak in result.peaks.items())
    table = Table(
        title=f"{result.size}, {result.lengths}; open loop, Poisson arrivals",
        caption=f"Peak with all requests waiting: {peaks}. Latency is from due arrival to answer. Stalls are "
        "the machine's own: how late a process that only sleeps for 1 ms woke up.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("server")
    for title in ("load", "offered/s", "served/s", "p50 ms", "p99 ms", "p99.9 ms", "stalls ms:\np99, p99.9, worst", ""):
        table.add_column(title, justify="right")
    for point in result.points:
        table.add_row(
            point.server,
            f"{point.fraction:.0%}",
            f"{point.offered:.1f}",
            f"{point.served:.1f}",
            f"{point.p50 * 1e3:.1f}",
            f"{point.p99 * 1e3:.1f}",
            f"{point.p999 * 1e3:.1f}",
            ", ".join(f"{late * 1e3:.1f}" for late in (point.stalls.p99, point.stalls.p999, point.stalls.worst)),
            "" if point.kept_up else "cannot keep up",
            style="green" if point.server.startswith("poprt") else "",
        )
    return table


def cost_tables(result: CostResult) -> list[Table]:
    """Time for a token: a table against length and one against hidden size."""
    by_hidden = f"{result.layers} layers, samples of {result.length} tokens: against hidden size"
    curves = ((f"{result.size}: against sample length", result.by_length), (by_hidden, result.by_hidden))
    return [
        _cost_table(f"{title}; microseconds a token (useful GFLOP/s; the time of packs over it)", costs)
        for title, costs in curves
    ]


def _cost_table(title: str, costs: Sequence[Cost]) -> Table:
    table = Table(title=title, caption=CAPTION, title_justify="left", caption_justify="left")
    table.add_column("contender")
    for at in dict.fromkeys(cost.at for cost in costs):
        table.add_column(str(at), justify="right")
    for name in dict.fromkeys(cost.contender for cost in costs):
        cells = [_cost_cell(cost) for cost in costs if cost.contender == name]
        table.add_row(name, *cells, style="green" if name.startswith("poprt") else "")
    return table


def _cost_cell(cost: Cost) -> str:
    text = f"{cost.microseconds:.1f} ({cost.gflops:.0f})"
    if cost.paired is None:
        return text
    drift = f"\n{drift_text(cost.paired)}" if cost.paired.drifted else ""
    return f"{text}\n{quartiles_text(cost.paired.ratio.inverse())}{drift}"


def one_length_table(result: OneLengthResult) -> Table:
    """Throughput of each way to answer requests that wait together."""
    table = Table(
        title=f"{result.size}, {result.lengths}; {result.waiting} requests of {result.distinct} lengths wait at once",
        caption=CAPTION,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("way")
    for title in ("requests/s", "packs of one\nlength over it", "drift", "runs", "largest\ndifference"):
        table.add_column(title, justify="right")
    for rate in result.rates:
        ratio = ("", "") if rate.paired is None else (quartiles_text(rate.paired.ratio), drift_text(rate.paired))
        cells = quartiles_text(rate.requests_per_second, 0), *ratio, str(rate.packs), f"{rate.difference:.1e}"
        table.add_row(rate.name, *cells, style="green" if "packs of" in rate.name else "")
    return table


def kinds_table(results: Sequence[KindResult], size: str) -> Table:
    """What packing brings to encoders whose tokens are no words."""
    title = f"tokens that are no words, encoders of size {size} with random weights"
    table = Table(title=title, caption=CAPTION, title_justify="left", caption_justify="left")
    table.add_column("kind")
    table.add_column("tokens of a sample")
    titles = (
        "share\npacked",
        "neighbours",
        "largest\ndifference",
        "padding\nof 8",
        "over padded\nto 8",
        "over one\nat a time",
    )
    for column in titles:
        table.add_column(column, justify="right")
    for result in results:
        table.add_row(
            result.kind,
            result.what,
            f"{result.share:.0%}",
            result.neighbours,
            f"{result.difference:.1e}",
            f"{result.padding:.0%}",
            quartiles_text(result.padded.ratio),
            quartiles_text(result.alone.ratio),
        )
    return table


def variants_table(rates: Sequence[VariantRate]) -> Table:
    """Packed over padded to the longest, for each form of one model."""
    title = "MiniLM as people ship it, short texts: plain onnxruntime, and packed"
    table = Table(title=title, caption=CAPTION, title_justify="left", caption_justify="left")
    table.add_column("form")
    titles = ("file\nMB", "executable\nMB", "padded\ntokens/s", "packed\ntokens/s", "packed over\npadded", "drift")
    for column in titles:
        table.add_column(column, justify="right")
    table.add_column("padded is")
    for rate in rates:
        if rate.paired is None:
            table.add_row(rate.name, *[""] * len(titles), rate.absent)
            continue
        cells = [f"{size:.0f}" for size in rate.megabytes]
        cells += [f"{side.median:.0f}" for side in (rate.paired.theirs, rate.paired.ours)]
        table.add_row(rate.name, *cells, quartiles_text(rate.paired.ratio), drift_text(rate.paired), rate.baseline)
    return table


def profile_table(profiles: Sequence[Profile]) -> Table:
    """Time by operator type, one column a profile; operators under 0.1 % everywhere are summed up."""
    table = Table(
        title=f"{profiles[0].requests} requests, {profiles[0].tokens} tokens: time in kernels by operator type",
        title_justify="left",
    )
    table.add_column("operator")
    for profile in profiles:
        table.add_column(f"{profile.name}\nms (calls)", justify="right")
        table.add_column("share", justify="right")
    columns = [{op.op: op for op in profile.ops} for profile in profiles]
    every = sorted({op for column in columns for op in column}, key=lambda op: -sum(_ms(c, op) for c in columns))
    shown = [op for op in every if any(op in column and column[op].share >= 0.001 for column in columns)]
    for op in shown:
        cells = [_profile_cells(column.get(op)) for column in columns]
        table.add_row(op, *(cell for pair in cells for cell in pair))
    rest = [sum(_ms(column, op) for op in every if op not in shown) for column in columns]
    table.add_row("others", *(cell for value in rest for cell in (f"{value:.2f}", "")))
    table.add_section()
    table.add_row("total", *(cell for profile in profiles for cell in (f"{profile.milliseconds:.2f}", "")))
    return table


def _ms(column: Mapping[str, OpTime], op: str) -> float:
    return column[op].milliseconds if op in column else 0.0


def _profile_cells(op: OpTime | None) -> tuple[str, str]:
    return ("", "") if op is None else (f"{op.milliseconds:.2f} ({op.calls:.0f})", f"{op.share:.1%}")


def startup_table(startups: Sequence[Startup], size: str) -> Table:
    """Seconds and memory of loading."""
    table = Table(title=f"{size}: loading in a fresh process (file cache warm)", title_justify="left")
    table.add_column("what")
    for title in ("file MiB", "imports s", "load s", "resident MiB", "peak MiB"):
        table.add_column(title, justify="right")
    for item in startups:
        mebibytes = (f"{n / 2**20:.0f}" for n in (item.file_bytes, item.resident_bytes, item.peak_bytes))
        size_of_file, resident, peak = mebibytes
        table.add_row(item.name, size_of_file, f"{item.import_seconds:.2f}", f"{item.load_seconds:.2f}", resident, peak)
    return table


def announce(results: Sequence[CaseResult]) -> str:
    """One line a case: the runner against the best baseline."""
    lines = []
    for result in results:
        best = best_baseline(result)
        if best is not None and best.paired is not None:
            ratio = quartiles_text(best.paired.ratio)
            lines.append(f"{result.case}: {ratio} x the best baseline ({best.name})")
    return "\n".join(lines)

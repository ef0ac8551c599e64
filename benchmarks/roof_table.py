"""The table of products and peaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from benchmarks.products import Product
from benchmarks.roof import RoofResult, fastest


def roof_table(results: Sequence[RoofResult], size: str, chain: Sequence[Product]) -> Table:
    """The peak of each precision and, below it, every way to run the products, each at its best; the roof is bold."""
    shapes = ", ".join(str(product) for product in dict.fromkeys(chain))
    table = Table(
        title=f"{size}: its {len(chain)} products with weights, one after the other: {escape(shapes)}",
        caption="The peak is a loop of that instruction in registers, on all cores. Of each way the best of "
        "all numbers of rows, alone and with a run on each core.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("precision")
    table.add_column("engine")
    for column in ("rows", "at a time", "GFLOP/s", "of peak"):
        table.add_column(column, justify="right")
    for result in results:
        for cells, style in _lines(result):
            table.add_row(result.precision, *cells, style=style)
        table.add_section()
    return table


def _lines(result: RoofResult) -> Iterator[tuple[list[str], str]]:
    """Cells and style of each line."""
    if result.peak is not None:
        yield [f"arithmetic peak: {result.peak.name}", "", "", f"{result.peak.flops / 1e9:.0f}", "100%"], "cyan"
    by_way = {rate.way: [each for each in result.rates if each.way == rate.way] for rate in result.rates}
    best = sorted((fastest(rates) for rates in by_way.values()), key=lambda rate: -rate.flops)
    for rate in best:
        share = "" if result.peak is None else f"{rate.flops / result.peak.flops:.0%}"
        cells = [rate.way, str(rate.rows), str(rate.streams), f"{rate.flops / 1e9:.0f}", share]
        yield cells, "bold" if rate is best[0] else ""
    for name, reason in result.absent.items():
        yield [f"{name}: {reason}", "", "", "", ""], "dim"

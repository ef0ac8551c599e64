"""Tables on the terminal, and the JSON beside them."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.throughput import CaseResult, Row
from poprt.runtime.session import usable_cores

_PACKAGES = ("poprt", "onnxruntime", "numpy", "ctranslate2", "openvino")


def machine() -> dict[str, Any]:
    """What the figures hold for: processor, cores, versions (None for a package that is not installed)."""
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def write_json(path: Path, **content: Any) -> None:
    """Write the machine and ``content``; dataclasses become objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = {"machine": machine(), **content}
    path.write_text(json.dumps(body, indent=1, default=_as_dict) + "\n", encoding="utf-8")


def case_table(result: CaseResult) -> Table:
    """One case as a table."""
    roof = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in result.roof.items())
    table = Table(
        title=f"{result.case} ({result.case.lengths}; mean {result.mean_length:.0f} tokens)",
        caption=f"roof: {roof} GFLOP/s on the model's products alone, 512 tokens; shares are of the larger. "
        "(offline) needs all requests before it starts.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("contender", max_width=64)
    for title in ("tokens/s", "samples/s", "vs best\nbaseline", "of roof", "padding", "outside\nengine", "spread"):
        table.add_column(title, justify="right")
    for row in result.rows:
        table.add_row(*_cells(row), style=_style(row))
    for name, reason in result.absent.items():
        table.add_row(name, reason, style="dim")
    return table


def _cells(row: Row) -> list[str]:
    return [
        f"{row.name} (offline)" if row.offline else row.name,
        f"{row.tokens_per_second:.0f}",
        f"{row.samples_per_second:.1f}",
        f"{row.ratio:.2f} x",
        f"{row.roof_share:.0%}",
        f"{row.padding:.0%}",
        "" if row.overhead is None else f"{row.overhead:.1%}",
        f"{row.spread:.0%}",
    ]


def _style(row: Row) -> str:
    if row.kind == "baseline":
        return "bold" if row.ratio == 1 else ""
    return "green" if row.kind == "poprt" else "cyan"


def _as_dict(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def announce(results: Sequence[CaseResult]) -> str:
    """One line a case: the runner against the best baseline."""
    lines = []
    for result in results:
        ours = [row for row in result.rows if row.kind == "poprt" and not row.offline]
        best = max((row for row in result.rows if row.kind == "baseline"), key=lambda row: row.ratio)
        lines += [f"{result.case}: {row.ratio:.2f} x the best baseline ({best.name})" for row in ours]
    return "\n".join(lines)

"""What loading costs: seconds and memory of a fresh process, for an executable and for the plain model."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx

from benchmarks.probe import load
from benchmarks.processes import run_alone
from benchmarks.rounds import Report
from benchmarks.workloads import build, compile_packed

_COLUMNS = 256


@dataclass(frozen=True)
class Startup:
    """Medians over fresh processes.

    Attributes:
        file_bytes: size of the file.
        import_seconds, load_seconds: for the imports, and from the path to a session that can run.
        resident_bytes, peak_bytes: of the process after loading, and at most until then.
    """

    name: str
    file_bytes: int
    import_seconds: float
    load_seconds: float
    resident_bytes: float
    peak_bytes: float


def measure_startup(size: str, runs: int, report: Report) -> list[Startup]:
    """Write the plain model and its executables (fp32, fp16), and load each in fresh processes, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        files = _write(size, Path(folder))
        figures_of: dict[str, list[dict[str, float]]] = {name: [] for name in files}
        for turn in range(runs + 1):
            for name, (kind, path) in files.items():
                figures = run_alone(load, kind, str(path))
                if turn:  # the first run fills the file cache
                    figures_of[name].append(figures)
            report(f"run {turn} of {runs}: done" if turn else "file cache warm")
        return [_median(name, files[name][1], figures) for name, figures in figures_of.items()]


def _write(size: str, folder: Path) -> dict[str, tuple[str, Path]]:
    model = build(size)
    plain = folder / "model.onnx"
    onnx.save(model, str(plain))
    files = {"onnxruntime: the plain model": ("onnxruntime", plain)}
    for precision in ("fp32", "fp16"):
        path = folder / f"{precision}.popef"
        compile_packed(model, _COLUMNS, precision).save(path)
        files[f"poprt: {precision} executable, packed"] = ("poprt", path)
    return files


def _median(name: str, path: Path, runs: list[dict[str, float]]) -> Startup:
    return Startup(name, path.stat().st_size, **{key: statistics.median(run[key] for run in runs) for key in runs[0]})

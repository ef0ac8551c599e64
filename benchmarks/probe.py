"""Loads one model in this process and prints what that took, as JSON: ``python -m benchmarks.probe KIND PATH``.

KIND is "onnxruntime" (a model) or "poprt" (an executable). Nothing else may be loaded before, so this file imports
what it measures as late as it can.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path


def main(kind: str, path: str) -> None:
    """Load the model, and print seconds for the imports and for loading, and bytes in memory."""
    start = time.perf_counter()
    if kind == "poprt":
        from poprt.engine.session import EngineSession
        from poprt.runtime import Executable

        imported = time.perf_counter()
        loaded: object = EngineSession(Executable(path))
    else:
        import onnxruntime as ort

        imported = time.perf_counter()
        loaded = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    done = time.perf_counter()
    current, peak = memory()
    figures = {
        "import_seconds": imported - start,
        "load_seconds": done - imported,
        "resident_bytes": current,
        "peak_bytes": peak,
    }
    print(json.dumps(figures))
    del loaded


def memory() -> tuple[int, int]:
    """Bytes of this process in memory, now and at most; the most for both where the system tells no more."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return most, most
    # getrusage would give the most of the parent as well, from before this program replaced it.
    kib = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return int(kib["VmRSS"]) * 1024, int(kib["VmHWM"]) * 1024


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

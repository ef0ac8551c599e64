"""Loads one model and says what that took.

Nothing else may be loaded in the process before, so this file imports what it measures as late as it can.
"""

from __future__ import annotations

import time

from benchmarks.memory import memory


def load(kind: str, path: str) -> dict[str, float]:
    """Load the model at ``path``, with "onnxruntime" or, an executable, with "poprt".

    Returns:
        Seconds for the imports and for loading, and bytes in memory, now and at most.
    """
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
    del loaded
    return {
        "import_seconds": imported - start,
        "load_seconds": done - imported,
        "resident_bytes": current,
        "peak_bytes": peak,
    }

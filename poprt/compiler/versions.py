"""The versions that an executable depends on."""

from __future__ import annotations

import importlib.metadata


def versions() -> dict[str, str]:
    """Versions of poprt, onnx and the installed onnxruntime (whose package may have a suffix, as for a GPU)."""
    import onnx
    import onnxruntime

    try:
        own = importlib.metadata.version("poprt")
    except importlib.metadata.PackageNotFoundError:
        own = "unknown"
    return {"poprt": own, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}

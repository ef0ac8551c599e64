"""Results as JSON, with what they hold for."""

from __future__ import annotations

import dataclasses
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from poprt.atomic_file import replacing
from poprt.engine.cpu import usable_cores

_PACKAGES = ("poprt", "onnxruntime", "numpy", "ctranslate2", "openvino", "llvmlite")


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
    with replacing(path) as file:
        file.write((json.dumps(body, indent=1, default=_as_dict) + "\n").encode())


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

"""The file of `poprt serve --config`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from poprt_cli.config_file import by_name, read_mapping

_OPTION = "--config"


def read_config(path: Path, options: Iterable[str]) -> dict[str, Any]:
    """What a YAML file sets, by the names of the command's options.

    Args:
        path: the file.
        options: the names, with underscores; keys may have dashes.

    Raises:
        click.UsageError: it cannot be read, or has a key that is no option, or twice.
    """
    spelling = {name: name.replace("_", "-") for name in options}
    values = by_name(f"{_OPTION}: {str(path)!r}", read_mapping(_OPTION, path), spelling)
    return {name: _as_words(path, name, value) for name, value in values.items()}


def _as_words(path: Path, name: str, value: Any) -> Any:
    """A value as the command line would have it."""
    if name == "models" and isinstance(value, Mapping):
        return [f"{model}={file}" for model, file in value.items()]
    if name in ("models", "cors_origin"):
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]
    if name == "typical_lengths" and isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, (list, Mapping)):
        raise click.UsageError(
            f"{_OPTION}: {str(path)!r}: {name.replace('_', '-')} is one value, not {type(value).__name__}"
        )
    return value

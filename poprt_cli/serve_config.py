"""The file of `poprt serve --config`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click


def read_config(path: Path, options: Iterable[str]) -> dict[str, Any]:
    """What a YAML file sets, by the names of the command's options.

    Args:
        path: the file.
        options: the names, with underscores; keys may have dashes.

    Raises:
        click.UsageError: it cannot be read, or has a key that is no option, or twice.
    """
    names = {name: name.replace("_", "-") for name in options}
    values: dict[str, Any] = {}
    for key, value in _read(path).items():
        name = str(key).replace("-", "_")
        if name not in names:
            near = difflib.get_close_matches(name.replace("_", "-"), names.values(), n=1, cutoff=0.0)[0]
            raise click.UsageError(
                f"--config: {str(path)!r} has the key {key!r}, which is no option; did you mean {near!r}?"
            )
        if name in values:
            raise click.UsageError(f"--config: {str(path)!r} has {names[name]!r} twice")
        if value is not None:
            values[name] = _as_words(path, name, value)
    return values


def _read(path: Path) -> Mapping[Any, Any]:
    import yaml  # here: what serves is an extra

    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise click.UsageError(f"--config: {str(path)!r}: {error.strerror}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise click.UsageError(f"--config: {str(path)!r} is no YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise click.UsageError(f"--config: {str(path)!r}: expected keys with values, as `port: 8000`")
    return content


def _as_words(path: Path, name: str, value: Any) -> Any:
    """A value as the command line would have it."""
    if name == "models" and isinstance(value, Mapping):
        return [f"{model}={file}" for model, file in value.items()]
    if name in ("models", "cors_origin"):
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]
    if isinstance(value, (list, Mapping)):
        raise click.UsageError(
            f"--config: {str(path)!r}: {name.replace('_', '-')} is one value, not {type(value).__name__}"
        )
    return value

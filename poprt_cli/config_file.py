"""Options of a command in a YAML file: which keys there are, and one error for each that is none."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import yaml


def read_mapping(option: str, path: Path) -> Mapping[Any, Any]:
    """The keys and values of a YAML file.

    Args:
        option: that names the file, for messages.
        path: the file.

    Raises:
        click.UsageError: it cannot be read, or holds something else.
    """
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise click.UsageError(f"{option}: {str(path)!r}: {error.strerror}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise click.UsageError(f"{option}: {str(path)!r} is no YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise click.UsageError(f"{option}: {str(path)!r}: expected keys with values, as `port: 8000`")
    return content


def by_name(where: str, content: Mapping[Any, Any], spelling: Mapping[str, str]) -> dict[str, Any]:
    """The values of ``content`` by the names of a command's options; those that say nothing are left out.

    Args:
        where: the file, or a part of it, for messages.
        content: keys may have dashes or underscores.
        spelling: name of an option -> how messages spell it.

    Raises:
        click.UsageError: a key is no option, or there twice.
    """
    values: dict[str, Any] = {}
    seen: set[str] = set()
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in spelling:
            near = difflib.get_close_matches(name.lower(), spelling, n=1, cutoff=0.0)[0]
            raise click.UsageError(f"{where} has the key {key!r}, which is no option; did you mean {spelling[near]!r}?")
        if name in seen:
            raise click.UsageError(f"{where} has {spelling[name]!r} twice")
        seen.add(name)
        if value is not None:
            values[name] = value
    return values

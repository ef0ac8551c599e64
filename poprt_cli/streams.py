"""Standard streams that are closed, full, gone, or that cannot say every letter."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

import click


def prepare_streams() -> None:
    """Make the standard streams fit to be written to, whatever the caller left of them.

    A closed one is opened on nothing: otherwise a file that is written would get its number, and every message that the
    engine prints would land in that file. Letters that stdout cannot say are spelled ``\\xNN``, as stderr does.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # lives as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def print_last(line: str) -> None:
    """Print a line on stderr; where nobody can read it the exit code must do."""
    with suppress(OSError, ValueError):
        click.echo(line, err=True)


def give_up_broken_streams() -> None:
    """Turn streams that cannot be flushed to nothing, so that Python does not complain about them at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, stream.fileno())
                os.close(nothing)

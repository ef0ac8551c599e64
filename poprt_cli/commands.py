"""How the commands of this package behave: spelling of flags, KEY=VALUE words, and errors on one line."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

from passes.errors import RewriteError
from passes.numbers import LARGEST_EXTENT, whole_number
from poprt.errors import PoprtError
from poprt_cli.signals import signals_interrupt
from poprt_cli.streams import give_up_broken_streams, prepare_streams, print_last

#: What the user can mend; anything else is a bug of ours and keeps its traceback.
USER_ERRORS = (RewriteError, PoprtError)

#: Flags are spelled with underscores or dashes.
CONTEXT_SETTINGS = {
    "token_normalize_func": lambda name: name.replace("-", "_"),
    "help_option_names": ["-h", "--help"],
    "max_content_width": 120,
}


class _OneLineErrors(click.Command):
    """Prints user errors as ``poprt: error: …`` on stderr and exits with 2 (wrong options) or 1 (all others).

    A signal ends it with 128 and the signal's number, a reader of its output that has gone with 1.
    """

    def main(  # type: ignore[override]  # click overloads it by standalone_mode, which is ours to set here
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run the command and exit the process."""
        program = prog_name or self.name or "poprt"
        extra["standalone_mode"] = False
        prepare_streams()
        with signals_interrupt() as received:
            code, message = self._outcome(args, prog_name, **extra)
            if received:
                code, message = 128 + received[0], f"stopped by {signal.Signals(received[0]).name}"
            if message:
                print_last(f"{program}: error: {' '.join(message.split())}")
            give_up_broken_streams()
        sys.exit(code)

    def _outcome(self, args: Sequence[str] | None, prog_name: str | None, **extra: Any) -> tuple[int, str]:
        """Run the command; its exit code, and what to say on stderr."""
        try:
            code = super().main(args, prog_name, **extra)
            sys.stdout.flush()
        except (click.Abort, KeyboardInterrupt):
            return 130, ""
        except click.ClickException as error:
            return error.exit_code, error.format_message()
        except USER_ERRORS as error:
            return 1, str(error)
        except OSError as error:
            return 1, _environment_error(error)
        return (code if isinstance(code, int) else 0), ""


def _environment_error(error: OSError) -> str:
    if error.errno == errno.EPIPE:  # the reader of our output has gone; nobody is left to tell
        return ""
    reason = error.strerror or str(error)
    return (
        f"standard output cannot be written to: {reason}"
        if error.filename is None
        else f"{str(error.filename)!r}: {reason}"
    )


class Listed(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions of click
    """One word of a flag that takes one or more, apart or with commas between."""

    name = "WORD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word as it is."""
        return str(value)


class KeyValueCommand(_OneLineErrors):
    """A command whose options of type :class:`KeyValue` or :class:`Listed` take one or more words after one flag."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the flag before each further word, which is the form that click knows."""
        flags = {
            flag
            for param in self.params
            if isinstance(param, click.Option) and isinstance(param.type, (KeyValue, Listed))
            for flag in param.opts
        }
        return super().parse_args(ctx, _repeat_flags(args, flags))


class CommandGroup(_OneLineErrors, click.Group):
    """A group of commands with the same errors."""


class DefaultCommand(KeyValueCommand, click.Group):
    """A command that has others beside it: what does not begin with the name of one is its own options.

    ``poprt --input_model m.onnx`` is the command itself, ``poprt pack FOLDER`` the one called ``pack``.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"invoke_without_command": True, "subcommand_metavar": "", **options})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the words for a command where the first is its name, and for options of this one elsewhere."""
        named = bool(args) and args[0] in self.commands
        ctx.allow_interspersed_args, ctx.allow_extra_args = not named, named
        return super().parse_args(ctx, args)


def _repeat_flags(args: Sequence[str], flags: set[str]) -> list[str]:
    expanded: list[str] = []
    flag, taken = "", 0
    for word in args:
        if word.startswith("-"):
            name = "--" + word.lstrip("-").partition("=")[0].replace("-", "_")
            flag, taken = (name, int("=" in word)) if name in flags else ("", 0)
        elif flag:
            if taken:
                expanded.append(flag)
            taken += 1
        expanded.append(word)
    return expanded


class KeyValue(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions of click
    """One ``KEY=VALUE`` word, split at the last ``=``: keys may contain ``=``, ``:`` and ``/``."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Split the word and read its value."""
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).rpartition("=")
        if not equals or not key or not text:
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key, self.read(key, text, param, ctx)

    def read(self, key: str, text: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value; here the text itself."""
        return text


class ShapeValue(KeyValue):
    """``NAME=16,256``: an input and its extents."""

    name = "NAME=EXTENTS"

    def read(self, key: str, text: str, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """The extents, each at least 1."""
        parts = text.strip("[]()").split(",")
        extents = [whole_number(part) or 0 for part in parts]
        if not all(0 < extent <= LARGEST_EXTENT for extent in extents):
            self.fail(
                f"{key}={text}: extents are positive whole numbers up to {LARGEST_EXTENT} with commas between, as in "
                "16,256",
                param,
                ctx,
            )
        return extents


def as_dict(ctx: click.Context, param: click.Parameter, words: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Option callback: the KEY=VALUE words as a dict; the same key twice with different values is an error."""
    values: dict[str, Any] = {}
    for key, value in words:
        if values.setdefault(key, value) != value:
            raise click.BadParameter(f"{key!r} is given twice, as {values[key]} and {value}", ctx, param)
    return values


def as_names(ctx: click.Context, param: click.Parameter, text: str | None) -> list[str]:
    """Option callback: a comma list as names, without blanks."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def as_flag_or_text(ctx: click.Context, param: click.Parameter, text: str | None) -> bool | str | None:
    """Option callback of a flag that may have a value: True or False where it says no more than that."""
    return {"true": True, "false": False}.get((text or "").lower(), text)


def as_sizes(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """Option callback: the comma list as whole numbers of 1 or more; None where the option is not used."""
    if text is None:
        return None
    sizes = [whole_number(part.strip()) or 0 for part in text.split(",")]
    if min(sizes) < 1:
        raise click.BadParameter(f"{text!r}: expected whole numbers with commas between, as in 64,128", ctx, param)
    return tuple(sizes)

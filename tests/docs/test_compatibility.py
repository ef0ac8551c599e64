"""The page on programs for PopRT says of each flag, name, option and pass what the code does with it."""

from __future__ import annotations

import importlib
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from passes import get_registered_passes
from passes.announced import ANNOUNCED
from passes.builtin import BUILT_IN
from passes.ops import FOREIGN
from poprt.compiler import CompilerOptions
from poprt.compiler.options import _EFFECTIVE, _IPU_ONLY
from poprt.convert_options import OPTIONS
from poprt.errors import PoprtError
from poprt.frontend import get_frontend
from poprt.runtime import HostConcatConfig, HostConcatRunnerConfig, LightRunnerConfig, PackRunnerConfig, RuntimeConfig
from poprt_cli.executor import run_popef
from poprt_cli.main import cli
from poprt_cli.options import WITHOUT_EFFECT

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
WORKS, NO_EFFECT, REFUSED = "works", "no effect", "refused"
_ROW = re.compile(r"^\| (`.+?`) \| ([\w ]+) \| (.+) \|$", re.MULTILINE)


class Entry(NamedTuple):
    """What the page says of one name."""

    here: str
    text: str


def entries(heading: str) -> dict[str, Entry]:
    """The names in the table under a heading."""
    section = PAGE.read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = {}
    for names, here, text in _ROW.findall(section):
        for name in re.findall(r"`([^`]+)`", names):
            assert name not in rows, f"{name} is twice under {heading}"
            rows[name] = Entry(here, text)
    return rows


def flags(command: click.Command) -> set[str]:
    context = click.Context(command)
    options = [item for item in command.get_params(context) if isinstance(item, click.Option)]
    return {max(item.opts, key=len) for item in options}


@pytest.mark.parametrize(
    ("heading", "command"), [("The command poprt", cli), ("The command poprt_exec", run_popef)], ids=["poprt", "exec"]
)
def test_every_flag_of_the_help_is_on_the_page(heading: str, command: click.Command) -> None:
    assert set(entries(heading)) == flags(command)


def test_the_flags_that_do_nothing_are_those_that_the_command_announces() -> None:
    idle = {name for name, entry in entries("The command poprt").items() if entry.here == NO_EFFECT}
    of_passes = {option.command_flag for option in OPTIONS.values() if option.rewrite in ANNOUNCED}
    assert idle == of_passes | {f"--{name}" for name in WITHOUT_EFFECT}


def test_every_word_is_one_of_three() -> None:
    headings = re.findall(r"^## (.+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    words = {entry.here for heading in headings for entry in entries(heading).values()}
    assert words == {WORKS, NO_EFFECT, REFUSED}


def resolve(path: str) -> Any:
    """The module, class, function or attribute of a dotted path."""
    first, *parts = path.split(".")
    thing: Any = importlib.import_module(first)
    for number, part in enumerate(parts, 2):
        if not hasattr(thing, part):
            importlib.import_module(".".join(path.split(".")[:number]))
        thing = getattr(thing, part)
    return thing


@pytest.mark.parametrize(("name", "entry"), entries("Names in Python").items(), ids=lambda value: str(value)[:60])
def test_a_name_exists_or_is_refused_as_the_page_says(name: str, entry: Entry) -> None:
    if entry.here == REFUSED:
        with pytest.raises((AttributeError, ImportError, PoprtError)):
            resolve(name)()
    else:
        assert callable(resolve(name)) or isinstance(resolve(name), str)


def test_every_keyword_of_the_converter_is_on_the_page() -> None:
    idle = {name for name, option in OPTIONS.items() if option.no_effect or option.rewrite in ANNOUNCED}
    said = entries("Keywords of the Converter")
    assert set(said) == set(OPTIONS)
    assert {name for name, entry in said.items() if entry.here == NO_EFFECT} == idle


def test_every_compiler_option_is_on_the_page() -> None:
    said = entries("Compiler options")
    assert {name for name, entry in said.items() if entry.here == WORKS} == set(_EFFECTIVE)
    assert {name for name, entry in said.items() if entry.here == NO_EFFECT} == set(_IPU_ONLY)
    for name in said:
        getattr(CompilerOptions(), name)


def test_every_option_of_the_runners_is_on_the_page() -> None:
    said = entries("Options of the runners")
    of_all = {item.name for item in fields(RuntimeConfig)}
    assert {item.name for item in fields(LightRunnerConfig)} == of_all
    for kind in (RuntimeConfig, PackRunnerConfig, HostConcatRunnerConfig, HostConcatConfig):
        own = {name.split(".")[1]: entry for name, entry in said.items() if name.startswith(f"{kind.__name__}.")}
        inherited = of_all if kind is HostConcatRunnerConfig else set()
        assert set(own) == {item.name for item in fields(kind)} - inherited
        assert {name for name, entry in own.items() if entry.here == NO_EFFECT} == set(kind.no_effect) - inherited


def test_every_pass_without_effect_is_on_the_page_with_its_reason() -> None:
    said = entries("Passes")
    assert {name: entry.text for name, entry in said.items()} == ANNOUNCED
    assert {entry.here for entry in said.values()} == {NO_EFFECT}
    assert not set(said) & {*BUILT_IN, *get_registered_passes()}


def test_every_operator_of_ours_is_on_the_page() -> None:
    assert set(entries("Operators")) == {"AttentionMask", "Repack", "Unpack", *FOREIGN}


def test_what_is_not_imported_from_other_frameworks_is_refused_by_name() -> None:
    with pytest.raises(PoprtError, match="'tensorflow' is not read"):
        get_frontend("model", framework="tensorflow")

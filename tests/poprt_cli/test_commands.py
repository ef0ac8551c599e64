"""KEY=VALUE words after one flag."""

from __future__ import annotations

import click
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from poprt_cli.commands import CONTEXT_SETTINGS, KeyValue, KeyValueCommand, as_dict

KEYS = st.text("abcxyz_:/=.0123456789-", min_size=1).filter(lambda key: not key.startswith("-"))
VALUES = st.text("abcxyz0123456789[],+", min_size=1)
PAIRS = st.dictionaries(KEYS, VALUES, min_size=1, max_size=5)


@click.command(cls=KeyValueCommand, context_settings=CONTEXT_SETTINGS)
@click.option("--pack_args", multiple=True, type=KeyValue(), callback=as_dict)
@click.option("--other", default="")
@click.option("--flag", is_flag=True)
def command(pack_args: dict[str, str], other: str, flag: bool) -> None:
    click.echo(repr((pack_args, other, flag)))


@given(PAIRS, st.sampled_from(["--pack_args", "--pack-args"]), st.integers(0, 4))
def test_all_words_are_read_however_they_are_spread_over_flags(pairs: dict[str, str], flag: str, cut: int) -> None:
    words = [f"{key}={value}" for key, value in pairs.items()]
    arguments = [flag, *words[:1], "--flag", "--other", "o"]
    for part in (words[1:cut], words[max(cut, 1) :]):
        arguments += [flag, *part] if part else []
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == repr((pairs, "o", True))


def test_the_first_word_may_be_tied_to_the_flag_by_an_equal_sign() -> None:
    result = CliRunner().invoke(command, ["--pack_args=a=1", "b=2"])
    assert result.stdout.strip() == repr(({"a": "1", "b": "2"}, "", False))

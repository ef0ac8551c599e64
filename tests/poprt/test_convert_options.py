"""The table of the Converter's keywords: its parts agree, and the command has what it says."""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import Any

import click
import pytest

from passes.errors import PackingError
from passes.packing.opening.pack_args import PackArgs
from poprt.convert_options import OPTIONS, ConvertOptions, Option
from poprt.converter import Converter
from poprt_cli import convert as convert_command
from poprt_cli.main import cli
from poprt_cli.options import CONVERTER_OPTIONS, WITHOUT_EFFECT

PARAMETERS = {param.name: param for param in cli.params if isinstance(param, click.Option)}


def test_what_the_converter_acts_on_is_in_the_table() -> None:
    assert {item.name for item in fields(ConvertOptions)} - {"keyword_passes"} <= set(OPTIONS)


@pytest.mark.parametrize("option", OPTIONS.values(), ids=list(OPTIONS))
def test_a_keyword_acts_or_says_what_it_does_instead(option: Option) -> None:
    acts = option.keyword in {item.name for item in fields(ConvertOptions)}
    assert [acts, bool(option.rewrite), bool(option.no_effect)].count(True) == 1


@pytest.mark.parametrize("option", OPTIONS.values(), ids=list(OPTIONS))
def test_a_default_is_of_its_kind(option: Option) -> None:
    if option.default is not None:
        option.kind.check(option.keyword, option.default)
        assert option.kind.read(option.default) == option.default


@pytest.mark.parametrize("option", CONVERTER_OPTIONS.values(), ids=list(CONVERTER_OPTIONS))
def test_the_command_has_the_options_with_a_help_text(option: Option) -> None:
    parameter = PARAMETERS[option.parameter]
    assert parameter.opts == [option.command_flag]
    assert parameter.help == option.help


def test_the_command_announces_what_steers_only_the_ipu() -> None:
    assert set(WITHOUT_EFFECT) <= set(PARAMETERS)
    assert {name for name, option in OPTIONS.items() if option.no_effect} <= set(WITHOUT_EFFECT)


def test_the_command_hands_each_option_to_the_converter(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Without arguments each is what the Converter takes by default."""
    options: dict[str, Any] = {}

    class Stop(Exception):  # noqa: N818  (it is no error)
        pass

    def converter(**keywords: Any) -> None:
        options.update(keywords)
        raise Stop

    monkeypatch.setattr(convert_command, "Converter", converter)
    monkeypatch.setattr(convert_command, "load_model", lambda *args, **extra: None)
    words = ["-i", "model.onnx", "--output_dir", str(tmp_path), "--passes", "sort_graph", "--batch_axis", "1"]
    with cli.make_context("poprt", words) as context, pytest.raises(Stop):
        convert_command.convert(context.params)
    assert set(options) == set(CONVERTER_OPTIONS)
    assert (options.pop("used_passes"), options.pop("batch_axis")) == (["sort_graph"], 1)
    assert Converter(**options).options == Converter().options


def test_pack_args_are_read_once_and_at_once(caplog: pytest.LogCaptureFixture) -> None:
    converter = Converter(pack_args={"max_valid_num": "4", "segment_max_size": "3+5", "efficiency_priority": 1})
    assert converter.options.pack_args == PackArgs(4, (3, 5))
    assert [record.message for record in caplog.records].count(
        "pack_args efficiency_priority steers the IPU only: it has no effect here"
    ) == 1
    with pytest.raises(PackingError, match="lacks segment_max_size"):
        Converter(pack_args={"max_valid_num": 4})


def test_a_keyword_cannot_be_set_once_it_was_read() -> None:
    converter = Converter(logger=logging.getLogger("somebody's own"))
    with pytest.raises(AttributeError, match="precision"):
        converter.precision = "fp16"  # type: ignore[misc]
    assert converter.logger.name == "somebody's own"

"""The file of `poprt --config_yaml`: the options of the command line, and `model_fusion`, options of each of several.

    output_dir: out
    export_popef: true
    model_fusion:
      - input_model: first.onnx
        input_shape: ['x=1,2']
      - input_model: second.onnx
        precision: fp16

A value is brought into the words of the command line, and checked as these are. What the command line itself says comes
first, then what is said of one model, then what is said of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from poprt_cli.commands import KeyValue, as_names
from poprt_cli.config_file import by_name, read_mapping

OPTION = "config_yaml"
FUSION = "model_fusion"

#: Options of the run, not of a model.
_OF_THE_RUN = frozenset(
    {
        "compiler_options",
        "custom_pass_config",
        "custom_shape_inference",
        "export_popef",
        "list_all_passes",
        "logging_level",
        "output_dir",
        "output_model",
        "print_completion",
        "run",
        "show",
    }
)
_WORDS, _MODELS = "poprt.words", "poprt.models"  # keys of a context's ``meta``

Values = dict[str, Any]


def keep_words(ctx: click.Context, words: Sequence[str]) -> None:
    """Note the words of the command line: they are read again for each model of ``model_fusion``."""
    ctx.meta[_WORDS] = list(words)


def load_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Option callback: what the file says is the default of the other options."""
    if path is None:
        return
    params = {item.name: item for item in ctx.command.params if item.name and item.name not in (OPTION, "version")}
    spelling = {name: name for name in (*params, FUSION)}
    where = f"--{OPTION}: {str(path)!r}"
    values = by_name(where, read_mapping(f"--{OPTION}", path), spelling)
    models = _models(where, values.pop(FUSION), params) if FUSION in values else []
    of_all = {name: _as_words(where, params[name], value) for name, value in values.items()}
    ctx.default_map = {**of_all, **(ctx.obj or {})}
    ctx.meta[_MODELS] = models


def options_of_models(ctx: click.Context) -> list[Values]:
    """The options of each model of ``model_fusion``; none where the file has none, or there is no file.

    Raises:
        click.UsageError: a value is wrong, a model has no file, or the command line gives one for all.
    """
    models: list[Values] = ctx.meta.get(_MODELS, [])
    if models and ctx.get_parameter_source("input_model") is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError(f"--input_model: {FUSION} has the models; leave the option out")
    return [_options(ctx, index, values) for index, values in enumerate(models)]


def _options(ctx: click.Context, index: int, values: Values) -> Values:
    try:
        with ctx.command.make_context(ctx.info_name, list(ctx.meta[_WORDS]), obj=values) as own:
            options = dict(own.params)
    except click.UsageError as error:
        raise click.UsageError(f"{FUSION}, model {index}: {error.format_message()}") from error
    if not options["input_model"]:
        raise click.UsageError(f"{FUSION}, model {index}: has no input_model")
    return options


def _models(where: str, entries: Any, params: Mapping[str, click.Parameter]) -> list[Values]:
    if entries == []:
        raise click.UsageError(f"{where}: {FUSION} has no models; list some, or leave it out and say input_model")
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise click.UsageError(f"{where}: {FUSION} is a list of models, each with keys such as `input_model: m.onnx`")
    of_models = {name: name for name in params if name not in _OF_THE_RUN}
    models = []
    for index, entry in enumerate(entries):
        place = f"{where}: {FUSION}, model {index}"
        of_run = [key for key in entry if str(key).replace("-", "_") in _OF_THE_RUN]
        if of_run:
            raise click.UsageError(f"{place}: {of_run[0]!r} is for all models; put it beside {FUSION}")
        values = by_name(place, entry, of_models)
        models.append({name: _as_words(place, params[name], value) for name, value in values.items()})
    return models


def _as_words(where: str, param: click.Parameter, value: Any) -> Any:
    """A value as the command line would have it.

    Example: ``{x: [1, 2]}`` and ``['x=1,2']`` of a KEY=VALUE option are the word ``x=1,2``.
    """
    if getattr(param, "is_flag", False):
        if isinstance(value, bool):
            return value
        raise click.UsageError(f"{where}: {param.name} is true or false, not {value!r}")
    if param.multiple:
        if isinstance(value, Mapping) and isinstance(param.type, KeyValue):
            return [f"{key}={_joined(item)}" for key, item in value.items()]
        return [str(item) for item in value] if isinstance(value, list) else str(value).split()
    if isinstance(value, list) and param.callback is as_names:
        return _joined(value)
    if isinstance(value, (list, Mapping)):
        raise click.UsageError(f"{where}: {param.name} is one value, not {type(value).__name__}")
    return str(value)


def _joined(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)

"""The options of `poprt`, in groups. Names are those that scripts for PopRT use.

Those that the Converter knows come from its table (:mod:`poprt.convert_options`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from passes.errors import RewriteError
from poprt.convert_options import OPTIONS, Option
from poprt.option_kinds import (
    FLAG,
    FLAG_OR_TEXT,
    LIBRARIES,
    NAMES,
    NO_FP8,
    PACK_ARGS,
    PATH,
    SHAPES,
    STEPS,
    Choice,
    Kind,
    Whole,
)
from poprt_cli.commands import KeyValue, Listed, ShapeValue, as_dict, as_flag_or_text, as_names
from poprt_cli.config_yaml import OPTION, load_config

#: An option decorator, or a group of them.
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

#: The Converter's keywords that the command has: those with a help text, and those that ask for a pass.
CONVERTER_OPTIONS = {name: option for name, option in OPTIONS.items() if option.help or option.rewrite}

#: Where they stand on the help page. One that is named nowhere here comes last among the rewrites.
_SHAPES = ("input_shape", "batch_size", "batch_axis", "convert_version")
_PACKING = ("precision", "requantize", "pack_args", "pack_shared_scales", "used_passes", "skip_passes")
_ACTIONS = ("check", "skip_isolation_check", "skip_check_load", "custom_ops", "dump_passes")
_LOOKS = ("disable_progress_bar",)
_REWRITES = (
    *("checkpoints", "remove_outputs", "fp16_skip_op_types", "enable_avoid_overflow_patterns", "enable_erf_gelu"),
    *("max_tensor_size", "infer_shape_ahead"),
)
_OTHERS = tuple(name for name in CONVERTER_OPTIONS if name not in {*_SHAPES, *_PACKING, *_REWRITES, *_ACTIONS, *_LOOKS})


def _group(*decorators: Decorator) -> Decorator:
    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def _names(flag: str, text: str) -> Decorator:
    return click.option(flag, callback=as_names, metavar="A,B", help=text)


def _pairs(flag: str, kind: KeyValue, text: str) -> Decorator:
    return click.option(flag, multiple=True, type=kind, callback=as_dict, metavar=f"{kind.name}...", help=text)


def _flag(flag: str, text: str) -> Decorator:
    return click.option(flag, is_flag=True, help=text)


def _of_table(*keywords: str) -> Decorator:
    """The options of these keywords of the Converter."""
    return _group(*(_from_table(CONVERTER_OPTIONS[keyword]) for keyword in keywords))


def _from_table(option: Option) -> Decorator:
    flag, kind = option.command_flag, option.kind
    if kind is FLAG:
        return _flag(flag, option.help)
    if kind in (NAMES, STEPS):
        return _names(flag, option.help)
    if kind in (SHAPES, PACK_ARGS):
        return _pairs(flag, ShapeValue() if kind is SHAPES else KeyValue(), option.help)
    if kind is LIBRARIES:
        return click.option(flag, type=click.Path(), multiple=True, metavar="LIB", help=option.help)
    if kind is PATH:
        return click.option(flag, type=click.Path(), metavar="DIR", help=option.help)
    if kind is FLAG_OR_TEXT:
        return click.option(flag, is_flag=False, flag_value="true", callback=as_flag_or_text, help=option.help)
    shown = isinstance(kind, Choice)
    return click.option(flag, type=_type(kind), default=option.default, show_default=shown, help=option.help)


class _Word(click.Choice[str]):
    """One of the words of a kind, which says what is wrong with another."""

    def __init__(self, kind: Choice) -> None:
        super().__init__(kind.words, case_sensitive=False)
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            self._kind.check(param.name or "" if param is not None else "", value)
        except RewriteError as error:
            self.fail(str(error), param, ctx)
        word: str = self._kind.normal(value)
        return word


def _type(kind: Kind) -> Any:
    if isinstance(kind, Choice):
        return _Word(kind)
    if isinstance(kind, Whole):
        return int if kind.least is kind.most is None else click.IntRange(kind.least, kind.most)
    return str


model_options = _group(
    click.option("-i", "--input_model", type=click.Path(), help="The ONNX model."),
    click.option("--output_model", help="File name of the converted model [default: <input stem>.optimized.onnx]."),
    click.option("--output_dir", type=click.Path(), default="./", show_default=True, help="Where results go."),
    _of_table(*_SHAPES),
)

rewrite_options = _group(
    _of_table(*_PACKING),
    _names("--custom_pass_config", "Python files that register passes; imported first."),
    _names("--custom_shape_inference", "Python files that register shape functions of custom operators."),
    _of_table(*_REWRITES, *_OTHERS),
)

action_options = _group(
    click.option(
        f"--{OPTION}",
        type=click.Path(dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=load_config,
        help="YAML with the same keys, and `model_fusion`, a list of models with keys of their own, which are compiled "
        "into one executable; options here come first.",
    ),
    _flag("--list_all_passes", "Print the names of all passes and stop."),
    _flag("--show", "Print the model's inputs and outputs and stop."),
    _flag("--show_io_stat", "Print types, shapes and bytes of the converted model's inputs and outputs, and go on."),
    _of_table(*_ACTIONS),
    _flag("--run", "Run the converted model once on random data."),
    _flag("--export_popef", "Also write <output_dir>/executable.popef."),
    _pairs("--compiler_options", KeyValue(), "Fields of CompilerOptions, for --export_popef."),
    click.option(
        "--logging_level",
        type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False),
        default="INFO",
        show_default=True,
        help="The least severe messages to print, on stderr.",
    ),
    _of_table(*_LOOKS),
    click.option("--print_completion", type=click.Choice(["bash", "zsh"]), help="Print a completion script and stop."),
)

_KEY_VALUES: dict[str, Any] = {"multiple": True, "type": KeyValue(), "metavar": "KEY=VALUE..."}
_LOSSES = click.Choice(["mse", "mae", "snr", "kld", "cos_dist", "gptq"])

#: Options that go with FP8: accepted, checked for their type, announced.
FP8_OPTIONS: dict[str, dict[str, Any]] = {
    "fp8_params": {"callback": as_names, "metavar": "A,B"},
    "fp8_skip_op_names": {"callback": as_names, "metavar": "A,B"},
    "quantize": {"is_flag": True},
    "quantize_loss_type": {"type": _LOSSES},
    "calibration_with_data": {"is_flag": True},
    "calibration_loss_type": {"type": _LOSSES},
    "data_preprocess": {"type": click.Path()},
    "precision_compare": {"is_flag": True},
    "num_of_layers_keep_fp16": {"type": click.IntRange(0)},
}

#: Options that steer only an IPU: accepted, checked for their type, announced.
IPU_OPTIONS: dict[str, dict[str, Any]] = {
    "num_io_tiles": {"type": click.IntRange(0)},
    "batches_per_step": {"type": click.IntRange(1)},
    "available_memory_proportion": {"type": click.FloatRange(0, 1, min_open=True)},
    "ipu_version": {"type": click.Choice(["ipu2", "ipu21"])},
    "popart_options": _KEY_VALUES,
    "serialize_matmul": _KEY_VALUES,
    "serialize_matmul_add": _KEY_VALUES,
    "enable_insert_remap": {"is_flag": True},
    "remap_mode": {"callback": as_names, "metavar": "MODE,MODE"},
    "optimize_internal_exchange_code": {"is_flag": True},
    "custom_library_so_paths": {"multiple": True, "type": Listed(), "metavar": "LIB..."},
    "manual_sharding_config": {"type": click.Path()},
    "only_manual_sharding": {"is_flag": True},
    "disable_fast_norm": {"is_flag": True},
    "eightbitsio": {"is_flag": True},
    "perf_tuner": {"is_flag": True},
}

#: Option -> why it does nothing here.
WITHOUT_EFFECT: dict[str, str] = {
    **dict.fromkeys(IPU_OPTIONS, "it steers the IPU"),
    "perf_tuner": "it did nothing in PopRT either",
    **dict.fromkeys(FP8_OPTIONS, f"it goes with FP8, and {NO_FP8}"),
}

ipu_options = _group(
    *(click.option(f"--{name}", **settings) for name, settings in {**IPU_OPTIONS, **FP8_OPTIONS}.items())
)

"""The options of `poprt`, in groups. Names are those that scripts for PopRT use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from passes.numbers import LARGEST_EXTENT
from poprt_cli.commands import KeyValue, ShapeValue, as_dict, as_names

#: An option decorator, or a group of them.
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


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


model_options = _group(
    click.option("-i", "--input_model", type=click.Path(), help="The ONNX model."),
    click.option("--output_model", help="File name of the converted model [default: <input stem>.optimized.onnx]."),
    click.option("--output_dir", type=click.Path(), default="./", show_default=True, help="Where results go."),
    _pairs("--input_shape", ShapeValue(), "Fix variable dimensions of inputs: input_ids=16,256."),
    click.option("--batch_size", type=click.IntRange(1, LARGEST_EXTENT), help="Set the batch axis of every input."),
    click.option("--batch_axis", type=int, help="Which axis --batch_size means [default: 0]."),
    click.option("--convert_version", type=click.IntRange(1), help="Raise an older model to this opset."),
)

rewrite_options = _group(
    click.option(
        "--precision",
        type=click.Choice(["fp32", "fp16", "int8"]),
        default="fp32",
        show_default=True,
        help="Type of floats: inputs, outputs and weights in fp16; weights of products and tables alone in int8.",
    ),
    _pairs("--pack_args", KeyValue(), "Pack samples of many lengths: max_valid_num=40 segment_max_size=256."),
    _names(
        "--passes",
        "Passes to add, in order, after the default ones. insert_attention_mask (packing within rows) runs earlier.",
    ),
    _names("--skip_passes", "Passes to leave out."),
    _names("--custom_pass_config", "Python files that register passes; imported first."),
    _names("--custom_shape_inference", "Python files that register shape functions of custom operators."),
    _names("--checkpoints", "Tensors to add as outputs."),
    _names("--remove_outputs", "Outputs to drop, with what only they need."),
    _names("--fp16_skip_op_types", "Operator types that stay in fp32."),
    _flag("--enable_avoid_overflow_patterns", "Keep in fp32 what overflows in fp16."),
    _flag("--enable_erf_gelu", "Make one node of a GELU that is spelled out."),
    click.option("--max_tensor_size", type=click.IntRange(-1), default=-1, help="Largest folded constant in bytes."),
    _flag("--infer_shape_ahead", "Fix and infer shapes before folding constants."),
)

action_options = _group(
    _flag("--list_all_passes", "Print the names of all passes and stop."),
    _flag("--show", "Print the model's inputs and outputs and stop."),
    _flag("--check", "Compare the numbers of the original and the converted model."),
    _flag("--skip_isolation_check", "Do not try whether packed samples leave each other's answers alone."),
    click.option(
        "--dump_passes", type=click.Path(), metavar="DIR", help="Write the model after each pass that changed it."
    ),
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
    _flag("--disable_compilation_progress_bar", "Show no progress, also on a terminal."),
    click.option("--print_completion", type=click.Choice(["bash", "zsh"]), help="Print a completion script and stop."),
)

#: Options that steer only an IPU: accepted, checked for their type, announced.
ipu_options = _group(
    click.option("--num_io_tiles", type=click.IntRange(0)),
    click.option("--batches_per_step", type=click.IntRange(1)),
    click.option("--available_memory_proportion", type=click.FloatRange(0, 1, min_open=True)),
    click.option("--ipu_version", type=click.Choice(["ipu2", "ipu21"])),
    click.option("--popart_options", multiple=True, type=KeyValue(), metavar="KEY=VALUE..."),
    click.option("--serialize_matmul", multiple=True, type=KeyValue(), metavar="KEY=VALUE..."),
    click.option("--serialize_matmul_add", multiple=True, type=KeyValue(), metavar="KEY=VALUE..."),
    click.option("--enable_insert_remap", is_flag=True),
    click.option("--remap_mode", metavar="MODE"),
    click.option("--optimize_internal_exchange_code", is_flag=True),
    click.option("--custom_library_so_paths", metavar="A,B"),
    click.option("--manual_sharding_config", type=click.Path()),
    click.option("--only_manual_sharding", is_flag=True),
    click.option("--disable_fast_norm", is_flag=True),
)

IPU_OPTION_NAMES = (
    "num_io_tiles",
    "batches_per_step",
    "available_memory_proportion",
    "ipu_version",
    "popart_options",
    "serialize_matmul",
    "serialize_matmul_add",
    "enable_insert_remap",
    "remap_mode",
    "optimize_internal_exchange_code",
    "custom_library_so_paths",
    "manual_sharding_config",
    "only_manual_sharding",
    "disable_fast_norm",
)

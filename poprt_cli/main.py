"""The command `poprt`: convert an ONNX model."""

from __future__ import annotations

import ast
import logging
from pathlib import Path
from typing import Any

import click
import onnx
from click.shell_completion import get_completion_class

from passes import get_registered_passes
from poprt.convert_options import IPU_ONLY_PASSES
from poprt.converter import Converter
from poprt.errors import PoprtError
from poprt.verify import Verification
from poprt_cli.commands import CONTEXT_SETTINGS, KeyValueCommand
from poprt_cli.custom import import_files
from poprt_cli.logs import configure_logging
from poprt_cli.model_files import load_model, prepare_folder, save_model
from poprt_cli.options import IPU_OPTION_NAMES, action_options, ipu_options, model_options, rewrite_options
from poprt_cli.report import ModelSize, print_summary, show_inputs_and_outputs
from poprt_cli.trial import run_once

logger = logging.getLogger("poprt")

#: Options of the command that are keywords of the Converter under the same name.
_CONVERTER_KEYWORDS = (
    *("input_shape", "batch_size", "batch_axis", "convert_version", "precision", "pack_args", "skip_passes"),
    *("checkpoints", "remove_outputs", "fp16_skip_op_types", "max_tensor_size"),
    *("enable_avoid_overflow_patterns", "enable_erf_gelu"),
    *("infer_shape_ahead", "check"),
)


@click.command("poprt", cls=KeyValueCommand, context_settings=CONTEXT_SETTINGS)
@model_options
@rewrite_options
@action_options
@ipu_options
@click.version_option(None, "-v", "--version", package_name="poprt", message="%(prog)s %(version)s")
def cli(**given: Any) -> None:
    """Rewrite, pack and compile an ONNX model.

    The converted model is written to --output_dir, and a table of what was done is printed. Options without a
    description steer only an IPU: they are accepted and have no effect here.
    """
    configure_logging(given["logging_level"])
    if given["print_completion"]:
        _print_completion(given["print_completion"])
        return
    for option in ("custom_pass_config", "custom_shape_inference"):
        import_files(option, given[option])
    if given["list_all_passes"]:
        _list_passes()
        return
    for name in IPU_OPTION_NAMES:
        if given[name]:
            logger.warning("--%s has no effect here: it steers the IPU", name)
    if not given["input_model"]:
        raise click.UsageError("Missing option '-i' / '--input_model'.")
    _convert(given)


def _convert(given: dict[str, Any]) -> None:
    source, folder = Path(given["input_model"]), Path(given["output_dir"])
    original = load_model(source)
    if given["show"]:
        show_inputs_and_outputs(original)
        return
    prepare_folder(folder)
    converter = Converter(
        **{name: given[name] for name in _CONVERTER_KEYWORDS},
        used_passes=given["passes"],
        disable_progress_bar=given["disable_compilation_progress_bar"],
    )
    before = ModelSize.of(original)
    kept = given["check"] or given["run"]  # only these two still need the original
    converted = converter.convert(original) if kept else converter.convert_in_place(original)
    print_summary(before, ModelSize.of(converted), converter.records, converter.verification)
    _refuse_wrong_numbers(converter.verification)
    if given["run"]:
        run_once(original, converted)
    del original
    if given["export_popef"]:
        _export_popef(converted, folder / "executable.popef", given)
    save_model(converted, folder / (given["output_model"] or f"{source.stem}.optimized.onnx"))


def _refuse_wrong_numbers(verification: Verification | None) -> None:
    """A model that failed its check is not written: an older good one may be in its place."""
    failed = [] if verification is None else [output.name for output in verification.outputs if not output.passed]
    if failed:
        raise PoprtError(
            f"check: outputs {failed} of the converted model differ from the original's by more than the tolerance; "
            "nothing was written. With fp16, try --enable_avoid_overflow_patterns or --fp16_skip_op_types"
        )


def _export_popef(model: onnx.ModelProto, path: Path, given: dict[str, Any]) -> None:
    from poprt.compiler import Compiler, CompilerOptions

    values = {name: _literal(text) for name, text in given["compiler_options"].items()}
    values.setdefault("show_compilation_progress_bar", not given["disable_compilation_progress_bar"])
    try:
        Compiler.compile_and_export(model, None, path, CompilerOptions.from_dict(values))
    except OSError as error:
        raise PoprtError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


def _literal(text: str) -> Any:
    """A Python literal, or the bare word itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # literal_eval on odd or deep texts
        return text


def _list_passes() -> None:
    for name in get_registered_passes():
        click.echo(name)
    without_effect = sorted(IPU_ONLY_PASSES - set(get_registered_passes()))
    logger.info("accepted, and without effect here because they steer the IPU: %s", ", ".join(without_effect))


def _print_completion(shell: str) -> None:
    completion = get_completion_class(shell)
    assert completion is not None, f"click knows no shell {shell}"
    click.echo(completion(cli, {}, "poprt", "_POPRT_COMPLETE").source())


def main() -> None:
    """Run the command and exit."""
    cli(prog_name="poprt")


if __name__ == "__main__":
    main()

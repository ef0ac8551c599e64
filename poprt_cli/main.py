"""The command `poprt`: convert an ONNX model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from passes import get_registered_passes
from poprt.convert_options import IPU_ONLY_PASSES
from poprt.converter import Converter
from poprt.errors import PoprtError
from poprt.verify import Verification
from poprt_cli.commands import CONTEXT_SETTINGS, KeyValueCommand
from poprt_cli.custom import import_files
from poprt_cli.export import PopefExporter
from poprt_cli.logs import configure_logging
from poprt_cli.model_files import load_model, save_model
from poprt_cli.options import IPU_OPTION_NAMES, action_options, ipu_options, model_options, rewrite_options
from poprt_cli.outputs import Outputs
from poprt_cli.report import ModelSize, print_summary, show_inputs_and_outputs
from poprt_cli.trial import run_once

logger = logging.getLogger("poprt")

#: Options of the command that are keywords of the Converter under the same name.
_CONVERTER_KEYWORDS = (
    *("input_shape", "batch_size", "batch_axis", "convert_version", "precision", "pack_args", "skip_passes"),
    *("checkpoints", "remove_outputs", "fp16_skip_op_types", "max_tensor_size"),
    *("enable_avoid_overflow_patterns", "enable_erf_gelu"),
    *("infer_shape_ahead", "check", "skip_isolation_check"),
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
    source, outputs = Path(given["input_model"]), Outputs.of(given)
    if given["show"]:
        show_inputs_and_outputs(load_model(source))
        return
    outputs.check_names(source)
    original = load_model(source, outputs=outputs.by_option)
    outputs.prepare()
    converter = Converter(
        **{name: given[name] for name in _CONVERTER_KEYWORDS},
        used_passes=given["passes"],
        disable_progress_bar=given["disable_compilation_progress_bar"],
    )
    before = ModelSize.of(original)
    exporter = PopefExporter(given["compiler_options"], not given["disable_compilation_progress_bar"])
    compile_model = exporter.compile if given["export_popef"] else None
    originals = [original]  # a list, so that nothing here keeps alive what is converted in place
    del original
    kept = given["check"] or given["run"]  # only these two still need the original
    converted = (
        converter.convert(originals[0], compile_model=compile_model)
        if kept
        else converter.convert_in_place(originals.pop(), compile_model=compile_model)
    )
    summary = before, ModelSize.of(converted), converter.records, converter.isolation, converter.verification
    if converter.verification is not None and not converter.verification.passed:
        try:
            print_summary(*summary)
        finally:
            _refuse_wrong_numbers(converter.verification)
    if given["run"]:
        run_once(originals[0], converted)
    originals.clear()
    if outputs.executable is not None:
        exporter.export(converted, outputs.executable)
    save_model(converted, outputs.model)
    print_summary(*summary)  # last: where it cannot be printed, the files are there


def _refuse_wrong_numbers(verification: Verification) -> None:
    """A model that failed its check is not written: an older good one may be in its place."""
    failed = [output.name for output in verification.outputs if not output.passed]
    raise PoprtError(
        f"check: outputs {failed} of the converted model differ from the original's by more than the tolerance; "
        "nothing was written. With fp16, try --enable_avoid_overflow_patterns or --fp16_skip_op_types"
    )


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

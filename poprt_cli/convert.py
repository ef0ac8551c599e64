"""What `poprt` does with a model: load, convert, try, write, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import onnx

from poprt.converter import Converter
from poprt.engine.custom_ops import custom_ops
from poprt.errors import PoprtError
from poprt.fused_names import prefix_of
from poprt.fusion import MFConverter
from poprt.isolation import Compile
from poprt.verify import Verification
from poprt_cli.export import PopefExporter
from poprt_cli.model_files import load_model, save_model
from poprt_cli.options import CONVERTER_OPTIONS
from poprt_cli.other_ways import advise
from poprt_cli.outputs import Outputs
from poprt_cli.report import ModelSize, print_summary, show_inputs_and_outputs, show_io_stat
from poprt_cli.trial import run_once

#: What several models are called when they are one.
_FUSED = "model_fusion.onnx"


def convert(options: dict[str, Any]) -> None:
    """Do what the options ask for.

    Args:
        options: option -> value, as the command line gave them.

    Raises:
        PoprtError: the model, an option or a file makes it impossible; nothing was written.
    """
    source, outputs = Path(options["input_model"]), Outputs.of(options)
    if options["show"]:
        show_inputs_and_outputs(load_model(source))
        return
    outputs.check_names(source)
    original = load_model(source, outputs=outputs.by_option)
    originals = [original]  # a list, so that nothing here keeps alive what is converted in place
    del original
    with outputs.prepared():
        converter = Converter(**_converter_options(options))
        with custom_ops(converter.options.custom_ops):
            _convert(options, converter, originals, outputs)


def _convert(options: dict[str, Any], converter: Converter, originals: list[onnx.ModelProto], outputs: Outputs) -> None:
    """Convert the one model in ``originals``, which is empty afterwards; try, write and report what came of it."""
    exporter = _exporter(options)
    converted, sizes = _converted(options, converter, originals, exporter.compile)
    if options["run"]:
        run_once(originals[0], converted, exporter.executable_of(converted))
    originals.clear()
    executable = exporter.export(converted, outputs.executable) if outputs.executable is not None else None
    save_model(converted, outputs.model)
    # last: where it cannot be printed, the files are there
    print_summary(*sizes, converter, executable.manifest if executable is not None else None)


def convert_and_fuse(models: list[dict[str, Any]], options: dict[str, Any]) -> None:
    """Convert several models, each by its own options, and fuse them into one.

    Args:
        models: the options of each.
        options: those of the run: what is shown, run, written and where.

    Raises:
        PoprtError: as for :func:`convert`.
    """
    outputs = Outputs.of({**options, "output_model": options["output_model"] or _FUSED})
    sources = [Path(own["input_model"]) for own in models]
    if options["show"]:
        for index, source in enumerate(sources):
            show_inputs_and_outputs(load_model(source), prefix_of(index))
        return
    for source in sources:
        outputs.check_names(source)
    with outputs.prepared(), custom_ops([library for own in models for library in own["custom_ops"]]):
        originals = [load_model(source, outputs=outputs.by_option) for source in sources]
        _fuse(models, options, originals, outputs)


def _fuse(
    models: list[dict[str, Any]], options: dict[str, Any], originals: list[onnx.ModelProto], outputs: Outputs
) -> None:
    reports, all_converted = [], []
    for own, original in zip(models, originals, strict=True):
        converter = Converter(**_converter_options(own))
        converted, sizes = _converted({**own, "run": True}, converter, [original])  # True: the original is kept
        all_converted.append(converted)
        reports.append((*sizes, converter))
    fused = MFConverter().convert(all_converted)
    exporter = _exporter(options)
    if options["run"]:
        for parts in zip(originals, all_converted, exporter.executable_of(fused).models, strict=True):
            run_once(*parts)
    if outputs.executable is not None:
        exporter.export(fused, outputs.executable)
    save_model(fused, outputs.model)
    for index, (report, own) in enumerate(zip(reports, models, strict=True)):
        click.echo(f"model {index}: {own['input_model']}")
        print_summary(*report)


def _exporter(options: dict[str, Any]) -> PopefExporter:
    return PopefExporter(options["compiler_options"], not options["disable_compilation_progress_bar"])


def _converted(
    options: dict[str, Any],
    converter: Converter,
    originals: list[onnx.ModelProto],
    compile_model: Compile | None = None,
) -> tuple[onnx.ModelProto, tuple[ModelSize, ModelSize]]:
    """Convert the one model in ``originals``, which is empty afterwards unless it is still of use.

    Args:
        compile_model: keeps what the trial of a packed model compiles, where that is exported or run.

    Returns:
        The converted model, and the sizes before and after.

    Raises:
        PoprtError: it failed its check; the report is printed.
    """
    before = ModelSize.of(originals[0])
    if not options["export_popef"] and not options["run"]:
        compile_model = None
    kept = options["check"] or options["run"]  # only these two still need the original
    converted = (
        converter.convert(originals[0], compile_model=compile_model)
        if kept
        else converter.convert_in_place(originals.pop(), compile_model=compile_model)
    )
    sizes = before, ModelSize.of(converted)
    if converter.verification is not None and not converter.verification.passed:
        try:
            print_summary(*sizes, converter)
        finally:
            _refuse_wrong_numbers(converter.verification, advise(_converter_options(options), originals[0]))
    if options["show_io_stat"]:
        show_io_stat(converted)
    return converted, sizes


def _converter_options(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[option.parameter] for name, option in CONVERTER_OPTIONS.items()}


def _refuse_wrong_numbers(verification: Verification, advice: str) -> None:
    """A model that failed its check is not written: an older good one may be in its place."""
    failed = [output.name for output in verification.outputs if not output.passed]
    raise PoprtError(
        f"check: outputs {failed} of the converted model differ from the original's by more than the tolerance; "
        f"nothing was written{advice}"
    )

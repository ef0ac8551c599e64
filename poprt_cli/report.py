"""What the commands print on stdout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import click
import onnx
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from passes import PassRecord
from passes.graph_io import import_graph
from passes.node_protos import opset_of
from passes.precision.float_to_bfloat16 import LEAST_ELEMENTS, WEIGHTS
from passes.precision.float_to_int8 import KINDS, PRODUCTS, TABLES
from passes.precision.lift_dynamic_int8 import LIFTED
from passes.reports.model_io_info_stat import ModelIoInfoStat
from poprt.converter import Converter
from poprt.isolation import IsolationTrial
from poprt.manifest import Manifest
from poprt.sample_data import InputInfo, element_type, tensor_shape
from poprt.sizes import weight_bytes
from poprt.verify import Verification

_MOST_REASONS = 12
#: Passes whose figures and refusals are printed: how a figure's line starts, and a refusal's.
_DETAILED = {
    "packed_transformer": ("packing", "unpacked"),
    "float_to_int8": ("int8", "float32"),
    "float_to_half": ("fp16", "float32"),
    "lift_dynamic_int8": ("requantize", "as it was"),
    "lower_dynamic_int8": ("requantize", "float32"),
}


@dataclass(frozen=True)
class ModelSize:
    """A model in figures: nodes of the main graph, bytes of weights, and the opset of the default domain."""

    nodes: int
    nbytes: int
    opset: int

    @classmethod
    def of(cls, model: onnx.ModelProto) -> ModelSize:
        """Measure ``model``."""
        return cls(len(model.graph.node), weight_bytes(model), opset_of(model))


def show_inputs_and_outputs(model: onnx.ModelProto, prefix: str = "") -> None:
    """Print one line an input, then one an output, ``prefix`` before names; extents that are not known print 0."""
    weights = {tensor.name for tensor in model.graph.initializer}
    groups = (
        ("Input", [value for value in model.graph.input if value.name not in weights]),
        ("Output", model.graph.output),
    )
    for kind, values in groups:
        for value in values:
            extents = [extent if isinstance(extent, int) else 0 for extent in tensor_shape(value)]
            no_rank = value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")
            shape = "of any rank" if no_rank else extents
            click.echo(f"{kind} {prefix}{value.name}: dtype - {_type_name(value)}, shape - {shape}")


def show_io_stat(model: onnx.ModelProto) -> None:
    """Print type, shape and bytes of each input and output, and the bytes of all."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    nodes_aside = onnx.helper.make_graph([], "io", inputs, list(model.graph.output))
    ModelIoInfoStat().apply(import_graph(onnx.helper.make_model(nodes_aside, opset_imports=model.opset_import)))


def _type_name(value: onnx.ValueInfoProto) -> str:
    """The type of a tensor's elements; of anything else what it is ("sequence")."""
    form = value.type.WhichOneof("value")
    if form == "tensor_type":
        return str(element_type(value))
    return "unknown" if form is None else str(form).removesuffix("_type")


def print_summary(before: ModelSize, after: ModelSize, converter: Converter, manifest: Manifest | None = None) -> None:
    """Print the one table at the end: the model before and after, the passes, packing, and the numeric checks.

    Args:
        before, after: the sizes of the model.
        converter: what it did, found and tried last.
        manifest: that of the executable, where there is one.
    """
    records = converter.records
    table = Table("step", "result", "nodes", "seconds", box=box.SIMPLE_HEAD)
    table.columns[2].justify = table.columns[3].justify = "right"
    for column in table.columns:
        column.overflow = "fold"  # an ellipsis loses the end of a name, and an ASCII terminal has none
    table.add_row("before", f"opset {before.opset}, {_bytes(before.nbytes)} of weights", str(before.nodes), "")
    table.add_section()
    for record in records:
        table.add_row(record.name, _done(record), _change(record), f"{record.seconds:.3f}")
    table.add_section()
    _add_details(table, records)
    _add_sample_data(table, converter.sample_inputs)
    _add_shared_scales(table, converter.shared_scales)
    _add_isolation(table, converter.isolation)
    _add_check(table, converter.verification)
    _add_executable(table, manifest)
    table.add_row("after", f"opset {after.opset}, {_bytes(after.nbytes)} of weights", str(after.nodes), "")
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a file has no width; do not fold its lines
    console.print(table)
    _say_where_int8_did_nothing(records)
    _say_where_bf16_did_nothing(records)
    _say_where_nothing_was_requantised(records)


def _say_where_bf16_did_nothing(records: Sequence[PassRecord]) -> None:
    """One last line where bf16 was asked for and no weight was stored in it."""
    asked = [record.result for record in records if record.name == "float_to_bfloat16"]
    if asked and not any(WEIGHTS in result.counts for result in asked):
        click.echo(f"bf16: no weight was stored in bfloat16; matrices of {LEAST_ELEMENTS} elements and more are")


def _say_where_int8_did_nothing(records: Sequence[PassRecord]) -> None:
    """One last line where int8 was asked for and no product was quantised: the exit status does not tell."""
    asked = [record.result for record in records if record.name == "float_to_int8"]
    if asked and not any(PRODUCTS in result.counts for result in asked):
        kinds = asked[0].details.get(KINDS, "not counted")  # a quantiser of the user's own may count nothing
        tables = sum(result.counts.get(TABLES, 0) for result in asked)
        done = f"table lookups quantised: {tables}; no product was quantised" if tables else "no product was quantised"
        click.echo(f"int8: {done}; products by constant matrices: {kinds}")


def _say_where_nothing_was_requantised(records: Sequence[PassRecord]) -> None:
    """One last line where a scale a token was asked for and there was no scale a tensor to replace."""
    asked = [record.result for record in records if record.name == "lift_dynamic_int8"]
    if asked and not any(LIFTED in result.counts for result in asked):
        click.echo("requantize: no product is quantised with a scale a tensor as it runs; nothing was requantised")


def _done(record: PassRecord) -> str:
    counts = ", ".join(f"{what}: {number}" for what, number in record.result.counts.items())
    return escape(counts) if counts else "-"


def _change(record: PassRecord) -> str:
    if record.nodes_before == record.nodes_after:
        return str(record.nodes_after)
    return f"{record.nodes_before} -> {record.nodes_after}"


def _bytes(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 100_000 else f"{number / 1e3:.1f} kB"


def _add_details(table: Table, records: Sequence[PassRecord]) -> None:
    """The figures and reasons of the passes in :data:`_DETAILED`."""
    for record in records:
        if record.name not in _DETAILED or not (record.result.details or record.result.refusals):
            continue
        title, refused = _DETAILED[record.name]
        for what, figure in record.result.details.items():
            share = isinstance(figure, float) and "share" in what
            table.add_row(title, escape(f"{what}: {f'{figure:.1%}' if share else figure}"), "", "")
        refusals = record.result.refusals
        for refusal in refusals[:_MOST_REASONS]:
            table.add_row(refused, escape(str(refusal)), "", "")
        if len(refusals) > _MOST_REASONS:
            table.add_row(refused, f"and {len(refusals) - _MOST_REASONS} more nodes", "", "")
        table.add_section()


def _add_sample_data(table: Table, inputs: Sequence[InputInfo]) -> None:
    """What each input was fed, and how that is known. Plain numbers are the rule and not listed."""
    guessed = [info for info in inputs if info.kind != "numbers"]
    for info in guessed[:_MOST_REASONS]:
        table.add_row("sample data", escape(str(info)), "", "")
    if len(guessed) > _MOST_REASONS:
        table.add_row("sample data", f"and {len(guessed) - _MOST_REASONS} more inputs", "", "")
    if guessed:
        table.add_section()


def _add_shared_scales(table: Table, nodes: Sequence[str]) -> None:
    """Which nodes let the samples of a run have a say in each other's answers."""
    for node in nodes[:_MOST_REASONS]:
        table.add_row("company", escape(f"{node}: one scale for all samples of a run"), "", "")
    if len(nodes) > _MOST_REASONS:
        table.add_row("company", f"and {len(nodes) - _MOST_REASONS} more nodes", "", "")
    table.add_section()


def _add_isolation(table: Table, trial: IsolationTrial | None) -> None:
    """What was tried with samples that share a run, and how far an answer moved."""
    if trial is None:
        return
    for finding in trial.findings:
        passed = "pass" if finding.passed else "FAIL"
        moved = f"moved by {finding.difference:.2g}, tolerance {finding.tolerance:.2g}"
        table.add_row("isolation", escape(f"{finding.experiment}: {passed}, {moved}"), "", "")
    if trial.not_tried:
        table.add_row("isolation", escape(f"not tried: {trial.not_tried}"), "", "")
    if trial.fell_back:
        table.add_row("isolation", f"samples that may share a run now: {trial.neighbours}", "", "")
    table.add_section()


def _add_executable(table: Table, manifest: Manifest | None) -> None:
    """Whether the executable takes any number of rows at their own price."""
    if manifest is None or manifest.packing is not None:
        return
    if manifest.batch_axes:
        table.add_row("executable", "batch size: any", "", "")
    elif manifest.batch_held:
        reason = f"batch size: as declared, smaller ones are padded. {manifest.batch_held}"
        table.add_row("executable", escape(reason), "", "")
    table.add_section()


def _add_check(table: Table, verification: Verification | None) -> None:
    if verification is None:
        return
    for output in verification.outputs:
        if output.not_comparable:
            table.add_row("check", escape(f"{output.name}: not comparable, {output.not_comparable}"), "", "")
            continue
        served = "" if output.served_abs_diff is None else f" (as served {output.served_abs_diff:.3g})"
        figures = (
            f"{output.name}: {'pass' if output.passed else 'FAIL'}, max abs diff {output.max_abs_diff:.3g}{served}, "
            f"mean {output.mean_abs_diff:.3g}, tolerance {output.tolerance:.3g}; "
            f"onnxruntime's optimiser moves the original by {output.optimiser_abs_diff:.3g}"
        )
        table.add_row("check", escape(figures), "", "")
    table.add_section()

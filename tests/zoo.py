"""Packs every encoder of the export zoo in both layouts and prints what came of it: ``python -m tests.zoo``.

Each model goes the whole way: converted, compiled, run through the pack runner; every answer is compared with the
unpadded run of the export, alone, in onnxruntime with its optimiser off.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from passes.errors import RewriteError
from passes.packed_model import PackedModel
from poprt import runtime
from poprt.compiler import Compiler
from poprt.converter import Converter
from tests import numerics
from tests.exports import EXPORTERS, FAMILIES, OPSETS, export

ROWS, COLUMNS, SAMPLES = 4, 32, 8
LENGTHS = (5, 32, 1, 17, 9, 3, 20, 2)
LAYOUTS = ("across_rows", "within_rows")
_FIRST_WITH_SDPA = 14


@dataclass(frozen=True)
class Packed:
    """What packing one export in one layout gave.

    Attributes:
        share: packed share of the FLOPs.
        unpacks, repacks: crossings in the converted model.
        neighbours: which samples may share a run.
        difference: largest difference from the unpadded runs, over all samples and outputs.
        refused: why the model was refused; "" where it was not, and then the figures hold.
    """

    share: float = 0.0
    unpacks: int = 0
    repacks: int = 0
    neighbours: str = ""
    difference: float = 0.0
    refused: str = ""


def pack(path: Path, layout: str, precision: str = "fp32") -> Packed:
    """Convert, compile and run the export at ``path``."""
    model = onnx.load(str(path))
    shapes = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    converter = Converter(
        input_shape=shapes,
        precision=precision,
        pack_args={"max_valid_num": SAMPLES, "segment_max_size": COLUMNS},
        used_passes=["insert_attention_mask"] if layout == "within_rows" else [],
        disable_progress_bar=True,
    )
    try:
        converted = converter.convert(model)
    except RewriteError as error:
        return Packed(refused=str(error))
    ops = [node.op_type for node in converted.graph.node]
    packed = PackedModel.read(converted)
    assert packed is not None
    details = {key: value for record in converter.records for key, value in record.result.details.items()}
    return Packed(
        share=details["packed share of FLOPs"],
        unpacks=ops.count("Unpack"),
        repacks=ops.count("Repack"),
        neighbours=packed.neighbours,
        difference=_difference(model, converted),
    )


def _difference(model: onnx.ModelProto, converted: onnx.ModelProto) -> float:
    samples = numerics.random_samples(LENGTHS)
    expected = numerics.one_by_one(model, samples)
    inputs = {value.name for value in model.graph.input}
    with runtime.Runner(Compiler.compile(converted, None), runtime.PackRunnerConfig(token_budget=0)) as runner:
        pending = []
        for sample, answer in zip(samples, expected, strict=True):
            buffers = {name: np.zeros(array.shape, np.float32) for name, array in answer.items()}
            feeds = {name: array for name, array in sample.items() if name in inputs}
            pending.append((runner.execute_async(feeds, buffers), buffers, answer))
        worst = 0.0
        for future, buffers, answer in pending:
            future.wait()
            worst = max(worst, *(float(np.abs(buffers[name] - answer[name]).max()) for name in answer))
    return worst


def _rows(families: list[str], opsets: list[int | None], folder: Path) -> Iterator[list[str]]:
    for family in families:
        row = FAMILIES[family]
        for exporter in row.exporters:
            for opset in opsets:
                if opset is None or opset in OPSETS[exporter]:
                    yield from _of_export(family, exporter, opset, folder)


def _of_export(family: str, exporter: str, opset: int | None, folder: Path) -> Iterator[list[str]]:
    name = f"{exporter} {opset or ''}".rstrip()
    try:
        path = export(family, "hidden", exporter, attention_at(family, opset), opset=opset, folder=folder)
        numerics.session(onnx.load(str(path)))
    except Exception as error:  # the exporter's, of whatever type, or the engine's
        yield [family, name, f"no export that onnxruntime loads: {str(error).splitlines()[0][:60]}"]
        return
    for layout in LAYOUTS:
        yield [family, name, *_cells(path, layout)]


def attention_at(family: str, opset: int | None) -> str:
    """The form of attention to export: fused, where the family has that and the opset has a place for it."""
    forms = FAMILIES[family].attention
    return forms[-1] if opset is None or opset >= _FIRST_WITH_SDPA else forms[0]


def _cells(path: Path, layout: str) -> list[str]:
    full = pack(path, layout)
    if full.refused:
        return [layout, "", "", "", "", "", "", full.refused[:160]]
    half = pack(path, layout, "fp16")
    crossings = [str(full.unpacks), str(full.repacks), full.neighbours]
    return [layout, f"{full.share:.1%}", *crossings, f"{full.difference:.1e}", f"{half.difference:.1e}", ""]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("families", nargs="*", help=f"some of {', '.join(FAMILIES)}; default: all")
    parser.add_argument(
        "--opsets", nargs="*", type=int, help="export at each of these, where the exporter can; default: its own"
    )
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    console = Console(width=None if sys.stdout.isatty() else 200)  # a file has no width; do not cut its lines
    table = Table(
        "family",
        "exporter",
        "layout",
        "packed FLOPs",
        "Unpacks",
        "Repacks",
        "share a run",
        "fp32",
        "fp16",
        "refused because",
    )
    with tempfile.TemporaryDirectory() as folder:
        for cells in _rows(arguments.families or list(FAMILIES), arguments.opsets or [None], Path(folder)):
            console.print(" ".join(cells[:3]), style="dim", highlight=False)
            table.add_row(*cells)
    console.print(f"{len(EXPORTERS)} exporters; fp32, fp16: largest difference from the unpadded run, alone")
    console.print(table)


if __name__ == "__main__":
    main()

"""A compiled graph of fixed extents, made to run on fewer rows and columns where nothing inside insists on its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from poprt.executable import Executable, PackingSpec

#: Rows to try, and columns for each segment of a sample.
_ROWS, _COLUMNS = 2, 25


def extents_to_try(packing: PackingSpec) -> list[PackingSpec]:
    """Extents to run a packed model at, the cheapest first, the declared ones last."""
    columns = packing.columns or sum(packing.segment_max_size)
    declared = replace(packing, rows=packing.rows or _ROWS, columns=columns)
    if packing.ragged:  # it takes any number of tokens
        return [declared]
    fewer_rows = replace(declared, rows=min(_ROWS, declared.rows))
    small = replace(fewer_rows, columns=min(_COLUMNS * len(packing.segment_max_size), columns))
    return list({(item.rows, item.columns): item for item in (small, fewer_rows, declared)}.values())


def resized(executable: Executable, smaller: PackingSpec) -> Executable:
    """``executable`` for the rows and columns of ``smaller``; its weights are shared, not copied.

    Only what says the extents openly is changed: the inputs, and constant targets of Reshape and Expand. A graph that
    holds them in other constants is refused by the engine when it runs.
    """
    packing = executable.packing
    if packing is None or packing.ragged or (packing.rows, packing.columns) == (smaller.rows, smaller.columns):
        return executable
    model = onnx.load_model_from_string(executable.graph)
    for value in model.graph.input:
        if value.name in packing.dynamic_inputs:
            for dim in list(value.type.tensor_type.shape.dim)[:2]:
                dim.Clear()
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    _resize_targets(model.graph, packing, smaller)
    return executable.variant(graph=model.SerializeToString(deterministic=True))


def _resize_targets(graph: onnx.GraphProto, packing: PackingSpec, smaller: PackingSpec) -> None:
    constants = dict(_small_constants(graph))
    for node in graph.node:
        if node.op_type in ("Reshape", "Expand") and len(node.input) > 1 and node.input[1] in constants:
            target = numpy_helper.to_array(constants[node.input[1]])
            changed = _resized_target(target.tolist(), packing, smaller)
            name = f"{node.input[1]}_resized"
            if changed == target.tolist():
                continue
            if name not in constants:
                graph.initializer.append(numpy_helper.from_array(np.array(changed, target.dtype), name))
                constants[name] = graph.initializer[-1]
            node.input[1] = name


def _small_constants(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in graph.initializer:
        if len(tensor.dims) == 1 and tensor.data_location != onnx.TensorProto.EXTERNAL:
            yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t") and len(node.attribute[0].t.dims) == 1:
            yield node.output[0], node.attribute[0].t


def _resized_target(target: Sequence[int], packing: PackingSpec, smaller: PackingSpec) -> list[int]:
    """``target`` with the smaller extents where it starts with the declared ones, as [R, C, ...] or [n * R, ...]."""
    entries = list(target)
    rows, columns = packing.rows or smaller.rows, packing.columns or smaller.columns
    if len(entries) > 1 and entries[0] in (rows, 0, -1) and entries[1] == columns:
        entries[1] = smaller.columns
    if entries and entries[0] == rows * columns:
        entries[0] = smaller.rows * smaller.columns
    elif entries and entries[0] > 0 and entries[0] % rows == 0:
        entries[0] = entries[0] // rows * smaller.rows
    return entries

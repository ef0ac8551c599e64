"""What to measure on: few tokens, where the model computes the same whatever its declared extents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.graph_io import signature
from passes.packed_model import PackedModel
from passes.precision.names import tensor_names, unique_name

_ROWS, _COLUMNS, _SAMPLES = 2, 64, 8  # of a packed model
_BATCH = 2  # of another one


@dataclass(frozen=True)
class Extents:
    """Extents to measure a model at.

    Attributes:
        signature: a model that holds the inputs, with these extents, and the metadata.
        batch: the declared batch and the one to use; None where nothing inside the graph says the declared one.
    """

    signature: onnx.ModelProto
    batch: tuple[int, int] | None = None

    def graph(self, graph: gs.Graph) -> gs.Graph:
        """``graph`` for these extents: itself, or a copy in which constant shapes have the other batch."""
        if self.batch is None:
            return graph
        declared, batch = self.batch
        resized = graph.copy()
        taken = tensor_names(resized)
        for node in resized.nodes:
            target = node.inputs[1] if node.op in ("Reshape", "Expand") and len(node.inputs) > 1 else None
            if not isinstance(target, gs.Constant) or target.values.size == 0:
                continue
            first = int(target.values[0])
            if first == declared or (node.op == "Reshape" and first > 0 and first % declared == 0):
                values = np.array([first // declared * batch, *target.values[1:]], np.int64)
                node.inputs[1] = gs.Constant(unique_name(target.name, taken), values)
        return resized


def extents_to_try(graph: gs.Graph) -> list[Extents]:
    """Extents for ``graph``, the cheapest first, the declared ones last. The cheaper ones may turn out impossible."""
    declared = signature(graph)
    packed = PackedModel.read(declared)
    if packed is None:
        return [*_smaller_batch(declared), Extents(declared)]
    if packed.within_rows or not packed.shape_agnostic:
        return [Extents(declared)]
    return [Extents(_small_pack(declared, packed)), Extents(declared)]


def _smaller_batch(declared: onnx.ModelProto) -> list[Extents]:
    """Fewer samples, where all inputs agree on the number of them along their first axis."""
    shapes = [value.type.tensor_type.shape.dim for value in declared.graph.input]
    batches = {dims[0].dim_value if dims else 0 for dims in shapes}
    batch = batches.pop() if len(batches) == 1 else 0
    if batch <= _BATCH:
        return []
    return [Extents(_resized(declared, {name: [_BATCH] for name in _names(declared)}), (batch, _BATCH))]


def _small_pack(declared: onnx.ModelProto, packed: PackedModel) -> onnx.ModelProto:
    """A packed model that says it takes a small pack of short samples."""
    segments = packed.segment_max_size
    sizes = tuple(min(size, max(1, _COLUMNS // len(segments))) for size in segments)
    samples = min(packed.max_valid_num, _SAMPLES)
    extents: dict[str, Sequence[int]] = {
        name: [_ROWS, sum(sizes)] if name in packed.dynamic_inputs else [samples] for name in _names(declared)
    }
    extents |= {name: [] for name in packed.run_inputs}
    for value in declared.graph.input:
        if value.name in packed.pair_inputs:
            shape = [samples, *(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])]
            extents[value.name] = packed.pair_shape(value.name, shape, sum(sizes))
    small = _resized(declared, extents)
    replace(packed, rows=_ROWS, columns=sum(sizes), segment_max_size=sizes, max_valid_num=samples).write(small)
    return small


def _names(model: onnx.ModelProto) -> list[str]:
    return [value.name for value in model.graph.input]


def _resized(declared: onnx.ModelProto, extents: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """A copy whose inputs have ``extents`` along their first axes."""
    resized = onnx.ModelProto()
    resized.CopyFrom(declared)
    for value in resized.graph.input:
        for dim, extent in zip(value.type.tensor_type.shape.dim, extents[value.name], strict=False):
            dim.dim_value = extent
    return resized

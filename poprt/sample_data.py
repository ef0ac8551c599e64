"""Random input data that means something to the model: ids within the vocabulary, masks of 0 and 1."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from passes.extents import declared_extent
from passes.operators import Family, members
from poprt.errors import PoprtError

Array = npt.NDArray[Any]

#: Operators that hand an index on to a Gather without changing its value.
_PASSING = members(Family.ORDER, Family.AXES) | {"Cast", "Expand", "Slice"}
#: Common vocabularies keep padding and other marks in their first places; a real token is none of them.
_SPECIAL_IDS = 5
#: Values of a string input.
_WORDS = ("a", "text", "of", "words")
#: The most elements of one input; a serving batch has thousands of times fewer.
_MOST_ELEMENTS = 1 << 27
_ELEMENT_TYPES = frozenset(onnx.helper.get_all_tensor_dtypes())


@dataclass(frozen=True)
class InputInfo:
    """A model input.

    Attributes:
        shape: extents; a name or None where the model leaves one open.
        kind: "ids" (0 <= value < rows), "positions", "mask" (0 or 1) or "numbers" (normal).
        rows: for ids, the rows of the smallest table that the input indexes.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]
    kind: str
    rows: int = 0

    def concrete(self, sizes: Mapping[str, int] | None = None) -> tuple[int, ...]:
        """The shape, open extents filled in: by name from ``sizes``, else 2 for the first axis and 16 for others."""
        sizes = sizes or {}
        return tuple(
            extent if isinstance(extent, int) else sizes.get(extent or "", 2 if axis == 0 else 16)
            for axis, extent in enumerate(self.shape)
        )


def model_inputs(model: onnx.ModelProto) -> list[InputInfo]:
    """The inputs that a caller has to feed, and what values mean something to each."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    try:
        tables = _indexed_tables(model, weights)
    except IndexError:  # nodes without inputs, axes beyond the rank: the model is not valid, and its reader will say so
        tables = {}
    infos = []
    for value in model.graph.input:
        if value.name in weights:
            continue
        dtype = element_type(value)
        rows = min(tables.get(value.name, [0]))
        infos.append(InputInfo(value.name, dtype, tensor_shape(value), _kind(value.name, dtype, rows), rows))
    return infos


def element_type(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    """numpy's type of an input or output.

    Raises:
        PoprtError: it is no tensor, or its type is not said or unknown.
    """
    form = value.type.WhichOneof("value") or "tensor_type"
    if form != "tensor_type":
        raise PoprtError(
            f"{value.name!r} is no tensor but of the kind {form.removesuffix('_type')}, and sample data are made of "
            "tensors alone; leave out what runs the model (check, run, int8)"
        )
    number = value.type.tensor_type.elem_type
    if not value.type.HasField("tensor_type") or number not in _ELEMENT_TYPES:
        raise PoprtError(f"{value.name!r} is no tensor of a known type (element type {number}); export the model again")
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(number))


def tensor_shape(value: onnx.ValueInfoProto) -> tuple[int | str | None, ...]:
    """Declared extents: a number, the extent's name, or None where it is open and unnamed."""
    return tuple(declared_extent(dim) for dim in value.type.tensor_type.shape.dim)


def random_array(info: InputInfo, shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Values for ``info`` in ``shape``. A mask is 1 up to a random length along its last axis, then 0."""
    shape = tuple(shape)
    check_size(info.name, shape)
    if info.dtype == object:
        return np.asarray(rng.choice(np.array(_WORDS, object), size=shape), object)
    if info.kind == "mask":
        if not shape:
            return np.ones(shape, info.dtype)
        lengths = rng.integers(1, shape[-1] + 1, size=(*shape[:-1], 1)) if shape[-1] else np.zeros((*shape[:-1], 1))
        return np.asarray(np.arange(shape[-1]) < lengths).astype(info.dtype)
    if info.kind == "positions":
        return np.broadcast_to(np.arange(shape[-1] if shape else 1) % max(info.rows, 1), shape).astype(info.dtype)
    if info.kind == "ids":
        return rng.integers(_least_id(info), info.rows, size=shape).astype(info.dtype)
    return rng.standard_normal(shape).astype(info.dtype)


def other_array(info: InputInfo, array: Array, rng: np.random.Generator) -> Array:
    """Values of the same kind, another one at every place. Masks and positions stay: they are no content."""
    if info.kind == "numbers":
        return np.where(array == 0, 1, -array).astype(info.dtype)
    low = _least_id(info)
    count = info.rows - low
    if info.kind != "ids" or count < 2:
        return array
    return np.asarray((array - low + rng.integers(1, count, size=array.shape)) % count + low, info.dtype)


def _least_id(info: InputInfo) -> int:
    return _SPECIAL_IDS if info.rows > 4 * _SPECIAL_IDS else 0


def check_size(name: str, shape: Sequence[int]) -> None:
    """Refuse to make more sample data than a machine may be expected to hold.

    Raises:
        PoprtError: it names the input.
    """
    if math.prod(shape) > _MOST_ELEMENTS:
        raise PoprtError(
            f"input {name!r}: sample data of shape {list(shape)} would not fit in memory; give it smaller extents, or "
            "leave out what runs the model (check, run, int8)"
        )


def _kind(name: str, dtype: np.dtype[Any], rows: int) -> str:
    if rows:
        return "positions" if "position" in name.lower() else "ids"
    if "mask" in name.lower() or dtype.kind in "biu":
        return "mask"
    return "numbers"


def _indexed_tables(model: onnx.ModelProto, weights: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]]:
    """Input name -> rows of each constant table that it indexes, found by following the input to its Gathers."""
    constants = dict(weights)
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = tuple(node.attribute[0].t.dims)
        elif node.op_type in ("Identity", "Cast") and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    return {value.name: rows for value in model.graph.input if (rows := _rows_behind(value.name, readers, constants))}


def _rows_behind(
    start: str, readers: Mapping[str, list[onnx.NodeProto]], constants: Mapping[str, tuple[int, ...]]
) -> list[int]:
    rows: list[int] = []
    waiting, seen = [start], {start}
    while waiting:
        name = waiting.pop()
        for node in readers.get(name, []):
            if node.op_type == "Gather" and node.input[1] == name and node.input[0] in constants:
                axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
                rows.append(constants[node.input[0]][axis])
            elif node.op_type in _PASSING and node.input[0] == name and node.output[0] not in seen:
                seen.add(node.output[0])
                waiting.append(node.output[0])
    return rows

"""Read a model and part it: a small graph without its large tensors, and those tensors as arrays, without copies."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np
import numpy.typing as npt
import onnx
from onnx import external_data_helper, helper, numpy_helper

from passes.check.external import check_places, tensors_of
from passes.check.structure import check_structure
from passes.check.tensors import check_tensor
from passes.errors import RewriteError
from passes.node_protos import subgraphs
from passes.parted import LARGE_TENSOR_BYTES, PartedModel
from passes.placeholders import placeholder
from poprt.errors import CompileError, PoprtError
from poprt.manifest import STORED_DTYPES
from poprt.model_file import read_proto

#: What the compiler takes: the bytes of a model, the path of one, or the model itself.
ModelLike = Union[bytes, str, "os.PathLike[str]", onnx.ModelProto]

_LOCATION = "weights.bin"
_FLOATS = frozenset({"float16", "float32", "float64"})
_FLOAT, _BFLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16


@dataclass
class Source:
    """A model in two parts.

    Attributes:
        model: the model; a tensor in ``weights`` is an initializer there that is marked external and holds no data.
        weights: the large initializers of the main graph.
        variable: names of the weights that stay replaceable in the executable.
    """

    model: onnx.ModelProto
    weights: dict[str, npt.NDArray[Any]]
    variable: frozenset[str] = frozenset()


def read_model(model: ModelLike | PartedModel, *, constant_weights: bool = True) -> Source:
    """Part ``model`` in two. What is given is not changed.

    Args:
        model: bytes, a path (external data beside it is mapped, not read), a ModelProto that holds its data, or a
            parted model, whose weights are shared.
        constant_weights: False takes every float initializer of rank 1 or more out of the graph, however small, and
            lists it in :attr:`Source.variable`.

    Raises:
        CompileError: the model cannot be read, or its external data is missing.
        FileNotFoundError: there is no such file.
    """
    proto, folder = _load(model)
    apart = model.weights if isinstance(model, PartedModel) else {}
    _check(proto)
    skeleton = _without_initializers(proto)
    promoted = _take_large_constants(skeleton.graph)
    _inline_nested(skeleton, folder)
    source = Source(skeleton, {})
    pinned = _shape_like_initializers(proto.graph)
    widened = _cast_to_float(proto.graph)
    variable = set()
    for tensor in [*proto.graph.initializer, *promoted]:
        replaceable = not constant_weights and _is_weight(tensor) and tensor.name not in pinned
        if replaceable or (_is_large(tensor) and (tensor.data_type != _BFLOAT16 or tensor.name in widened)):
            array = apart.get(tensor.name)
            source.weights[tensor.name] = _array(tensor, folder) if array is None else array
            skeleton.graph.initializer.append(placeholder(tensor.name, tensor.data_type, tensor.dims, _LOCATION))
        else:
            skeleton.graph.initializer.append(_inline(tensor, folder))
        if replaceable:
            variable.add(tensor.name)
    source.variable = frozenset(variable)
    return source


def _load(model: ModelLike | PartedModel) -> tuple[onnx.ModelProto, Path | None]:
    """The model and the folder of its external data."""
    if isinstance(model, (onnx.ModelProto, PartedModel)):
        return (model if isinstance(model, onnx.ModelProto) else model.model), None
    try:
        return read_proto(model), None if isinstance(model, bytes) else Path(model).resolve().parent
    except PoprtError as error:
        raise CompileError(str(error)) from error


def _check(proto: onnx.ModelProto) -> None:
    try:
        check_places(proto)
        check_structure(proto)
    except RewriteError as error:
        raise CompileError(str(error)) from error


def _without_initializers(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of everything but the main graph's initializers."""
    copy = onnx.ModelProto()
    for field, value in proto.ListFields():
        _assign(copy, field.name, value, skip="graph")
    for field, value in proto.graph.ListFields():
        _assign(copy.graph, field.name, value, skip="initializer")
    names = {tensor.name for tensor in proto.graph.initializer}
    inputs = [item for item in copy.graph.input if item.name not in names]
    del copy.graph.input[:]  # models of old list their initializers as inputs too
    copy.graph.input.extend(inputs)
    return copy


def _assign(message: Any, name: str, value: Any, *, skip: str) -> None:
    if name == skip:
        return
    if isinstance(value, (int, float, str, bytes)):
        setattr(message, name, value)
    elif hasattr(value, "CopyFrom"):
        getattr(message, name).CopyFrom(value)
    else:
        getattr(message, name).extend(value)


def _take_large_constants(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Take out the Constant nodes of the main graph that hold a large tensor; these, named as their outputs."""
    kept, taken = [], []
    for node in graph.node:
        attribute = node.attribute[0] if node.op_type == "Constant" and len(node.attribute) == 1 else None
        if attribute is not None and attribute.name == "value" and _is_large(attribute.t):
            tensor = onnx.TensorProto()
            tensor.CopyFrom(attribute.t)
            tensor.name = node.output[0]
            taken.append(tensor)
        else:
            kept.append(node)
    if len(kept) < len(graph.node):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)
    return taken


def _shape_like_initializers(graph: onnx.GraphProto) -> set[str]:
    """Float initializers that say how large something gets; they are no weights."""
    return {name for node in graph.node if node.op_type in ("Resize", "Upsample") for name in node.input[1:]}


def _cast_to_float(graph: onnx.GraphProto) -> set[str]:
    """What nothing in the main graph reads but a Cast to float32."""
    cast: set[str] = set()
    others = {value.name for value in graph.output}
    for node in graph.node:
        widens = node.op_type == "Cast" and any(item.name == "to" and item.i == _FLOAT for item in node.attribute)
        (cast if widens else others).update(node.input)
        for nested in subgraphs(node):
            others.update(name for inner in nested.node for name in inner.input)
    return cast - others


def _dtype_name(tensor: onnx.TensorProto) -> str:
    try:
        return str(np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).name)
    except (KeyError, TypeError):
        return ""


def _is_large(tensor: onnx.TensorProto) -> bool:
    name = _dtype_name(tensor)
    return name in STORED_DTYPES and int(np.prod(tensor.dims)) * np.dtype(name).itemsize >= LARGE_TENSOR_BYTES


def _is_weight(tensor: onnx.TensorProto) -> bool:
    return _dtype_name(tensor) in _FLOATS and len(tensor.dims) > 0 and 0 not in tensor.dims


def _array(tensor: onnx.TensorProto, folder: Path | None) -> npt.NDArray[Any]:
    if not external_data_helper.uses_external_data(tensor):
        return numpy_helper.to_array(tensor)
    info = external_data_helper.ExternalDataInfo(tensor)
    path = _data_file(tensor.name, info.location, folder)
    dtype = np.dtype(_dtype_name(tensor)).newbyteorder("<")
    shape, start = tuple(tensor.dims), info.offset or 0
    nbytes = int(np.prod(shape)) * dtype.itemsize
    if (info.length or nbytes) != nbytes or start + nbytes > path.stat().st_size:
        raise CompileError(f"initializer {tensor.name!r}: its data does not fit {path}; the file is truncated")
    mapped = np.memmap(path, dtype=np.uint8, mode="r", offset=start, shape=(nbytes,))
    array: npt.NDArray[Any] = mapped.view(np.ndarray).view(dtype).reshape(shape)
    return array


def _data_file(name: str, location: str, folder: Path | None) -> Path:
    """The file of a tensor's external data; it must lie beside the model."""
    if folder is None:
        raise CompileError(
            f"initializer {name!r} has its data in {location!r}, beside the model; give the model's path instead of "
            "its contents, or load it with onnx.load()"
        )
    try:
        path = (folder / location).resolve()
        is_file = path.is_file()
    except OSError as error:  # a name that is too long
        raise CompileError(f"initializer {name!r} has its data in {location!r}: {error.strerror}") from error
    if not path.is_relative_to(folder):
        raise CompileError(f"initializer {name!r} has its data in {location!r}, outside the model's folder")
    if not is_file:
        raise CompileError(f"initializer {name!r} has its data in {path}, which does not exist")
    return path


def _inline(tensor: onnx.TensorProto, folder: Path | None) -> onnx.TensorProto:
    """``tensor`` with its data inside."""
    if not external_data_helper.uses_external_data(tensor):
        return tensor
    location = external_data_helper.ExternalDataInfo(tensor).location
    _data_file(tensor.name, location, folder)
    loaded = onnx.TensorProto()
    loaded.CopyFrom(tensor)
    try:
        external_data_helper.load_external_data_for_tensor(loaded, str(folder))
        loaded.ClearField("data_location")
        del loaded.external_data[:]
        check_tensor(loaded, f"tensor {tensor.name!r}")
    except (OSError, ValueError, onnx.checker.ValidationError, RewriteError) as error:
        raise CompileError(f"the data of tensor {tensor.name!r} in {location!r} cannot be read: {error}") from error
    return loaded


def _inline_nested(model: onnx.ModelProto, folder: Path | None) -> None:
    """Put the data of tensors in attributes and subgraphs inside. ``model`` has no initializers of its own yet."""
    for tensor in tensors_of(model):
        if external_data_helper.uses_external_data(tensor):
            tensor.CopyFrom(_inline(tensor, folder))

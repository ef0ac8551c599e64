"""Whether the shapes that a model declares inside are those that a run gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from poprt.engine.plain import plain_session
from poprt.errors import PoprtError
from poprt.input_info import tensor_shape
from poprt.sample_data import Array
from poprt.sizes import LARGEST_MESSAGE, weight_bytes

Extents = tuple[int | str | None, ...]


def check_declared_shapes(original: onnx.ModelProto, converted: onnx.ModelProto, feeds: Mapping[str, Array]) -> None:
    """Run ``converted`` and compare the shapes of its tensors with those that it declares and ``original`` does not.

    Both models run on such data already. Subgraphs and models near 2 GB are left out.

    Raises:
        PoprtError: a tensor has another shape; it is named.
    """
    said_before = dict(_declared(original))
    declared = {name: shape for name, shape in _declared(converted) if said_before.get(name) != shape}
    produced = {name for node in converted.graph.node for name in node.output}
    names = [name for name in declared if name in produced]
    if not names or weight_bytes(converted) > LARGEST_MESSAGE:
        return
    session = plain_session(_giving(converted, names).SerializeToString(), optimise=False)
    for name, array in zip(names, session.run(names, dict(feeds)), strict=True):
        if not _fits(declared[name], array.shape, _sizes(converted, feeds)):
            raise PoprtError(
                f"tensor {name!r} of the converted model: it declares the shape {_listed(declared[name])}, and a run "
                f"gives {_listed(array.shape)}. This is a fault of the conversion: please report it"
            )


def _declared(model: onnx.ModelProto) -> Iterator[tuple[str, Extents]]:
    for value in (*model.graph.value_info, *model.graph.output):
        declared = value.type.tensor_type
        if declared.elem_type and declared.HasField("shape"):
            yield value.name, tensor_shape(value)


def _giving(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """``model`` with these tensors as its outputs."""
    giving = onnx.ModelProto()
    giving.CopyFrom(model)
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)}
    del giving.graph.output[:]
    giving.graph.output.extend(onnx.helper.make_tensor_value_info(name, kinds[name], None) for name in names)
    return giving


def _sizes(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, int]:
    """What the names of the inputs' extents are in this run."""
    pairs = (
        pair
        for v in model.graph.input
        if v.name in feeds
        for pair in zip(tensor_shape(v), feeds[v.name].shape, strict=False)
    )
    return {extent: size for extent, size in pairs if isinstance(extent, str)}


def _fits(declared: Extents, shape: tuple[int, ...], sizes: Mapping[str, int]) -> bool:
    expected = [sizes.get(extent) if isinstance(extent, str) else extent for extent in declared]
    return len(declared) == len(shape) and all(n in (None, size) for n, size in zip(expected, shape, strict=True))


def _listed(shape: Extents) -> str:
    return f"[{', '.join('?' if extent is None else str(extent) for extent in shape)}]"

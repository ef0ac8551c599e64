"""From what a packed model says of itself to what its executable says."""

from __future__ import annotations

import dataclasses

import onnx

from passes.errors import RewriteError
from passes.packed_model import PackedModel
from poprt.errors import CompileError
from poprt.executable import PackingSpec


def read_packing(model: onnx.ModelProto) -> PackingSpec | None:
    """How the converted model says that it is packed; None where it is not.

    Raises:
        CompileError: its metadata are damaged.
    """
    try:
        packed = PackedModel.read(model)
    except RewriteError as error:
        raise CompileError(str(error)) from error
    if packed is None:
        return None
    fields = [field.name for field in dataclasses.fields(PackingSpec) if hasattr(packed, field.name)]
    return PackingSpec(**{name: getattr(packed, name) for name in fields})


def widened(packing: PackingSpec, multiple: int) -> PackingSpec:
    """The packing of a graph that unpacks to multiples, where more padding shows in no answer and in no shape fed."""
    shows = packing.neighbours != "any" or bool(packing.pair_inputs) or packing.subsampled
    return packing if shows or not packing.ragged else dataclasses.replace(packing, width_multiple=multiple)

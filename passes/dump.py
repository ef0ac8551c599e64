"""The model after each pass, as files to look at."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs
from onnx.external_data_helper import uses_external_data

from passes.check.external import tensors_of
from passes.cleanup.rewiring import onnx_dtype
from passes.errors import RewriteError
from passes.folders import make_folder
from passes.graph_io import export_graph
from passes.placeholders import placeholder

#: A tensor of more bytes is left out of a dump: shapes, scales and masks' constants are smaller.
LARGEST_DUMPED = 4096

#: Where a tensor that was left out says that its data are.
LEFT_OUT = "left_out"

#: The ``metadata_props`` key of the note that says so.
NOTE_KEY = "poprt.dump"


class ModelDump:
    """Writes models into a folder: ``03_constant_folding.onnx`` is what the third pass made.

    A viewer such as Netron opens the files. Large tensors are left out, so a folder of thirty is small; the files
    cannot be run.

    Args:
        folder: made where there is none. Files of the same names are replaced, others stay.

    Raises:
        RewriteError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            make_folder(folder)
        except (OSError, ValueError) as error:
            raise self._refused(error) from error

    def write(self, number: int, name: str, model: gs.Graph | onnx.ModelProto) -> None:
        """Write what pass ``number`` (counted from 1) of this name has made; ``model`` stays as it is.

        Raises:
            RewriteError: the file cannot be written.
        """
        outline = _outline(model)
        path = self._folder / f"{number:02d}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.onnx"
        try:
            path.write_bytes(outline.SerializeToString())
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> RewriteError:
        why = getattr(error, "strerror", None) or error
        return RewriteError(
            f"dump_passes: {str(self._folder)!r} cannot be written to ({why}); give a folder that can, or leave it out"
        )


def _stand_in(tensor: gs.Constant) -> onnx.TensorProto | None:
    """What stands for a large tensor, which is not even copied to be left out; None for another."""
    if tensor._values.nbytes <= LARGEST_DUMPED:
        return None
    return placeholder(tensor.name, onnx_dtype(tensor) or 0, tensor.shape, LEFT_OUT)


def _outline(model: gs.Graph | onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model without its large tensors."""
    if isinstance(model, onnx.ModelProto):
        outline = onnx.ModelProto()
        outline.CopyFrom(model)
    else:
        outline = export_graph(model, stand_in=_stand_in)
    for tensor in tensors_of(outline):
        if tensor.ByteSize() > LARGEST_DUMPED and not uses_external_data(tensor):
            tensor.CopyFrom(placeholder(tensor.name, tensor.data_type, tensor.dims, LEFT_OUT))
    outline.metadata_props.add(
        key=NOTE_KEY, value=f"tensors of more than {LARGEST_DUMPED} bytes are left out: {LEFT_OUT!r} is no file"
    )
    return outline

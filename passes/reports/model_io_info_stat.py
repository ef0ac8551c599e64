"""The inputs and outputs of a model: types, shapes, and the bytes that go in and out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult
from passes.cleanup.rewiring import onnx_dtype
from passes.element_sizes import stored_bytes
from passes.registry import register


@register("model_io_info_stat")
class ModelIoInfoStat(GraphPass):
    """Prints a line an input and a line an output: name, type, shape and bytes, and the bytes of all.

    Input [16, 256] int32 -> ``input input_ids int32 [16, 256] 16384 bytes``. Open extents show their names, and have no
    bytes. Changes nothing.

    Args:
        use_print: print to stdout; otherwise the lines are log messages.
    """

    def __init__(self, use_print: bool = True) -> None:
        super().__init__()
        self.use_print = use_print

    def apply(self, graph: gs.Graph) -> PassResult:
        """Print; see the class."""
        for line in [*_lines("input", graph.inputs), *_lines("output", graph.outputs)]:
            if self.use_print:
                print(line)
            else:
                self.logger.info("%s", line)
        return PassResult()


def _lines(kind: str, tensors: Sequence[gs.Tensor]) -> list[str]:
    sizes = [_bytes(tensor) for tensor in tensors]
    lines = [
        f"{kind} {tensor.name} {_type(tensor)} {_shape(tensor)} {'? bytes' if size is None else f'{size} bytes'}"
        for tensor, size in zip(tensors, sizes, strict=True)
    ]
    total = "? bytes" if None in sizes else f"{sum(size or 0 for size in sizes)} bytes"
    return [*lines, f"{len(tensors)} {kind}s, {total}"]


def _type(tensor: gs.Tensor) -> str:
    kind = onnx_dtype(tensor)
    return "of no known type" if kind is None else onnx.TensorProto.DataType.Name(kind).lower()


def _shape(tensor: gs.Tensor) -> str:
    if tensor.shape is None:
        return "of any rank"
    return f"[{', '.join('?' if extent is None else str(extent) for extent in tensor.shape)}]"


def _bytes(tensor: gs.Tensor) -> int | None:
    kind, shape = onnx_dtype(tensor), tensor.shape
    if kind is None or shape is None or not all(isinstance(extent, int) for extent in shape):
        return None
    return stored_bytes(math.prod(shape), kind)

"""Replace shape arithmetic that comes to numbers by those numbers, whatever the batch size and sequence length.

Exporters compute head sizes and slice bounds from shapes. Symbolic inference knows the result; the analyses ask for
constants.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import sympy

from passes.cleanup.rewiring import replace_uses
from passes.shapes.symbolic import SymbolicShapes

_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)


def fold_known_extents(graph: gs.Graph, shapes: SymbolicShapes) -> None:
    """Let every reader of a tensor that is known to hold numbers read a constant. Shapes stay as they are."""
    for node in list(graph.nodes):
        for output in node.outputs:
            value = _numbers(output, shapes)
            if value is None or any(output is tensor for tensor in graph.outputs) or not output.outputs:
                continue
            constant = gs.Constant(f"{output.name}_known", value)
            shapes[constant.name] = tuple(value.shape)
            replace_uses(output, constant)


def _numbers(tensor: gs.Tensor, shapes: SymbolicShapes) -> np.ndarray | None:
    contents, shape = shapes.contents.get(tensor.name), shapes.get(tensor.name)
    element = shapes.dtypes.get(tensor.name)
    if contents is None or element not in _INTEGERS or shape is None or len(shape) > 1:
        return None
    values = list(contents) if isinstance(contents, (list, tuple)) else [contents]
    try:
        numbers = [sympy.sympify(value) for value in values]
    except (TypeError, sympy.SympifyError):
        return None
    # What is said to be known may have another shape: of Reshape to a scalar, inference keeps the target shape ().
    if not all(getattr(number, "is_Integer", False) for number in numbers) or len(numbers) != (shape or (1,))[0]:
        return None
    flat = np.array([int(number) for number in numbers], onnx.helper.tensor_dtype_to_np_dtype(element))
    return flat if shape else flat.reshape(())

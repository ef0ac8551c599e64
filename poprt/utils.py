"""Small helpers that scripts use."""

from __future__ import annotations

import importlib
import logging
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["LazyImport", "get_input_info_from_model_proto", "get_logger", "onnx_tensor_dtype_to_np_dtype"]


def get_logger(name: str = "poprt") -> logging.Logger:
    """The logger ``name``; its handlers and level are the application's to set."""
    return logging.getLogger(name)


def onnx_tensor_dtype_to_np_dtype(tensor_dtype: int) -> np.dtype[Any]:
    """The numpy type of an ONNX element type (``TensorProto.FLOAT16`` -> float16)."""
    from onnx import helper

    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor_dtype))


def element_type_of(name: str) -> int:
    """The ONNX element type of what onnxruntime calls "tensor(float)"; 0 for what is no tensor."""
    from onnx import TensorProto

    if not name.startswith("tensor("):
        return 0
    return int(TensorProto.DataType.Value(name.removeprefix("tensor(").removesuffix(")").upper()))


def get_input_info_from_model_proto(
    model: onnx.ModelProto,
) -> tuple[dict[str, list[int] | None], dict[str, np.dtype[Any]]]:
    """Shapes (0 where one is open) and numpy types of a model's inputs, each by name; initializers are no inputs.

    The shape is None where the model does not say the rank.
    """
    initializers = {tensor.name for tensor in model.graph.initializer}
    shapes: dict[str, list[int] | None] = {}
    dtypes = {}
    for item in model.graph.input:
        if item.name not in initializers:
            tensor_type = item.type.tensor_type
            extents = [max(int(dim.dim_value), 0) for dim in tensor_type.shape.dim]
            shapes[item.name] = extents if tensor_type.HasField("shape") else None
            dtypes[item.name] = onnx_tensor_dtype_to_np_dtype(tensor_type.elem_type)
    return shapes, dtypes


class LazyImport(ModuleType):
    """A module that is imported when one of its attributes is first read: ``tf = LazyImport("tensorflow")``.

    Raises:
        ImportError: at that moment, where the module is not installed.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._module: ModuleType | None = None

    def __getattr__(self, attribute: str) -> Any:
        if self._module is None:
            self._module = importlib.import_module(self.__name__)
        return getattr(self._module, attribute)

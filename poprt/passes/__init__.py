"""The import path that scripts use for passes; what is here lives in the package ``passes``."""

from passes import GraphPass, Pass, PassManager, get_pass, get_registered_passes, register
from passes.shapes.shape_functions import ShapeFunc, register_shape_func
from poprt.passes import base_pass, onnx_helper, pattern_helper, shape_inference

__all__ = [
    "GraphPass",
    "Pass",
    "PassManager",
    "ShapeFunc",
    "base_pass",
    "get_pass",
    "get_registered_passes",
    "onnx_helper",
    "pattern_helper",
    "register",
    "register_shape_func",
    "shape_inference",
]

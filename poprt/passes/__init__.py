"""The import path that scripts use for passes; what is here lives in the package ``passes``."""

from passes import GraphPass, Pass, PassManager, get_pass, get_registered_passes, register
from passes.shapes.shape_functions import ShapeFunc, register_shape_func
from poprt.passes import (
    apply_ir_pass,
    base_pass,
    onnx_helper,
    pattern_helper,
    remove_duplicated_initializer,
    shape_inference,
)
from poprt.passes.base_pass import ImmutablePass
from poprt.passes.onnx_helper import clean_info, get_constant, get_dtype, get_shape, topological_sort
from poprt.quantizer import layer_precision_compare

__all__ = [
    "GraphPass",
    "ImmutablePass",
    "Pass",
    "PassManager",
    "ShapeFunc",
    "apply_ir_pass",
    "base_pass",
    "clean_info",
    "get_constant",
    "get_dtype",
    "get_pass",
    "get_registered_passes",
    "get_shape",
    "layer_precision_compare",
    "onnx_helper",
    "pattern_helper",
    "register",
    "register_shape_func",
    "remove_duplicated_initializer",
    "shape_inference",
    "topological_sort",
]

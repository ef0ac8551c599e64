"""Shape inference and its registration, under the names that scripts import, older spellings among them."""

from passes.shapes.infer_model import infer_shapes
from passes.shapes.shape_functions import ShapeFunc, register_shape_func
from passes.shapes.shape_functions import ShapeFunc as ShapeInference
from passes.shapes.shape_functions import register_shape_func as register

__all__ = ["ShapeFunc", "ShapeInference", "infer_shapes", "register", "register_shape_func"]

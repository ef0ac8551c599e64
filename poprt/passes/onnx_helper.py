"""Helpers over ONNX graphs, under the name that scripts import."""

from passes.onnx_helper import clean_info, get_constant, get_dtype, get_shape, topological_sort

__all__ = ["clean_info", "get_constant", "get_dtype", "get_shape", "topological_sort"]

"""Small helpers."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from onnx import TensorProto

from poprt.utils import LazyImport, get_input_info_from_model_proto, get_logger, onnx_tensor_dtype_to_np_dtype
from tests.poprt.test_compiler import linear, value


def test_element_types_are_translated() -> None:
    assert onnx_tensor_dtype_to_np_dtype(TensorProto.FLOAT16) == np.float16
    assert onnx_tensor_dtype_to_np_dtype(TensorProto.INT64) == "int64"


def test_input_info_leaves_initializers_out() -> None:
    model = linear()
    model.graph.input.append(value("w", TensorProto.FLOAT, [32, 32]))
    shapes, dtypes = get_input_info_from_model_proto(model)
    assert shapes == {"x": [0, 32]}
    assert dtypes == {"x": np.float32}


def test_a_lazy_import_waits_for_the_first_use() -> None:
    sys.modules.pop("this_is_no_module", None)
    with pytest.raises(ImportError):
        _ = LazyImport("this_is_no_module").attribute
    assert LazyImport("math").floor(2.5) == 2


def test_the_default_logger_is_the_packages() -> None:
    assert get_logger().name == "poprt"

"""What older versions of the packages that the tests compare with get wrong."""

from __future__ import annotations

import onnxruntime
import pytest
from packaging.version import Version

_ENGINE = Version(onnxruntime.__version__)

#: com.microsoft's Attention without a bias brings the process down.
CRASHES_WITHOUT_BIAS = Version("1.32") > _ENGINE
#: A product of a tensor of no rows, unoptimised, is refused.
REFUSES_NO_ROWS = Version("1.32") > _ENGINE

without_bias = pytest.mark.skipif(CRASHES_WITHOUT_BIAS, reason="onnxruntime before 1.32 crashes on it")
no_rows = pytest.mark.skipif(REFUSES_NO_ROWS, reason="onnxruntime before 1.32 refuses it")

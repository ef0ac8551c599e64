"""These tests need pyarrow."""

import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install '.[embed]'")

import onnx
import pytest
from click.testing import CliRunner

from passes.onnx_helper import get_shape
from passes.shapes import shape_functions
from poprt_cli.main import cli
from tests.passes.rewrites import parse

MODEL = """
g (float[batch, seq, 8] x) => (float[?, ?, ?] y)
{
  s = local.SwapOfThisTest(x)
  y = Relu(s)
}
"""
FILE = """
import onnx
from poprt.passes import ShapeFunc, register_shape_func
from poprt.passes.onnx_helper import get_dtype, get_shape


@register_shape_func(["SwapOfThisTest"])
class Swap(ShapeFunc):
    def __call__(self, model, node):
        batch, seq, hidden = get_shape(model.graph, node.input[0])
        dtype = get_dtype(model.graph, node.input[0])
        self.update_value_info(model, onnx.helper.make_tensor_value_info(node.output[0], dtype, [batch, hidden, seq]))
        return True
"""


@pytest.mark.parametrize(
    ("words", "expected"), [([], None), (["--custom_shape_inference", "shapes.py"], [2, 8, 5])], ids=["without", "with"]
)
def test_files_of_shape_functions_are_imported_and_asked(tmp_path, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shape_functions, "_FUNCTIONS", {})
    onnx.save(parse(MODEL), "model.onnx")
    (tmp_path / "shapes.py").write_text(FILE)
    result = CliRunner().invoke(cli, ["-i", "model.onnx", "--input_shape", "x=2,5,8", *words], catch_exceptions=False)
    assert result.exit_code == 0
    assert get_shape(onnx.load("model.optimized.onnx").graph, "s") == expected


def test_a_missing_file_of_shape_functions_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(parse(MODEL), "model.onnx")
    result = CliRunner().invoke(cli, ["-i", "model.onnx", "--custom_shape_inference", "none.py"])
    assert result.exit_code != 0
    assert "custom_shape_inference: 'none.py'" in result.stderr

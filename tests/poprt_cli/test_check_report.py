"""What `--check` prints: what each input was fed, and which outputs cannot be compared."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper, parser

from models.bert import SIZES, BertConfig, build_bert
from poprt_cli.main import cli


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def convert(model: onnx.ModelProto, *words: str) -> Result:
    onnx.save(model, "model.onnx")
    return CliRunner().invoke(cli, ["-i", "model.onnx", *words], prog_name="poprt")


@pytest.mark.parametrize("words", [("--check",), ("--precision", "int8")])
def test_the_table_says_what_each_input_was_fed_and_why(words: tuple[str, ...]) -> None:
    result = convert(build_bert(BertConfig(**SIZES["tiny"], head="qa")), *words)
    assert result.exit_code == 0
    lines = re.findall(r"sample data +(\w+: .*?)  ", result.stdout)
    assert lines[0].startswith("input_ids: ids 0 to 999; 1000 rows of 'embeddings.word_embeddings.weight'")
    assert lines[1].startswith("attention_mask: 1, then 0 to the end; a mask: 1 minus it hides scores")


def test_a_conversion_that_feeds_nothing_says_nothing_of_it() -> None:
    assert "sample data" not in convert(build_bert(BertConfig(**SIZES["tiny"], head="qa"))).stdout


def test_an_output_that_cannot_be_compared_is_a_warning_and_the_model_is_written() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[1,64] x) => (float[N] y) {
            a = Abs (x)  l = Mul (a, scale)  t = ReduceSum <keepdims = 0> (l)  c = Cast <to = 7> (t)
            r = Range (zero, c, one)  y = Cast <to = 1> (r) }"""
    )
    constants = {"scale": np.array(33.3, np.float32), "zero": np.array(0), "one": np.array(1)}
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())
    result = convert(model, "--check", "--precision", "fp16")
    assert result.exit_code == 0
    assert re.search(r"check +y: not comparable, its extents depend on values \(Range 'r'\)", result.stdout)
    assert "differ" not in result.output
    assert Path("model.optimized.onnx").exists()

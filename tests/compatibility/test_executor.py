"""``poprt_exec --runner packRunner`` on executables that a script packed by hand, or that nothing packed."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from poprt.compiler import Compiler
from tests.poprt.runtime.test_assumed_packing import across_rows, plain, with_a_final_unpack, with_attention_mask
from tests.poprt_cli.test_poprt_exec import run

NAMES = ["--dynamicInputName", "input_ids", "--maskName", "attention_mask"]


def product_of_words_and_mask() -> onnx.ModelProto:
    return onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[3,10] attention_mask, float[3,10] input_ids) '
        "=> (float[3,10] y) { y = Mul (attention_mask, input_ids) }"
    )


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (product_of_words_and_mask(), ["--numThreads", 4, "--maxValidNum", 10, "--packTimeout", 200, *NAMES]),
        (plain(), NAMES),
        (with_attention_mask(), NAMES),
        (with_attention_mask(), []),
        (with_a_final_unpack(), NAMES),
        (across_rows(), NAMES),
        (across_rows(), ["--dynamicInputName", "position_ids"]),
    ],
    ids=["no_weights", "plain", "apart", "apart_unnamed", "unpacked", "across_rows", "positions"],
)
def test_a_pack_runner_is_timed_on_what_the_flags_name(
    model: onnx.ModelProto, words: list[object], tmp_path: Path
) -> None:
    Compiler.compile_and_export(model, None, tmp_path / "m.popef")
    result = run("--popef", tmp_path / "m.popef", "--runner", "packRunner", "--iteration", 3, "--batchSize", 1, *words)
    assert result.exit_code == 0, result.output
    assert "throughput: " in result.stdout

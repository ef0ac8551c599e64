"""The page on packing that programs for PopRT follow, from an export of its time (opset 11) to the last comparison."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import onnx
import pytest

from models.bert import BertConfig
from models.torch110 import build_torch110
from tests.examples.test_packed_bert import ROOT, program, run_program

SMALL = BertConfig(vocab=1000, layers=2, hidden=32, heads=2, intermediate=64)
#: What the page looks for in the export.
NAMES = """
    Shape_7 Constant_8 Gather_9 Constant_10 Add_11 Unsqueeze_12 Constant_13 Slice_14 Gather_18
"""
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
MODELS = {
    "without_packing": [],
    "with_packing_unpack_repack": ["--pack_args", "max_valid_num=10", "segment_max_size=256"],
    "with_packing_attention_mask": ["--passes", "insert_attention_mask"],
}


def test_the_export_has_the_names_and_the_opset_of_its_time() -> None:
    model = build_torch110(SMALL)
    assert [entry.version for entry in model.opset_import] == [11]
    named = {node.name: node.op_type for node in model.graph.node}
    assert {name: named.get(name) for name in NAMES.split()} == {
        name: name.rpartition("_")[0] for name in NAMES.split()
    }


def test_the_page_works_from_start_to_end(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the program needs scikit-learn")
    scripts = [program("add_position_ids.py"), program("packed_bert_example.py")]
    for source in (*scripts, ROOT / "examples" / "packed_bert" / "packing_utils.py"):
        shutil.copy(source, tmp_path)
    onnx.save(build_torch110(SMALL), tmp_path / "model.onnx")
    run_program(tmp_path / scripts[0].name, "--input_model", "model.onnx", folder=tmp_path)
    arguments = []
    for name, options in MODELS.items():
        poprt = Path(sys.executable).with_name("poprt")
        shapes = [f"{tensor}=4,256" for tensor in INPUTS]
        common = ["--input_model", "bert_base_squad_pos.onnx", "--output_model", f"{name}.onnx", "--precision", "fp16"]
        run_program(poprt, *common, "--input_shape", *shapes, *options, folder=tmp_path)
        arguments += [f"--model_{name}", f"{name}.onnx"]
    sizes = ["--batch_size", "4", "--iterations", "2", "--max_valid_num", "10", "--emb_size", "1000"]
    printed = run_program(tmp_path / scripts[1].name, *arguments, *sizes, folder=tmp_path)
    errors = [float(line.rpartition(":")[2]) for line in printed.splitlines() if "average mae" in line]
    assert len(errors) == 10
    assert max(errors) < 5e-3

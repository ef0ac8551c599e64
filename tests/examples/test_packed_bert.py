"""The comparison of padding and packing, small; and the programs written for PopRT, where they are at hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from examples.packed_bert import packing_utils
from examples.packed_bert.compare import alone, main, make_samples, make_ways, read_options
from models.bert import BertConfig, build_bert
from poprt import runtime
from poprt.converter import Converter

SMALL = ["--hidden", "32", "--rows", "3", "--columns", "24", "--max_valid_num", "9", "--samples", "20"]
ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT.parent / "shared" / "spec" / "seed_programs"
WAYS = [
    "padded",
    "across rows, offline",
    "across rows, online",
    "within rows, offline",
    "within rows, online, first_fit",
    "within rows, online, next_fit",
]


def test_it_prints_a_line_for_each_way(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    main([*SMALL, "--clients", "4"])
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    cells = {row[0]: row[1:] for row in rows if row}
    assert sorted(cells) == sorted(WAYS)
    for name, (throughput, padding, mean, p99, difference) in cells.items():
        assert float(throughput) > 0
        assert float(difference) < 5e-3, name
        assert bool(mean) == bool(p99) == ("offline" not in name)
        assert 0 <= float(padding.rstrip("%")) < 100
    assert float(cells["padded"][1].rstrip("%")) > float(cells["within rows, offline"][1].rstrip("%"))


def test_each_way_gives_every_sample_its_own_result() -> None:
    model = build_bert(BertConfig(layers=2, hidden=32, heads=4, intermediate=64))
    samples = make_samples(20, 24, 30522, 1)
    expected = alone(model, samples)
    ways = make_ways(model, read_options([*SMALL, "--precision", "fp32"]))
    assert [way.name for way in ways if way.served is None] == [name for name in WAYS if "offline" in name]
    for way in ways:
        results = way.run(samples).results
        assert len(results) == len(samples)
        for got, want in zip(results, expected, strict=True):
            for name, values in want.items():
                np.testing.assert_allclose(got[name], values, rtol=0, atol=2e-5, err_msg=way.name)
        if way.served is not None:
            way.served.close()


def test_packing_utils_is_the_runtimes_own() -> None:
    assert packing_utils.pack_data is runtime.pack_data


def program(name: str) -> Path:
    path = PROGRAMS / name
    if not path.exists():
        pytest.skip(f"{name} is not at hand: it is expected in {PROGRAMS}")
    return path


def run_program(script: Path, *arguments: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr  # of a thread
    return done.stdout


def test_a_program_for_dynamic_batch_size_runs_unchanged(tmp_path: Path) -> None:
    printed = run_program(program("dynamic_batch_size.py"), folder=tmp_path)
    assert [line.split()[-1] for line in printed.splitlines()] == ["1", "4", "7"]


@pytest.mark.parametrize("position_ids", [False, True])
def test_the_packed_bert_program_runs_unchanged(tmp_path: Path, position_ids: bool) -> None:
    """Also on a model without the position input that the program feeds."""
    script = program("packed_bert_example.py")
    pytest.importorskip("sklearn", reason="the program needs scikit-learn")
    for source in (script, ROOT / "examples" / "packed_bert" / "packing_utils.py"):
        shutil.copy(source, tmp_path)
    model = build_bert(BertConfig(vocab=1000, layers=1, hidden=32, heads=2, intermediate=64, position_ids=position_ids))
    shapes = {name: [4, 256] for name in ("input_ids", "attention_mask", "token_type_ids", "position_ids")}
    forms: dict[str, dict[str, Any]] = {
        "without_packing": {},
        "with_packing_unpack_repack": {"pack_args": {"max_valid_num": 10, "segment_max_size": 256}},
        "with_packing_attention_mask": {"used_passes": "insert_attention_mask"},
    }
    arguments = []
    for name, keywords in forms.items():
        converter = Converter(input_shape=shapes, precision="fp16", **keywords)
        onnx.save(converter.convert(model), tmp_path / f"{name}.onnx")
        arguments += [f"--model_{name}", f"{name}.onnx"]
    sizes = ["--batch_size", "4", "--iterations", "2", "--max_valid_num", "10", "--emb_size", "1000"]
    printed = run_program(tmp_path / script.name, *arguments, *sizes, folder=tmp_path)
    errors = [float(line.rpartition(":")[2]) for line in printed.splitlines() if "average mae" in line]
    assert len(errors) == 10
    assert max(errors) < 5e-3
    assert printed.count("Throughput") == 6
    assert "P99 latency" in printed

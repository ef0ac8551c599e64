"""The command that writes a model to disk."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from models.build import main


def test_the_command_writes_the_model_that_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.onnx"
    main(["--model", "tiny", "--head", "token", "--labels", "5", "--dialect", "new-torch", "--position_ids", str(path)])
    model = onnx.load(str(path))
    assert [value.name for value in model.graph.input][-1] == "position_ids"
    assert [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim] == [0, 0, 5]
    assert str(path) in capsys.readouterr().out


def test_a_choice_that_the_real_minilm_leaves_no_room_for_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--model", "all-MiniLM-L6-v2", "--head", "qa", "--seed", "4", str(tmp_path / "out.onnx")])
    assert "--seed cannot be chosen" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.onnx").mkdir()
    with pytest.raises(SystemExit):
        main(["--model", "tiny", str(tmp_path / "out.onnx")])
    assert "out.onnx cannot be written: Is a directory" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]

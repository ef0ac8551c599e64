"""The command `poprt` as tests call it, and what a failure of it looks like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from click.testing import Result

SHAPES = ["input_ids=2,12", "attention_mask=2,12", "token_type_ids=2,12"]
Poprt = Callable[..., Result]


def shapes(path: Path | str) -> dict[str, list[int]]:
    model = onnx.load(str(path))
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input}


def assert_fails(result: Result, *texts: str) -> None:
    assert result.exit_code != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("poprt: error: ")]
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    for text in texts:
        assert text in lines[0]

"""The command in an empty folder, and a model for it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from models.bert import SIZES, BertConfig, build_bert
from poprt_cli.main import cli
from tests.poprt_cli.command import Poprt


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "bert.onnx"
    onnx.save(build_bert(BertConfig(**SIZES["tiny"], head="qa")), str(path))
    return path


@pytest.fixture
def poprt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Poprt:
    """Run the command in an empty folder; a traceback fails the test."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Result:
        result = CliRunner().invoke(cli, [str(word) for word in words], prog_name="poprt")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run

"""`poprt export-triton`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from poprt.text import PackOptions, pack
from poprt_cli.main import cli
from tests.poprt_cli.command import assert_fails
from tests.text_folders import HIDDEN, embedding_folder


@pytest.fixture(scope="module")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton")
    path = folder / "small-embedder.popef"
    pack(embedding_folder(folder / "source", "mean"), path, PackOptions(progress=False))
    return path


def test_an_executable_becomes_a_folder_of_a_model_repository(executable: Path, tmp_path: Path) -> None:
    words = ["export-triton", str(executable), str(tmp_path / "models"), "--max-batch-size", "16", "--threads", "2"]
    result = CliRunner().invoke(cli, words, prog_name="poprt")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "models" / "small-embedder"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        *("1/model.onnx", "config.pbtxt", "tokenizer.json", "text.json")
    }
    for text in ("input_ids  int64 [texts, any]", f"float32 [texts, {HIDDEN}]", "16, of any length", "64 tokens"):
        assert text in result.stdout
    assert 'string_value: "2"' in (folder / "config.pbtxt").read_text()


def test_what_is_wrong_is_one_line(executable: Path, tmp_path: Path) -> None:
    def run(*words: object) -> object:
        return CliRunner().invoke(cli, ["export-triton", *map(str, words)], prog_name="poprt")

    assert_fails(run("nowhere.popef", tmp_path), "'nowhere.popef' does not exist")  # type: ignore[arg-type]
    assert_fails(run(executable, tmp_path, "--name", "a b"), "name is 'a b'", "--name")  # type: ignore[arg-type]
    assert_fails(run(executable, tmp_path, "--instances", 0), "0 is not in the range")  # type: ignore[arg-type]
    assert_fails(run(executable, executable), str(executable))  # type: ignore[arg-type]
    other = tmp_path / "other.popef"
    other.write_bytes(b"none")
    assert_fails(run(other, tmp_path), "other.popef")  # type: ignore[arg-type]


def test_the_help_needs_no_engine() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom poprt_cli.main import cli\n"
        "print(CliRunner().invoke(cli, ['export-triton', '--help']).stdout)\n"
        "print(sorted({'onnxruntime', 'sympy', 'tokenizers'} & set(sys.modules)))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--max_batch_size" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "[]"

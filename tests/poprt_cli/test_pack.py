"""`poprt pack`, beside a bare option list that still converts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from poprt.text import TASKS, TextModel
from poprt.text.folder.modules import POOLINGS
from poprt_cli import pack
from poprt_cli.main import cli
from tests.text_folders import HIDDEN, embedding_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedding_folder(tmp_path_factory.mktemp("folder"), "mean", normalise=True)


def poprt(*words: object) -> Result:
    result = CliRunner().invoke(cli, [str(word) for word in words], prog_name="poprt")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_folder_becomes_an_executable_that_takes_texts(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.popef"
    result = poprt("pack", folder, "-o", path, "--max-length", 32, "--task", "embedding")
    assert result.exit_code == 0, result.output
    for text in ("32 tokens", f"{HIDDEN} values, pooling mean, of length 1", "128 x 32 tokens", "any", str(path)):
        assert text in result.stdout
    with TextModel(path) as model:
        assert model.encode(["the bank", "x"]).shape == (2, HIDDEN)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere", "-o", "x.popef"], 1, "'nowhere' is no folder"),
        (["-o", "x.popef"], 2, "Missing argument 'FOLDER'"),
        (["nowhere"], 2, "Missing option '-o'"),
        (["nowhere", "-o", "x", "--pooling", "median"], 2, "'median' is not one of"),
        (["nowhere", "-o", "none/x.popef"], 1, "there is no folder 'none'"),
        (["nowhere", "-o", "."], 1, "Is a directory"),
    ],
)
def test_what_is_wrong_is_one_line(words: list[str], code: int, message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["pack", *words], prog_name="poprt")
    assert result.exit_code == code
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("poprt: error: "))
    assert message in line


def test_a_bare_option_list_still_converts() -> None:
    assert "Missing option '-i'" in poprt().stderr
    assert "unexpected extra argument (stray)" in poprt("stray").stderr
    assert "unexpected extra argument (pack)" in poprt("-i", "model.onnx", "pack").stderr
    assert "'pack' does not exist" in poprt("-i", "pack").stderr


def test_the_help_names_the_command_and_needs_no_engine() -> None:
    assert re.search(r"pack +Make an executable of FOLDER that takes texts\.", poprt("--help").stdout)
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom poprt_cli.main import cli\n"
        "print(CliRunner().invoke(cli, ['pack', '--help']).stdout)\n"
        "print(sorted({'onnxruntime', 'sympy', 'tokenizers'} & set(sys.modules)))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--max_length" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "[]"


def test_the_help_knows_what_packing_knows() -> None:
    assert (pack.POOLINGS, pack.TASKS) == (POOLINGS, TASKS)
    choices = {param.name: param.type for param in pack.pack_command.params}
    assert isinstance(choices["task"], click.Choice)

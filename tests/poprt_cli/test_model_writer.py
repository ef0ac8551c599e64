"""A model with its weights beside it changes at once, whatever happens while it is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from poprt.errors import PoprtError
from poprt_cli.model_files import save_model
from tests.poprt_cli.interrupted import at_line, make_model, said, write

ROOT = Path(__file__).parents[2]


def interrupt() -> None:
    raise KeyboardInterrupt


def program(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.poprt_cli.interrupted", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("weights_beside", [True, False])
def test_an_exception_at_any_line_leaves_the_old_model_or_the_new_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights_beside: bool
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # slow
    path, number, values, more = tmp_path / "m.onnx", 0, set(), True
    while more:
        write(path, 1)
        number += 1
        try:
            more = at_line(number, interrupt, lambda: write(path, 2, weights_beside=weights_beside))
        except KeyboardInterrupt:
            values.add(said(path))
            # The lock is an empty file, and may stay where the interruption comes at its very removal.
            left = {item.name for item in tmp_path.iterdir()} - {".m.onnx.poprt-lock"}
            drafts_and_spare_weights = [name for name in left if name.startswith(".")], len(left) > 3
            assert drafts_and_spare_weights == ([], False), (number, left)
    assert values == {1, 2}
    write(path, 3)
    assert len(list(tmp_path.iterdir())) == 2


def test_kill_9_at_any_line_leaves_a_whole_model_and_the_next_write_cleans_up(tmp_path: Path) -> None:
    assert int(program("kill", tmp_path / "m.onnx").split()[1]) > 50


def test_of_several_writers_the_last_one_wins_and_nothing_is_mixed(tmp_path: Path) -> None:
    assert program("race", tmp_path / "m.onnx") == "written\n"


def test_the_same_weights_have_the_same_name_and_bytes(tmp_path: Path) -> None:
    write(tmp_path / "m.onnx", 4)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write(tmp_path / "m.onnx", 4)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_only_weights_of_ours_that_nobody_names_are_removed(tmp_path: Path) -> None:
    write(tmp_path / "m.onnx", 1)
    (weights,) = tmp_path.glob("*.data")
    others = ["m.onnx.data", "m.onnx.0123.data", f"m.onnx.{'g' * 32}.data", f"n.onnx.{'0' * 32}.data"]
    for name in others:
        (tmp_path / name).write_bytes(b"not ours")
    (tmp_path / "m.onnx").rename(tmp_path / "kept.onnx")
    write(tmp_path / "m.onnx", 2)
    assert said(tmp_path / "kept.onnx") == 1
    (tmp_path / "kept.onnx").unlink()
    write(tmp_path / "m.onnx", 3, weights_beside=False)
    assert not weights.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", *others}


def test_both_files_have_the_mode_of_the_umask(tmp_path: Path) -> None:
    for umask in (0o022, 0o027, 0o077):
        old = os.umask(umask)
        try:
            write(tmp_path / "m.onnx", 1)
        finally:
            os.umask(old)
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}


@pytest.mark.parametrize("beside", [True, False])
def test_something_else_in_the_models_place_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    monkeypatch.setattr("poprt_cli.model_files.LARGEST_MESSAGE", 0 if beside else 10**9)
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(PoprtError, match=r"m\.onnx.*Is a directory"):
        save_model(make_model(1), tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_the_ending_chooses_the_format(tmp_path: Path) -> None:
    write(tmp_path / "m.json", 5, weights_beside=False)
    assert (tmp_path / "m.json").read_bytes().startswith(b"{")
    assert onnx.load(str(tmp_path / "m.json")).graph.name == "says 5"

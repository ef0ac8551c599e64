"""A name stands for the whole old file or the whole new one, and nothing else is left beside it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from poprt.atomic_file import draft, one_at_a_time, replacing
from poprt.executable import Executable
from tests.poprt.test_executable import make_executable


@pytest.fixture
def small_disk() -> Iterator[int]:
    """Files cannot grow beyond so many bytes: the error of a full disk, on writing, flushing and closing alike."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    yield 100_000
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, small_disk: int) -> None:
    (tmp_path / "f").write_bytes(b"old")
    for size in (small_disk + 1, 100 * small_disk):  # fails when flushed, fails when written
        for _ in range(2):
            with pytest.raises(OSError, match="too large"), replacing(tmp_path / "f") as file:
                file.write(bytes(size))
            assert names(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


def test_another_failure_is_not_hidden_by_the_full_disk(tmp_path: Path, small_disk: int) -> None:
    def fail() -> None:
        with replacing(tmp_path / "f") as file:
            file.write(bytes(small_disk))
            file.flush()
            file.write(b"cannot be flushed")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == []


def test_an_executable_that_does_not_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable = make_executable()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            executable.save(tmp_path / "m.popef")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert names(tmp_path) == []


def test_a_folder_in_the_files_place_stays_and_nothing_else_is_left(tmp_path: Path) -> None:
    (tmp_path / "m.popef").mkdir()
    with pytest.raises(IsADirectoryError):
        make_executable().save(tmp_path / "m.popef")
    assert names(tmp_path) == ["m.popef"]


def test_a_folder_that_gets_into_the_files_place_meanwhile_stays_too(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), replacing(tmp_path / "f"):
        (tmp_path / "f").mkdir()
    assert names(tmp_path) == ["f"]


def test_devices_and_pipes_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="Not a regular file"), replacing(tmp_path / "pipe"):
        pass
    assert (tmp_path / "pipe").is_fifo()
    assert names(tmp_path) == ["pipe"]


def test_the_mode_is_the_umasks(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        make_executable().save(tmp_path / "m.popef")
    finally:
        os.umask(old)
    assert (tmp_path / "m.popef").stat().st_mode & 0o777 == 0o640


def killed_writer(target: Path) -> None:
    """Another process begins to write ``target`` and is killed."""
    code = (
        "import os, signal, sys\n"
        "from poprt.atomic_file import replacing\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    file.write(b'half')\n"
        "    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(target)], check=False)


def test_the_draft_of_a_killed_process_goes_with_the_next_write_of_that_file(tmp_path: Path) -> None:
    killed_writer(tmp_path / "f")
    (left,) = names(tmp_path)
    assert left.startswith(".f.")
    with replacing(tmp_path / "other") as file:
        file.write(b"whole")
    assert names(tmp_path) == sorted([left, "other"])
    with replacing(tmp_path / "f") as file:
        file.write(b"whole")
    assert names(tmp_path) == ["f", "other"]


def test_drafts_under_way_and_files_of_other_names_stay(tmp_path: Path) -> None:
    others = [".f.tmp", ".f.12.tmp", ".f.12.0123456789abcdef.tmp", ".fx.12.0123456789abcdef.poprt-tmp", ".f.poprt-tmp"]
    for name in others:
        (tmp_path / name).touch()
    with replacing(tmp_path / "f") as first:
        first.write(b"first")
        with replacing(tmp_path / "f") as second:
            second.write(b"second")
        assert (tmp_path / "f").read_bytes() == b"second"
    assert (tmp_path / "f").read_bytes() == b"first"
    assert names(tmp_path) == sorted([*others, "f"])


def test_a_draft_that_is_not_published_vanishes(tmp_path: Path) -> None:
    with draft(tmp_path / "f") as unpublished:
        unpublished.file.write(b"never mind")
        assert unpublished.path.exists()
    assert names(tmp_path) == []


def test_the_lock_of_a_killed_process_holds_nobody_off(tmp_path: Path) -> None:
    (tmp_path / ".f.poprt-lock").touch()
    with one_at_a_time(tmp_path / "f"):
        assert names(tmp_path) == [".f.poprt-lock"]
    assert names(tmp_path) == []


def test_where_there_are_no_locks_files_are_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks available")

    killed_writer(tmp_path / "f")
    monkeypatch.setattr("fcntl.flock", refuse)
    with one_at_a_time(tmp_path / "f"), replacing(tmp_path / "f") as file:
        file.write(b"whole")
    left, written = names(tmp_path)
    assert left.startswith(".f.")  # nobody can tell whether it is under way
    assert written == "f"


def test_an_executable_is_whole_while_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "m.popef"
    make_executable().save(path)
    loaded = Executable(path)
    with replacing(path) as file:
        file.write(b"half of something else")
        file.flush()
        assert Executable(path).graph == loaded.graph
        file.truncate(0)
        file.seek(0)
        file.write(path.read_bytes())
    assert Executable(path).graph == loaded.graph

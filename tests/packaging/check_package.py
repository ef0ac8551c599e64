"""``python -m tests.packaging.check_package``: build wheel and sdist, look into them, and use the wheel as a stranger.

The wheel is installed in a bare environment outside the checkout. There the README's first blocks run, from a model to
answers. Only ``models/``, which builds the model and is not installed, is copied from the checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

from tests.docs.blocks import Block, blocks

ROOT = Path(__file__).parents[2]
PACKAGES = ("poprt", "poprt_cli", "poprt_format", "passes")
#: What an sdist needs to be built from, beside the packages.
SDIST_FILES = frozenset({"pyproject.toml", "README.md", "LICENSE"})


def main() -> None:
    """Build, look, install, run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _call([sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(ROOT)], folder)
        (wheel,) = (folder / "dist").glob("*.whl")
        (sdist,) = (folder / "dist").glob("*.tar.gz")
        check_wheel(wheel)
        check_sdist(sdist)
        use_wheel(wheel, folder)
    print("wheel and sdist hold what they should; the wheel alone takes a model to answers")


def check_wheel(wheel: Path) -> None:
    """Raise SystemExit unless the wheel holds the packages, whole, and nothing else."""
    with zipfile.ZipFile(wheel) as file:
        members = {item for item in file.namelist() if ".dist-info/" not in item}
        entry_points = next(file.read(item).decode() for item in file.namelist() if item.endswith("entry_points.txt"))
    _same("the wheel", members, _sources())
    for command in ("poprt = poprt_cli.main:main", "poprt_exec = poprt_cli.executor:main"):
        if command not in entry_points:
            raise SystemExit(f"the wheel's entry points lack {command!r}:\n{entry_points}")


def check_sdist(sdist: Path) -> None:
    """Raise SystemExit unless the sdist holds what a wheel is built from."""
    with tarfile.open(sdist) as file:
        members = {item.name.split("/", 1)[1] for item in file.getmembers() if item.isfile()}
    lacking = (_sources() | SDIST_FILES) - members
    if lacking:
        raise SystemExit(f"the sdist lacks {sorted(lacking)}")


def use_wheel(wheel: Path, folder: Path) -> None:
    """Install the wheel in an environment of its own and take the README's model to answers with it."""
    environment = folder / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    _call([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)], folder)
    work = folder / "work"
    shutil.copytree(ROOT / "models", work / "models")
    for block in _first_blocks():
        if block.language == "python":
            _call([str(python), "-c", block.text], work)
        else:
            _call(["sh", "-ec", block.text], work, PATH=f"{python.parent}{os.pathsep}{os.environ['PATH']}")


def _first_blocks() -> list[Block]:
    """The README's blocks from the one that builds a model to the first in Python."""
    page = blocks((ROOT / "README.md").read_text(encoding="utf-8"))
    start = next(index for index, block in enumerate(page) if "models.build" in block.text)
    end = next(index for index, block in enumerate(page) if block.language == "python")
    return page[start : end + 1]


def _sources() -> set[str]:
    """The files of the packages, as the wheel should hold them."""
    folders = (ROOT / package for package in PACKAGES)
    files = (
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in (".py", ".proto", ".binpb", ".html", ".txt") or path.name == "py.typed"
    )
    return {path.relative_to(ROOT).as_posix() for path in files}


def _same(what: str, members: set[str], expected: set[str]) -> None:
    if members != expected:
        raise SystemExit(f"{what} lacks {sorted(expected - members)} and should not hold {sorted(members - expected)}")


def _call(command: list[str], folder: Path, **variables: str) -> None:
    """Run a command in a folder, without the checkout on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=600)


if __name__ == "__main__":
    main()

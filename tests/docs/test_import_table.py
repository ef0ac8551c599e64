"""The architecture page's table says what each room imports, and that is what it imports."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

grimp = pytest.importorskip("grimp", reason="grimp comes with import-linter: pip install '.[lint]'")

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
PACKAGES = ("passes", "poprt", "poprt_cli", "poprt_format")
#: A module -> the package that people install for it.
DISTRIBUTIONS = {"google": "protobuf", "grpc": "grpcio", "yaml": "pyyaml"}
_ROW = re.compile(r"^\|[^|]*\| `([\w/]+)/` \|[^|]*\|([^|]*)\|$", re.MULTILINE)


def table() -> dict[str, set[str]]:
    """Folder -> what the table says that it imports."""
    return {folder: set(re.findall(r"`([^`]+)`", cell)) for folder, cell in _ROW.findall(PAGE.read_text("utf-8"))}


ROOMS = table()


@pytest.fixture(scope="module")
def imports() -> object:
    return grimp.build_graph(*PACKAGES, include_external_packages=True)


def imported_by(imports: object, folder: str) -> set[str]:
    """The rooms and packages that a folder's modules import."""
    root = folder.replace("/", ".")
    modules = {root} | imports.find_descendants(root)
    targets = {target for module in modules for target in imports.find_modules_directly_imported_by(module)}
    named = {_name(target, folder) for target in targets - modules}
    return {name for name in named if name and name not in sys.stdlib_module_names}


def _name(target: str, folder: str) -> str:
    """The room of a module of ours, the package of another one; "" for a plain file of ``poprt`` read inside it."""
    path = target.replace(".", "/")
    room = max((room for room in ROOMS if path == room or path.startswith(f"{room}/")), key=len, default="")
    package = target.split(".")[0]
    if package == "poprt":
        return "poprt" if not folder.startswith("poprt/") else room
    return room or DISTRIBUTIONS.get(package, package)


@pytest.mark.parametrize("folder", sorted(ROOMS))
def test_a_room_imports_what_the_table_says(imports: object, folder: str) -> None:
    assert imported_by(imports, folder) == ROOMS[folder]


def test_the_table_has_every_room() -> None:
    assert set(ROOMS) == {
        *(
            "poprt_cli",
            "passes",
            "poprt/bulk",
            "poprt/compiler",
            "poprt/runtime",
            "poprt/engine",
            "poprt/ray",
            "poprt/serve",
            "poprt/text",
            "poprt/triton",
            "poprt_format",
        )
    }

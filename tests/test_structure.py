"""The house as it says it is: no import circle at run time, and the table of passes names what is there."""

from __future__ import annotations

import graphlib
import importlib
import pkgutil
import subprocess
import sys

import pytest

import passes
from passes.base import GraphPass
from passes.builtin import BUILT_IN
from passes.registry import get_registered_passes, register

grimp = pytest.importorskip("grimp", reason="grimp comes with import-linter: pip install '.[lint]'")


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = grimp.build_graph("passes", "poprt", "poprt_cli", "poprt_format", exclude_type_checking_imports=True)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names the modules


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_built_in_pass_is_in_the_module_that_the_table_names(name: str) -> None:
    importlib.import_module(BUILT_IN[name])
    assert module_of(name) == BUILT_IN[name]


def test_every_registered_pass_of_the_project_is_in_the_table() -> None:
    for module in pkgutil.walk_packages(passes.__path__, "passes."):
        importlib.import_module(module.name)
    own = {name for name in get_registered_passes() if module_of(name).startswith("passes.")}
    assert own == set(BUILT_IN)


def module_of(name: str) -> str:
    from passes import registry

    return registry._PASSES[name].__module__


def test_a_built_in_name_is_guarded_before_its_pass_is_imported() -> None:
    code = (
        "from passes.registry import register\n"
        "try:\n"
        "    register('float_to_half')(type('Mine', (), {}))\n"
        "except Exception as error:\n"
        "    print(error)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "taken by passes.precision.float_to_half" in ended.stdout


def test_the_names_of_passes_need_neither_the_engine_nor_sympy() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom poprt_cli.main import cli\n"
        "print(CliRunner().invoke(cli, ['--list_all_passes']).stdout)\n"
        "print(sorted({'onnxruntime', 'sympy', 'onnx_graphsurgeon'} & set(sys.modules)))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "float_to_half" in ended.stdout
    assert "onnxruntime" not in ended.stdout.splitlines()[-1]
    assert "sympy" not in ended.stdout.splitlines()[-1]


def test_a_registered_class_may_be_registered_again() -> None:
    decorate = register("structure_of_the_tests")
    first = decorate(type("Twice", (GraphPass,), {}))
    decorate(first)

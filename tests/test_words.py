"""No code follows the words of a message: a refusal has a cause, and an error a class.

The check reads the syntax tree. A *message* is ``str(error)``, ``error.args`` and the attributes ``reason`` and
``message``; a name that was set from one; and a name that says that it is one. To branch on it is to ask how it begins
or ends, what it contains, what it equals, or whether a pattern matches it.

Names have words too: a variable is called after the thing that it holds, and not after how it came about.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [path for folder in ("passes", "poprt", "poprt_cli") for path in sorted((ROOT / folder).rglob("*.py"))]
FOLDERS = ("benchmarks", "examples", "models", "passes", "poprt", "poprt_cli", "poprt_format", "tests")

#: Names of exceptions beside those that are caught, and of texts beside those that are set from an exception.
_ERRORS = {"error", "exception", "refusal"}
_NAMES = {"message", "problem", "problems", "reason", "reasons", "refused", "why"}
_ATTRIBUTES = {"args", "message", "reason", "reasons"}
_QUESTIONS = {"startswith", "endswith", "find", "index", "partition", "removeprefix", "removesuffix", "split"}
_PATTERNS = {"fullmatch", "match", "search"}
#: Functions that may, and why there is no other way.
_ALLOWED = {
    "is_missing_operator": "onnxruntime's errors have no codes",
    "missing_operators": "nor have OpenVINO's, and all of them are RuntimeErrors",
    "_reason": "they name the operator and the reason in the midst of others' lines",
}
#: Names that say how a value came about, and leave open what it is.
_NO_THINGS = {"found", "given", "held", "known", "made", "wanted"}


def branches_on_words(source: str) -> list[str]:
    """The expressions of ``source`` that branch on the words of a message, each with its function and line."""
    expressions = []
    for function, body in _functions(ast.parse(source), "module"):
        nodes = list(_own_nodes(body))
        errors = {node.name for node in nodes if isinstance(node, ast.ExceptHandler) and node.name} | _ERRORS
        texts = _NAMES | {name for node in nodes for name in _set_to_a_message(node, errors)}
        expressions += [
            f"{function}, line {node.lineno}: {ast.unparse(node)}"
            for node in nodes
            if isinstance(node, ast.expr) and _asks(node, errors, texts)
        ]
    return expressions


def _functions(scope: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
    yield name, scope
    for node in _own_nodes(scope):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _functions(node, node.name)


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope, those of the functions inside left out."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _own_nodes(child)


def _set_to_a_message(node: ast.AST, errors: set[str]) -> list[str]:
    """The names that an assignment sets to the text of an exception."""
    if not isinstance(node, ast.Assign) or not _is_message(node.value, errors, set()):
        return []
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


def _is_message(node: ast.AST, errors: set[str], texts: set[str]) -> bool:
    if isinstance(node, ast.Subscript):
        return _is_message(node.value, errors, texts)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("str", "repr"):
        return any(isinstance(argument, ast.Name) and argument.id in errors for argument in node.args)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):  # str(error).lower()
        return _is_message(node.func.value, errors, texts)
    if isinstance(node, ast.Attribute):
        return node.attr in _ATTRIBUTES and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    return isinstance(node, ast.Name) and node.id in texts


def _asks(node: ast.AST, errors: set[str], texts: set[str]) -> bool:
    if isinstance(node, ast.Compare):
        return _compares(node, errors, texts)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    if node.func.attr in _QUESTIONS and node.args:  # `" ".join(text.split())` asks nothing
        return _is_message(node.func.value, errors, texts)
    return node.func.attr in _PATTERNS and any(_is_message(argument, errors, texts) for argument in node.args)


def _compares(node: ast.Compare, errors: set[str], texts: set[str]) -> bool:
    for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
        contained = isinstance(operator, (ast.In, ast.NotIn)) and _is_message(right, errors, texts)
        equal = isinstance(operator, (ast.Eq, ast.NotEq)) and any(
            _is_message(one, errors, texts) and _is_text(other) for one, other in ((left, right), (right, left))
        )
        if (contained and not _is_key(left)) or equal:
            return True
    return False


def _is_text(node: ast.AST) -> bool:
    return (isinstance(node, ast.Constant) and isinstance(node.value, str)) or isinstance(node, ast.JoinedStr)


def _is_key(node: ast.AST) -> bool:
    """``id(node) in reasons``: a table is asked for a key."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "id"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_branches_on_the_words_of_a_message(path: Path) -> None:
    expressions = branches_on_words(path.read_text(encoding="utf-8"))
    assert [line for line in expressions if line.partition(",")[0] not in _ALLOWED] == []


@pytest.mark.parametrize(
    "line",
    [
        "if problem.startswith('onnx: '): pass",
        "first = [n for n in nodes if not refused[id(n)].startswith('its input mixes')]",
        "if 'mixes' in refusal.reason: pass",
        "if str(refusal).endswith('padding'): pass",
        "if error.args[0] == 'no': pass",
        "try:\n    run()\nexcept ValueError as why_not:\n    if 'shape' in str(why_not).lower(): pass",
        "try:\n    run()\nexcept ValueError as raised:\n    text = str(raised)\n    any(s in text for s in SIGNS)",
        "if re.match('Softmax', str(error)): pass",
        "def f(reason):\n    return 'batch' not in reason",
    ],
)
def test_the_check_sees_code_that_branches_on_words(line: str) -> None:
    assert len(branches_on_words(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "if refusal.cause is Cause.FOLLOWS: pass",
        "if id(node) in placement.reasons: pass",
        "raise PackingError(f'{refusal}; and more')",
        "if reason is None: pass",
        "print(str(error).strip())",
        "if name.startswith('weight'): pass",
    ],
)
def test_the_check_lets_other_code_be(line: str) -> None:
    assert branches_on_words(line) == []


def names_no_thing(source: str) -> list[str]:
    """The variables and parameters of ``source`` that are called after how they came about, each with its line."""
    bindings = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg):
            bindings.append((node.lineno, node.arg))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bindings.append((node.lineno, node.id))
    return [f"line {line}: {name}" for line, name in sorted(bindings) if name in _NO_THINGS]


@pytest.mark.parametrize("folder", FOLDERS)
def test_variables_are_called_after_the_thing_that_they_hold(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))
    names = {path: names_no_thing(path.read_text(encoding="utf-8")) for path in paths}
    assert paths
    assert [f"{path.relative_to(ROOT)}, {name}" for path, lines in names.items() for name in lines] == []


@pytest.mark.parametrize(
    "line",
    [
        "found = 1",
        "wanted: int = 1",
        "made += 1",
        "rows, held = 1, 2",
        "for known in rows: pass",
        "[given for given in rows]",
        "with file as made: pass",
        "if (found := first()): pass",
        "def f(*, wanted): pass",
        "def f(*given): pass",
        "lambda known: 1",
    ],
)
def test_the_check_sees_a_name_of_no_thing(line: str) -> None:
    assert len(names_no_thing(line)) == 1


@pytest.mark.parametrize(
    "line",
    ["from hypothesis import given", "@given(rows)\ndef f(): pass", "file.found = 1", "row['made'] = 1", "found()"],
)
def test_the_check_lets_other_names_be(line: str) -> None:
    assert names_no_thing(line) == []

"""How much a model's local functions expand to. Engines and shape inference put the bodies in place of the calls."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from passes.errors import RewriteError
from passes.node_protos import walk_nodes

#: The most nodes that calls may expand to, whatever the size of the file, and how many times the file's own.
_MOST_NODES, _MOST_TIMES = 10_000, 10
#: The deepest nesting of calls; exporters nest a function for each level of modules, a dozen.
_DEEPEST = 64

_Key = tuple[str, str, str]


def check_functions(model: onnx.ModelProto) -> None:
    """Refuse local functions that are defined twice, call themselves, or expand to more nodes than a model should have.

    Raises:
        RewriteError: it names the function.
    """
    functions = {_key(function): function for function in model.functions}
    if len(functions) < len(model.functions):
        keys = [_key(function) for function in model.functions]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RewriteError(f"the model is not valid: it defines the local function {_name(twice)} twice; remove one")
    nodes = {key: list(walk_nodes(function.node)) for key, function in functions.items()}
    calls = {key: [_call(node) for node in body if _call(node) in functions] for key, body in nodes.items()}
    own = {key: len(nodes[key]) - len(calls[key]) for key in functions}
    limit = max(_MOST_NODES, _MOST_TIMES * (len(model.graph.node) + sum(map(len, nodes.values()))))
    sizes = _expanded_sizes(own, calls, limit)
    total = sum(sizes[_call(node)] for node in walk_nodes(model.graph.node) if _call(node) in functions)
    if total > limit:
        largest = max(sizes, key=lambda key: sizes[key])
        raise RewriteError(
            f"the model's local functions expand to more than {limit} nodes, most of them in {_name(largest)}; inline "
            "them, or export without functions"
        )


def _expanded_sizes(own: dict[_Key, int], calls: dict[_Key, list[_Key]], limit: int) -> dict[_Key, int]:
    """The nodes that each function expands to; a number above ``limit`` is cut to ``limit + 1``."""
    sizes: dict[_Key, int] = {}
    depths: dict[_Key, int] = {}
    for key in _callees_first(calls):
        sizes[key] = min(own[key] + sum(sizes[callee] for callee in calls[key]), limit + 1)
        depths[key] = 1 + max((depths[callee] for callee in calls[key]), default=0)
        if depths[key] > _DEEPEST:
            raise RewriteError(
                f"the model's local functions call each other more than {_DEEPEST} levels deep, from {_name(key)}; "
                "inline them, or export without functions"
            )
    return sizes


def _callees_first(calls: dict[_Key, list[_Key]]) -> Iterator[_Key]:
    """The functions in an order in which each comes after those that it calls, without Python's recursion."""
    done: set[_Key] = set()
    for start in calls:
        path: dict[_Key, Iterator[_Key]] = {} if start in done else {start: iter(calls[start])}
        while path:
            current = next(reversed(path))
            following = next((callee for callee in path[current] if callee not in done), None)
            if following is None:
                path.pop(current)
                done.add(current)
                yield current
            elif following in path:
                raise RewriteError(
                    f"the model is not valid: the local function {_name(following)} calls itself, by way of "
                    f"{_name(current)}; ONNX has no recursion"
                )
            else:
                path[following] = iter(calls[following])


def _key(function: onnx.FunctionProto) -> _Key:
    return (function.domain, function.name, function.overload)


def _call(node: onnx.NodeProto) -> _Key:
    return (node.domain, node.op_type, node.overload)


def _name(key: _Key) -> str:
    return repr(".".join(filter(None, key)))

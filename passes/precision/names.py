"""Names for new tensors."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.base import walk_graphs


def tensor_names(graph: gs.Graph) -> set[str]:
    """The names of the tensors of ``graph`` and its subgraphs, which share one name space."""
    scopes = walk_graphs(graph, functions=False)
    return {t.name for scope in scopes for t in (*scope.tensors().values(), *scope.inputs, *scope.outputs)}


def unique_name(base: str, taken: set[str]) -> str:
    """``base``, with a number after it where that is taken; the answer is added to ``taken``."""
    name, number = base, 1
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    taken.add(name)
    return name

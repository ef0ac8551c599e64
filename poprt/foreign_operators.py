"""Operators of a model that the installed onnxruntime does not have by itself."""

from __future__ import annotations

import onnx

from passes.node_protos import walk_nodes
from poprt.engine.plain import has_operator

#: Domains of onnx and onnxruntime: what they lack there, another version has.
_KNOWN_DOMAINS = frozenset({"ai.onnx", "ai.onnx.ml", "com.microsoft"})


def foreign_operators(model: onnx.ModelProto) -> tuple[str, ...]:
    """Each such operator of ``model``, its subgraphs and local functions, once, as "domain.Name"."""
    functions = {(function.domain, function.name) for function in model.functions}
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    names = {
        f"{node.domain or 'ai.onnx'}.{node.op_type}"
        for body in bodies
        for node in walk_nodes(body)
        if (node.domain, node.op_type) not in functions and not has_operator(node.domain, node.op_type)
    }
    return tuple(sorted(names))


def custom_operators(model: onnx.ModelProto) -> tuple[str, ...]:
    """Those that a library can bring: they are in a domain of their own."""
    return tuple(name for name in foreign_operators(model) if name.rpartition(".")[0] not in _KNOWN_DOMAINS)

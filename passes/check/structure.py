"""Cheap checks of a model's structure: what would otherwise change numbers in silence, hang, or take all memory.

Everything else that makes a model invalid is found by the pass that fails on it (:mod:`passes.check.explain`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from passes.check.functions import check_functions
from passes.check.tensors import check_element_type, check_tensor
from passes.check.texts import check_texts
from passes.errors import RewriteError
from passes.node_protos import subgraphs

_LARGEST_VERSION = 2**31 - 1  # of an operator set that is not onnx's own


def check_structure(model: onnx.ModelProto) -> None:
    """Refuse a model that no pass can read.

    Covers texts that are no UTF-8, versions of operator sets, element types, tensors without their data, names that
    are given twice, and local functions that call themselves or expand without measure. Weights are not copied.

    Raises:
        RewriteError: the message names the tensor, node or function.
    """
    check_texts(model)
    check_opsets(model.opset_import)
    for function in model.functions:
        check_opsets(function.opset_import)
        _check_nodes(function.node, dict.fromkeys(function.input, "an input"))
    _check_graph(model.graph, {})
    check_functions(model)


def check_opsets(imports: Iterable[onnx.OperatorSetIdProto]) -> None:
    """Refuse a version that the installed onnx does not know.

    Raises:
        RewriteError: it names the version and the domain.
    """
    newest = onnx.defs.onnx_opset_version()
    for entry in imports:
        standard = entry.domain in ("", "ai.onnx")
        if not 1 <= entry.version <= (newest if standard else _LARGEST_VERSION):
            supported = f"; it knows 1 to {newest}" if standard else ""
            raise RewriteError(
                f"the model imports opset {entry.version} of domain {entry.domain!r}, which the installed onnx does "
                f"not know{supported}. Export the model again with a known one"
            )


def _check_graph(graph: onnx.GraphProto, outer: dict[str, str]) -> None:
    """Check ``graph`` and the graphs inside. ``outer`` says what made each name that is visible from outside."""
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.type.HasField("tensor_type"):
            check_element_type(value.type.tensor_type.elem_type, f"tensor {value.name!r}")
    inputs = dict.fromkeys((value.name for value in graph.input), "an input")
    initializers = dict.fromkeys(_checked_initializers(graph), "an initializer")
    for name in initializers.keys() & outer.keys():
        raise RewriteError(
            f"the model is not valid: a subgraph has an initializer {name!r}, which outside of it is made by "
            f"{outer[name]}; rename one of them"
        )
    _check_nodes(graph.node, {**outer, **initializers, **inputs})


def _checked_initializers(graph: onnx.GraphProto) -> Iterator[str]:
    """The name of each initializer of ``graph``, after it was checked."""
    seen = set()
    for sparse in graph.sparse_initializer:
        check_tensor(sparse.indices, f"the indices of sparse initializer {sparse.values.name!r}")
    for tensor in [*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)]:
        if tensor.name in seen:
            raise RewriteError(
                f"the model is not valid: it has two initializers called {tensor.name!r}, and which of their values "
                "would be used is chance; remove or rename one of them"
            )
        seen.add(tensor.name)
        check_tensor(tensor, f"initializer {tensor.name!r}")
        yield tensor.name


def _check_nodes(nodes: Iterable[onnx.NodeProto], makers: dict[str, str]) -> None:
    """Check ``nodes`` and what they hold. Exporters have been seen to give an output the name of a tensor inside."""
    for node in nodes:
        label = f"{node.op_type} {node.name!r}"
        for attribute in node.attribute:
            for tensor in [attribute.t] if attribute.HasField("t") else attribute.tensors:
                check_tensor(tensor, f"attribute {attribute.name!r} of {label}")
        for nested in subgraphs(node):
            _check_graph(nested, makers)
        for name in filter(None, node.output):
            if name in makers:
                raise RewriteError(
                    f"the model is not valid: tensor {name!r} is made by {label} and by {makers[name]}; export it "
                    "again with other output names"
                )
            makers[name] = label

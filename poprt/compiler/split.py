"""Take a fused model apart: each of its models as the source of an executable of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import onnx

from passes.errors import RewriteError
from passes.node_protos import subgraphs, walk_graphs, walk_nodes
from poprt.compiler.source import Source
from poprt.errors import CompileError
from poprt.fused_names import FusedNames, prefix_of
from poprt.fusion import fused_metadata


def split_models(source: Source) -> list[Source]:
    """The models of a fused one with their plain names and their own metadata; none where ``source`` is one model.

    Each has the nodes and weights that its outputs are computed from, whatever these are called: a pass may have made
    nodes since, or let two models share a weight.

    Raises:
        CompileError: one model reads an input of another, or names would collide.
    """
    try:
        records = fused_metadata(source.model) or []
    except RewriteError as error:
        raise CompileError(str(error)) from error
    return [_part(source, index, record) for index, record in enumerate(records)]


def split_outputs(parts: Sequence[Source], outputs: Sequence[str] | None) -> list[list[str] | None]:
    """The outputs of each model to keep, by their plain names; None keeps all of them.

    Raises:
        CompileError: an output is not known or in several models, or a model would keep none.
    """
    if outputs is None:
        return [None] * len(parts)
    names = FusedNames([[item.name for item in part.model.graph.output] for part in parts])
    kept: list[list[str] | None] = [[] for _ in parts]
    for name in outputs:
        index = names.owner(name)
        kept[index] = [*(kept[index] or []), names.plain(index, name)]
    for index, chosen in enumerate(kept):
        if not chosen:
            raise CompileError(f"outputs: none of model {index} is asked for; name one, or give None for all")
    return kept


def _part(source: Source, index: int, record: dict[str, str]) -> Source:
    prefix, graph = prefix_of(index), source.model.graph
    own_inputs = [item for item in graph.input if item.name.startswith(prefix)]
    own_outputs = [item for item in graph.output if item.name.startswith(prefix)]
    needed = _needed(graph, [item.name for item in own_outputs])
    foreign = [item.name for item in graph.input if item.name in needed and not item.name.startswith(prefix)]
    if foreign:
        raise CompileError(f"fused model {index} reads {foreign[0]!r}, an input of another model; fuse them again")
    rename = _renaming(needed | {item.name for item in own_inputs}, index)
    model = onnx.ModelProto(ir_version=source.model.ir_version, graph={"name": graph.name})
    model.opset_import.extend(source.model.opset_import)
    model.functions.extend(source.model.functions)
    onnx.helper.set_model_props(model, record)
    model.graph.input.extend(own_inputs)
    model.graph.output.extend(own_outputs)
    model.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in needed)
    model.graph.value_info.extend(item for item in graph.value_info if item.name in needed)
    model.graph.node.extend(node for node in graph.node if not needed.isdisjoint(node.output))
    _rename(model.graph, rename)
    weights = {rename(name): array for name, array in source.weights.items() if name in needed}
    return Source(model, weights, frozenset(rename(name) for name in source.variable if name in needed))


def _needed(graph: onnx.GraphProto, outputs: Iterable[str]) -> set[str]:
    """The tensors of the main graph that ``outputs`` are computed from, and these themselves."""
    makers = {name: node for node in graph.node for name in node.output if name}
    needed: set[str] = set()
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        node = makers.get(name)
        if node is not None:
            needed.update(filter(None, node.output))
            for inner in walk_nodes([node]):  # a subgraph may hand on a tensor of the main graph as it is
                waiting += [*filter(None, inner.input)]
                waiting += [item.name for nested in subgraphs(inner) for item in nested.output]
    return needed


def _renaming(names: set[str], index: int) -> Callable[[str], str]:
    """How names lose the prefix of their model."""
    prefix = prefix_of(index)
    taken = sorted(name for name in names if prefix + name in names)
    if taken:
        raise CompileError(
            f"fused model {index} has tensors {taken[0]!r} and {prefix + taken[0]!r}, which would get one name; "
            "rename the first"
        )
    return lambda name: name.removeprefix(prefix)


def _rename(main: onnx.GraphProto, rename: Callable[[str], str]) -> None:
    for graph in walk_graphs(main):
        named: list[Any] = [*graph.input, *graph.output, *graph.initializer, *graph.value_info, *graph.node]
        for item in named:
            item.name = rename(item.name)
        for node in graph.node:
            node.input[:] = [rename(name) for name in node.input]
            node.output[:] = [rename(name) for name in node.output]

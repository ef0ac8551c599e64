"""Write inferred shapes and types into the graph."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import onnx_graphsurgeon as gs
import sympy

from passes.base import GraphPass, PassResult, walk_graphs
from passes.registry import register
from passes.shapes.dtypes import as_dtype, infer_dtypes
from passes.shapes.packed import is_unpacked_inside
from passes.shapes.ranks import ProvedShapes
from passes.shapes.shape_functions import has_shape_function
from passes.shapes.symbolic import SymbolicShapes, infer_symbolic_shapes

#: An extent as graphsurgeon holds it: a number, a name or expression, or None where nothing is known.
Extent = int | str | None

_NAME = re.compile(r"[A-Za-z_][\w.:/]*")


@register("shape_inference")
class ShapeInference(GraphPass):
    """Set the shape and type of each tensor of the main graph that lacks them, as far as they can be inferred.

    Extents that the model carries already win over inferred ones. Shapes that it carries for tensors whose rank
    depends on a run (an If that asks whether an extent is 1) are dropped, but for those of outputs; an output that
    declares another rank than its graph proves gets that of the graph. Extents that
    depend on the inputs are written as expressions of the inputs' dimension names (``2*seq``). Types are also set in
    subgraphs and local functions, shapes are not. In a model packed with Unpack only types are set: how much a pack
    holds is known at run time.
    """

    def apply(self, graph: gs.Graph) -> PassResult:
        """Fill in what is missing; see the class."""
        result = PassResult()
        untyped = _untyped(graph)
        _set_custom_dtypes(graph)
        infer_dtypes(graph)
        result.count("types set", untyped - _untyped(graph))
        if is_unpacked_inside(graph):
            result.refuse(
                "the model", "is packed: how much a pack holds is known at run time, and packing noted the rest"
            )
            return result
        _correct_outputs(graph, result)
        shapes = infer_symbolic_shapes(graph)
        result.count("shapes dropped", _drop_untrue(graph, shapes))
        inferred = known_extents(shapes, declared_names(graph))
        for name, tensor in graph.tensors().items():
            if not isinstance(tensor, gs.Variable) or tensor.type != "tensor_type" or tensor.dtype is None:
                continue  # a shape can be declared only together with a type
            if name in inferred:
                shape = merge_extents(tensor.shape, inferred[name])
                if shape != tensor.shape:
                    tensor.shape = shape
                    result.count("shapes set")
        return result


def _drop_untrue(graph: gs.Graph, inferred: SymbolicShapes) -> int:
    """Forget the shapes that are those of some runs alone; returns how many."""
    outputs = {id(tensor) for tensor in graph.outputs}
    untrue = [
        tensor
        for name, tensor in graph.tensors().items()
        if name in inferred.of_several_ranks and tensor.shape is not None and id(tensor) not in outputs
    ]
    for tensor in untrue:
        tensor.shape = None
    return len(untrue)


def declared_names(graph: gs.Graph) -> set[str]:
    """The dimension names that the main graph's tensors carry."""
    extents = (extent for tensor in graph.tensors().values() for extent in tensor.shape or ())
    return {word for extent in extents if isinstance(extent, str) for word in _NAME.findall(extent)}


def known_extents(inferred: SymbolicShapes, names: Collection[str]) -> dict[str, list[Extent]]:
    """The shapes that inference found, in the dimension names ``names``.

    Where inference meets an operator that it does not know it guesses a rank and makes up names. What rests on such a
    guess is left out. An extent of a made-up name is None here, and a shape of nothing else is left out.
    """
    proved = {name: shape for name, shape in inferred.items() if name not in inferred.guessed}
    shapes = {name: [_extent(dim, names) for dim in shape] for name, shape in proved.items()}
    return {name: shape for name, shape in shapes.items() if not shape or any(n is not None for n in shape)}


def _extent(dim: Any, names: Collection[str]) -> Extent:
    if isinstance(dim, int):
        return dim
    expression = sympy.sympify(dim)
    if expression.is_Integer:
        return int(expression)
    return str(expression) if all(str(symbol) in names for symbol in expression.free_symbols) else None


def merge_extents(declared: Sequence[Extent] | None, inferred: Sequence[Extent]) -> list[Extent]:
    """``declared``, with what it leaves open taken from ``inferred``; a number is more specific than a name."""
    if declared is None:
        return list(inferred)
    if len(declared) != len(inferred):
        return list(declared)
    return [_more_specific(old, new) for old, new in zip(declared, inferred, strict=True)]


def _more_specific(declared: Extent, inferred: Extent) -> Extent:
    return inferred if declared in (None, "") or (isinstance(declared, str) and isinstance(inferred, int)) else declared


def _set_custom_dtypes(graph: gs.Graph) -> None:
    """Set the types that registered shape functions give; the rules of the schemas would only guess them."""
    outputs = [t for node in graph.nodes if has_shape_function(node.op) for t in node.outputs if t.dtype is None]
    if outputs:
        inferred_dtypes = infer_symbolic_shapes(graph).dtypes
        for tensor in outputs:
            tensor.dtype = as_dtype(inferred_dtypes.get(tensor.name))


def _correct_outputs(graph: gs.Graph, result: PassResult) -> None:
    """Outputs [1, seq], made by a Reshape to three extents -> of three open axes: the graph is what runs."""
    declared = {tensor.name: tensor.shape for tensor in graph.outputs if tensor.inputs and tensor.shape is not None}
    outputs = [tensor for tensor in graph.outputs if tensor.name in declared]
    for tensor in outputs:
        tensor.shape = None
    proved = ProvedShapes(graph)
    for tensor in outputs:
        shape, own = declared[tensor.name], proved.shape(tensor)
        wrong = own is not None and len(own) != len(shape)
        tensor.shape = list(own) if own is not None and wrong else shape
        if wrong:
            gives = f"gives {len(own or ())}: what it declares is left out"
            result.refuse(f"output {tensor.name!r}", f"declares {len(shape)} axes, and the graph {gives}")


def _untyped(graph: gs.Graph) -> int:
    scopes = walk_graphs(graph)
    return sum(t.dtype is None for s in scopes for n in s.nodes for t in n.outputs if isinstance(t, gs.Variable))

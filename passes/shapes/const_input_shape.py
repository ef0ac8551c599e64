"""Fix the variable dimensions of the inputs."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult
from passes.errors import RewriteError
from passes.graph_io import export_weightless
from passes.packed_model import UNPACK_INFO, PackedModel
from passes.registry import register
from passes.shapes.baked_shapes import find_contradiction
from passes.shapes.contents import LARGEST_VALUE_READ
from passes.shapes.dtypes import infer_dtypes
from passes.shapes.input_shapes import InputShapes
from passes.shapes.packed import is_unpacked_inside
from passes.shapes.shape_inference import Extent, declared_names, known_extents, merge_extents
from passes.shapes.symbolic import infer_symbolic_shapes

_LONGEST_TRACED = 1 << 16

logger = logging.getLogger("poprt")


@register("const_input_shape")
class ConstInputShape(GraphPass):
    """Declare the shapes of inputs: fix variable dimensions, and infer all other declared shapes again.

    A dimension name that gets a number gets it everywhere. A known dimension cannot change. Constants that were baked
    for another shape (the target of a Reshape or Expand, a ConstantOfShape) are named in an error. Nothing is
    computed from the new numbers inside the graph: the shape arithmetic stays. In a packed model only the
    inputs and outputs change: how much a pack holds is known only at run time.

    Works on the main graph; the shapes declared inside subgraphs that name a fixed dimension are dropped.

    Args:
        input_shape: input name -> shape, all extents at least 1. Unknown names are a warning. An :class:`InputShapes`
            says all in one.
        batch_size: the extent of axis ``batch_axis`` of every input not named in ``input_shape``.
        batch_axis: see ``batch_size``.
    """

    def __init__(
        self,
        input_shape: InputShapes | Mapping[str, Sequence[int]] | None = None,
        batch_size: int | None = None,
        batch_axis: int = 0,
    ) -> None:
        super().__init__()
        self.shapes = InputShapes.of(input_shape, batch_size, batch_axis)

    def apply(self, graph: gs.Graph) -> PassResult:
        """Fix the inputs and the shapes that follow.

        Raises:
            RewriteError: a known dimension would change, a rank is wrong, one dimension name would get two values,
                or a constant in the graph was made for another shape.
        """
        result = PassResult()
        changed = self._fixed_shapes(graph)
        if not changed:
            return result
        symbols, names = _symbol_values(graph, changed), declared_names(graph)
        before = {tensor.name: tensor.shape for tensor in graph.inputs}
        for tensor in graph.inputs:
            shape = changed.get(tensor.name, tensor.shape)
            tensor.shape = None if shape is None else [symbols.get(n, n) for n in shape]
            result.count("inputs fixed", int(tensor.shape != before[tensor.name]))
        if is_unpacked_inside(graph):
            _declare_outputs(graph, names)
        else:
            contents = _infer_again(graph, symbols, names, result)
            fixed = {n for shape in changed.values() for n in shape}
            _refuse_contradictions(graph, before, fixed, contents)
        return result

    def _fixed_shapes(self, graph: gs.Graph) -> dict[str, list[Extent]]:
        """Input name -> the shape that it gets, for those that do not declare just that."""
        names = [tensor.name for tensor in graph.inputs]
        packed = PackedModel.read(graph)
        unknown = [name for name in self.shapes.by_name if name not in names]
        if unknown and packed is None:  # packing takes lengths away
            self.logger.warning("input_shape names %s; the model's inputs are %s", ", ".join(unknown), ", ".join(names))
        shapes = {}
        for tensor in graph.inputs:
            if packed and tensor.name in (*packed.sample_inputs, *packed.run_inputs, *packed.pair_inputs):
                continue  # their shapes are those of the pack already
            if packed and tensor.name == UNPACK_INFO and tensor.name not in self.shapes.by_name:
                continue  # a pack's lengths are not per row
            shape = self.shapes.fixed(tensor)
            if shape and shape != tensor.shape:
                shapes[tensor.name] = shape
        return shapes


def _symbol_values(graph: gs.Graph, changed: Mapping[str, Sequence[Extent]]) -> dict[Extent, int]:
    """Dimension name -> the number it gets."""
    values: dict[Extent, int] = {}
    origin: dict[Extent, str] = {}
    for tensor in graph.inputs:
        for old, new in zip(tensor.shape or (), changed.get(tensor.name, ()), strict=False):
            if not (isinstance(old, str) and old and isinstance(new, int)):
                continue
            if values.setdefault(old, new) != new:
                raise RewriteError(
                    f"dimension {old!r} would be {values[old]} in input {origin[old]!r} and {new} in input "
                    f"{tensor.name!r}; give both the same extent"
                )
            origin.setdefault(old, tensor.name)
    return values


def _declare_outputs(graph: gs.Graph, names: set[str]) -> None:
    inferred = known_extents(infer_symbolic_shapes(graph), names)
    for tensor in graph.outputs:
        if tensor.name in inferred:
            tensor.shape = merge_extents(tensor.shape, inferred[tensor.name])


def _infer_again(graph: gs.Graph, symbols: Mapping[Extent, int], names: set[str], result: PassResult) -> dict[str, Any]:
    """Drop the declared shapes, infer them, and keep of the old ones what inference does not know.

    Returns the integers that inference knows some tensors to hold.
    """
    infer_dtypes(graph)  # a shape can be declared only together with a type
    inputs = {id(tensor) for tensor in graph.inputs}
    tensors = [
        t
        for t in graph.tensors().values()
        if isinstance(t, gs.Variable) and id(t) not in inputs and t.dtype is not None
    ]
    old = {tensor.name: _substitute(tensor.shape, symbols) for tensor in tensors}
    before = {tensor.name: tensor.shape for tensor in tensors}
    for tensor in tensors:
        tensor.shape = None
    inference = infer_symbolic_shapes(graph)
    inferred_shapes = known_extents(inference, names)
    for tensor in tensors:
        inferred = inferred_shapes.get(tensor.name)
        declared = old[tensor.name]
        if inferred is None or declared is None or len(inferred) != len(declared):
            tensor.shape = declared if inferred is None else inferred
        else:
            tensor.shape = [_newer(new, was) for new, was in zip(inferred, declared, strict=True)]
        result.count("shapes inferred again", int(tensor.shape != before[tensor.name]))
    for node in graph.nodes:
        for nested in node.subgraphs(recursive=True):
            for tensor in nested.tensors().values():
                if isinstance(tensor, gs.Variable) and tensor.shape is not None and tensor.name not in before:
                    tensor.shape = _substitute(tensor.shape, symbols)
    return inference.contents


def _newer(inferred: Extent, declared: Extent) -> Extent:
    return declared if inferred is None or (isinstance(inferred, str) and isinstance(declared, int)) else inferred


def _substitute(shape: Sequence[Extent] | None, symbols: Mapping[Extent, int]) -> list[Extent] | None:
    """The shape with numbers for the names that got one; an expression that mentions one is unknown."""
    if shape is None:
        return None
    return [None if _mentions(extent, symbols) else extent for extent in (symbols.get(e, e) for e in shape)]


def _mentions(extent: Extent, symbols: Mapping[Extent, int]) -> bool:
    return isinstance(extent, str) and any(word in symbols for word in re.findall(r"[A-Za-z_][\w.]*", extent))


def _refuse_contradictions(
    graph: gs.Graph,
    before: Mapping[str, Sequence[Extent] | None],
    fixed: set[Extent],
    contents: Mapping[str, Any],
) -> None:
    baked = find_contradiction(graph, fixed, contents)
    strict = None if baked else _strict_inference_error(graph)
    if baked is None and strict is None:
        return
    after = {tensor.name: tensor.shape for tensor in graph.inputs}
    changes = ", ".join(f"{name}={shape}" for name, shape in after.items() if shape != before[name])
    for tensor in graph.inputs:
        tensor.shape = before[tensor.name]
    if strict is not None and _strict_inference_error(graph) is not None:
        logger.debug("the model fails strict shape inference with any input shape: %s", strict)
        for tensor in graph.inputs:
            tensor.shape = after[tensor.name]
        return
    raise RewriteError(
        f"the model cannot run with {changes}: {baked or strict}. Choose other extents, or export it with this "
        "dimension dynamic"
    )


def _strict_inference_error(graph: gs.Graph) -> str | None:
    model = export_weightless(graph, LARGEST_VALUE_READ)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    # with data_prop onnx writes down an extent for each element of a vector that may be a shape
    lengths = [t.shape[0] for t in graph.tensors().values() if t.shape is not None and len(t.shape) == 1]
    traceable = not any(isinstance(length, int) and length > _LONGEST_TRACED for length in lengths)
    try:
        onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=traceable)
    except onnx.shape_inference.InferenceError as error:
        return f"onnx: {error}"
    return None

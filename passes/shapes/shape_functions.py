"""Shape functions of scripts: how the output shapes of an operator that ONNX does not know follow from its inputs.

A function sees a model of one node whose inputs have numbers for extents. Extents that are open are given stand-in
numbers, twice, small and large: an output extent that is the stand-in both times is that open extent, one that is the
same number both times is that number, and any other stays unknown.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import onnx

from passes.errors import RewriteError
from passes.onnx_helper import get_dtype, get_shape

#: Extents: numbers, names of open extents, None where unknown.
Shape = list[int | str | None]
Registered = TypeVar("Registered", bound=Callable[..., Any])

#: The first stand-in of each try; the second open extent gets the next odd number, and so on.
_SMALL, _LARGE = 11, 1_000_003

_FUNCTIONS: dict[str, Callable[..., Any]] = {}

logger = logging.getLogger("poprt")


class ShapeFunc:
    """Base of a shape function: override ``__call__``.

    ``__call__(model, node)`` reads the inputs' shapes and types from ``model`` (``onnx_helper.get_shape``), gives the
    outputs theirs by :meth:`update_value_info`, and returns whether it could: a bool, or ``(model, bool)``.
    """

    def __call__(self, model: onnx.ModelProto, node: onnx.NodeProto) -> Any:
        """Set the outputs' shapes in ``model`` and say whether that was possible."""
        raise NotImplementedError(f"{type(self).__name__} must override __call__(model, node)")

    def update_value_info(self, model: onnx.ModelProto, tensor: onnx.ValueInfoProto) -> onnx.ModelProto:
        """Record ``tensor`` in the model, in place of what was known under its name; return the model."""
        for value in (*model.graph.value_info, *model.graph.output):
            if value.name == tensor.name:
                value.CopyFrom(tensor)
                return model
        model.graph.value_info.append(tensor)
        return model


def register_shape_func(op_types: str | Sequence[str]) -> Callable[[Registered], Registered]:
    """Decorator: a :class:`ShapeFunc` class, or a function of (model, node), for these operator types of any domain.

    It is asked where ONNX itself does not know the operator. A later registration replaces an earlier one.
    """
    names = [op_types] if isinstance(op_types, str) else list(op_types)

    def decorate(function: Registered) -> Registered:
        instance = function() if isinstance(function, type) else function
        _FUNCTIONS.update(dict.fromkeys(names, instance))
        return function

    return decorate


def has_shape_function(op_type: str) -> bool:
    """Whether a shape function is registered for the operator type."""
    return op_type in _FUNCTIONS


def ask_shape_function(
    node: onnx.NodeProto,
    inputs: Iterable[onnx.ValueInfoProto],
    constants: Iterable[onnx.TensorProto],
    opsets: Iterable[onnx.OperatorSetIdProto],
) -> dict[str, tuple[int, Shape | None]]:
    """Output name -> (element type, extents) as far as the registered function of the node's type knows them.

    Args:
        node: the node; its type has a shape function.
        inputs: what is known of its inputs.
        constants: those of its inputs whose numbers are known.
        opsets: the model's imports.
    """
    values, fixed, imports = list(inputs), list(constants), list(opsets)
    names = sorted({dim.dim_param for value in values for dim in value.type.tensor_type.shape.dim if dim.dim_param})
    tries = []
    for first in (_SMALL, _LARGE):
        stand_in = dict(zip(names, itertools.count(first, 2), strict=False))
        name_of = {number: name for name, number in stand_in.items()}
        answer = _ask(node, values, fixed, imports, stand_in)
        tries.append({output: (dtype, _named(shape, name_of)) for output, (dtype, shape) in answer.items()})
    small, large = tries
    return {name: (small[name][0], _agreed(small[name][1], large[name][1])) for name in small if name in large}


def _named(shape: list[int] | None, name_of: dict[int, str]) -> Shape | None:
    return None if shape is None else [name_of.get(extent, extent) for extent in shape]


def _agreed(small: Shape | None, large: Shape | None) -> Shape | None:
    """What both tries say; a number 0 is how a function leaves an extent open."""
    if small is None or large is None or len(small) != len(large):
        return None
    return [one if one == other and one != 0 else None for one, other in zip(small, large, strict=True)]


def _ask(
    node: onnx.NodeProto,
    inputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto],
    opsets: Sequence[onnx.OperatorSetIdProto],
    stand_in: dict[str, int],
) -> dict[str, tuple[int, list[int] | None]]:
    values = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in inputs]
    for value in values:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = stand_in[dim.dim_param]
    graph = onnx.helper.make_graph([node], node.op_type, values, [], initializer=constants)
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    try:
        answer = _FUNCTIONS[node.op_type](model, model.graph.node[0])
    except Exception as error:
        shapes = ", ".join(f"{value.name} {get_shape(model.graph, value.name)}" for value in values)
        raise RewriteError(f"the shape function of {node.op_type} failed for inputs {shapes}: {error!r}") from error
    answered, is_known = answer if isinstance(answer, tuple) else (model, answer)
    if is_known is False:
        logger.debug("the shape function of %s gives no shape for %s", node.op_type, ", ".join(node.output))
        return {}
    known_outputs: dict[str, tuple[int, list[int] | None]] = {}
    for name in filter(None, node.output):
        dtype = get_dtype(answered.graph, name)
        if dtype is not None:
            known_outputs[name] = dtype, get_shape(answered.graph, name)
    return known_outputs

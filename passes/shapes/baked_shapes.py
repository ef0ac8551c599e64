"""Finds shape constants that contradict the shapes declared around them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import sympy

from passes.base import node_label
from passes.operators import broadcasts, lookup
from passes.shapes.contents import LARGEST_VALUE_READ


def find_contradiction(graph: gs.Graph, fixed: set[int | str | None], contents: Mapping[str, Any]) -> str | None:
    """Say which baked constant contradicts the graph's shapes, or None where none does.

    Args:
        graph: the main graph, with the shapes of its tensors inferred.
        fixed: the extents that were just given to inputs.
        contents: tensor name -> the integers that shape inference knows it to hold.
    """
    for node in graph.nodes:
        if node.op == "Reshape":
            problem = _reshape_problem(node, fixed)
        elif node.op == "Expand":
            problem = _expand_problem(node, contents)
        elif broadcasts(node.op, node.domain, graph.opset):
            problem = _broadcast_problem(node)
        elif node.op == "Concat":
            problem = _concat_problem(node)
        else:
            continue
        if problem is not None:
            return f"{node_label(node)}: {problem}"
    return None


def constant_ints(tensor: gs.Tensor) -> list[int] | None:
    """The integers of a small constant (an initializer or a Constant node), flat; None for anything else."""
    if isinstance(tensor, gs.Variable):
        producer = tensor.inputs[0] if tensor.inputs else None
        if producer is None or producer.op != "Constant":
            return None
        value = producer.attrs.get("value")
        if not isinstance(value, gs.Constant):
            listed = producer.attrs.get("value_ints", producer.attrs.get("value_int"))
            return None if listed is None else [int(n) for n in np.atleast_1d(listed)]
        tensor = value
    if math.prod(tensor.shape) > LARGEST_VALUE_READ or not np.issubdtype(tensor.values.dtype, np.integer):
        return None
    return [int(n) for n in tensor.values.flatten()]


def static_shape(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """The tensor's shape where every extent is a known number."""
    shape = tensor.shape
    if shape is None or not all(isinstance(n, int) and n >= 0 for n in shape):
        return None
    return tuple(shape)


def _reshape_problem(node: gs.Node, fixed: set[int | str | None]) -> str | None:
    shape, target = static_shape(node.inputs[0]), constant_ints(node.inputs[1])
    if shape is None or target is None or node.attrs.get("allowzero"):
        return None
    if any(extent == 0 and axis >= len(shape) for axis, extent in enumerate(target)):
        return None  # onnx itself names this one
    asked = [shape[axis] if extent == 0 else extent for axis, extent in enumerate(target)]
    asked_total, total = math.prod(n for n in asked if n != -1), math.prod(shape)
    where = f"its target {target} was baked for another shape; its input {node.inputs[0].name!r} is {list(shape)}"
    if (total % asked_total if -1 in asked and asked_total else total != asked_total) != 0:
        return f"{where} with {total} elements"
    if -1 in asked and target[0] == 1 and shape and shape[0] > 1 and shape[0] in fixed:
        free = total // asked_total
        if free % shape[0] == 0 and free not in shape:
            return f"{where}, so axis 0 ({shape[0]}) would be folded into axis {asked.index(-1)}"
    return None


def _expand_problem(node: gs.Node, contents: Mapping[str, Any]) -> str | None:
    shape, target = static_shape(node.inputs[0]), constant_ints(node.inputs[1])
    where = "its target {} was baked for another shape"
    if target is None:
        target, where = _known_ints(contents.get(node.inputs[1].name)), "it expands to {}"
    if shape is None or target is None or _broadcasts([shape, tuple(target)]):
        return None
    return f"{where.format(target)}; its input {node.inputs[0].name!r} is {list(shape)}"


def _known_ints(content: Any) -> list[int] | None:
    """What shape inference knows of a vector, where all of it is numbers."""
    if not isinstance(content, (list, tuple)):
        return None
    numbers = [sympy.sympify(item) for item in content]
    return [int(number) for number in numbers] if all(number.is_Integer for number in numbers) else None


def _broadcast_problem(node: gs.Node) -> str | None:
    shapes = [static_shape(tensor) for tensor in node.inputs if tensor.name]
    known_shapes = [shape for shape in shapes if shape is not None]
    if len(known_shapes) != len(shapes) or _broadcasts(known_shapes):
        return None
    return f"its inputs have shapes {_listed(known_shapes)}, which do not broadcast{_blame(node)}"


def _concat_problem(node: gs.Node) -> str | None:
    shapes = [static_shape(tensor) for tensor in node.inputs]
    known_shapes = [shape for shape in shapes if shape is not None]
    if not known_shapes or len({len(shape) for shape in known_shapes}) != 1:
        return None
    axis = node.attrs["axis"] % len(known_shapes[0])
    if len({shape[:axis] + shape[axis + 1 :] for shape in known_shapes}) == 1:
        return None
    return f"its inputs have shapes {_listed(known_shapes)}, which do not join on axis {axis}{_blame(node)}"


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(str(list(shape)) for shape in shapes)


def _broadcasts(shapes: Sequence[tuple[int, ...]]) -> bool:
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        return False
    return True


def _blame(node: gs.Node) -> str:
    """The constants above ``node`` that could have been baked."""
    baked = [*dict.fromkeys(_baked_above(node))]
    return f"; baked above it: {', '.join(baked)}" if baked else ""


def _baked_above(node: gs.Node) -> Iterator[str]:
    """Shape constants above ``node`` without another node with one between."""
    seen: set[int] = set()
    stack = [tensor for tensor in node.inputs if tensor.name]
    while stack:
        tensor = stack.pop(0)
        for producer in tensor.inputs:
            if id(producer) in seen:
                continue
            seen.add(id(producer))
            index = lookup(producer.op, producer.domain).shape_input
            target = constant_ints(producer.inputs[index]) if index is not None else None
            if target is not None:
                yield f"{node_label(producer)} with {target}"
            else:
                stack.extend(t for t in producer.inputs if t.name)

"""How a node of an older opset is spelt in a newer one.

An operator is here where a node would be invalid in the newer opset, or valid and compute something else. All others
stay as they are. ``tests/passes/shapes/test_opset_adapters.py`` holds the table against onnx's schemas, and each
operator against itself in onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, get_origin

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.base import node_label
from passes.errors import RewriteError
from passes.operators import Family, members
from passes.precision.names import unique_name
from passes.shapes.ranks import Extents, ProvedShapes

_VALUE_ATTRIBUTES_SINCE = 12  # the opset from which Constant takes numbers beside tensors


class Site:
    """The scope (a graph, a subgraph or a function) whose nodes are adapted, and what adapters need to know of it.

    Attributes:
        target: the opset that the model is raised to.
        before, after: nodes that the adapter puts before and after the node.
    """

    def __init__(self, scope: gs.Graph, names: set[str], target: int, shapes: ProvedShapes | None) -> None:
        self.target = target
        self.before: list[gs.Node] = []
        self.after: list[gs.Node] = []
        self._names = names
        self._shapes = shapes
        self._outputs = {id(tensor) for tensor in scope.outputs}

    def shape(self, tensor: gs.Tensor) -> Extents | None:
        """What is proved of the shape of ``tensor``; an open extent is None, and so is an unknown rank."""
        return None if self._shapes is None else self._shapes.shape(tensor)

    def is_read(self, tensor: gs.Tensor) -> bool:
        """Whether anything reads ``tensor``."""
        return bool(tensor.name) and (bool(tensor.outputs) or id(tensor) in self._outputs)

    def constant(self, node: gs.Node, what: str, value: Any, dtype: Any) -> gs.Constant:
        """A constant with a name after the node's output."""
        return gs.Constant(self._name(node, what), np.asarray(value, dtype))

    def variable(self, node: gs.Node, what: str, dtype: Any, shape: Sequence[Any] | None = None) -> gs.Variable:
        """A tensor with a name after the node's output."""
        return gs.Variable(self._name(node, what), dtype, shape)

    def attribute(self, node: gs.Node, attribute: str, dtype: Any) -> gs.Tensor | None:
        """Take ``attribute`` away from ``node`` and return it as a tensor; None where the node has none.

        In a function it may be the function's own attribute.
        """
        value = node.attrs.pop(attribute, None)
        if value is None:
            return None
        if not isinstance(value, gs.Node.AttributeRef):
            return self.constant(node, attribute, value, dtype)
        if self.target < _VALUE_ATTRIBUTES_SINCE:
            raise _refusal(
                node, f"its {attribute} is an attribute of the function, which opset {self.target} cannot read"
            )
        kind = "value_float" if dtype == np.float32 else "value_int"
        several = "s" if get_origin(value.type) is list else ""
        output = self.variable(node, attribute, dtype)
        self.before.append(gs.Node("Constant", attrs={f"{kind}{several}": value}, outputs=[output]))
        return output

    def _name(self, node: gs.Node, what: str) -> str:
        return unique_name(f"{node.outputs[0].name}_{what}", self._names)


#: Changes a node in place; the nodes around it go to the site.
Adapter: TypeAlias = Callable[[gs.Node, Site], None]


def _refusal(node: gs.Node, reason: str) -> RewriteError:
    return RewriteError(
        f"the opset cannot be raised: {node_label(node)}: {reason}; export the model with a newer opset"
    )


def _set_input(node: gs.Node, index: int, tensor: gs.Tensor | None) -> None:
    """Put ``tensor`` at place ``index``; empty places before it are left out inputs. None changes nothing."""
    if tensor is None:
        return
    inputs = list(node.inputs)
    inputs += [gs.Variable.empty() for _ in range(index + 1 - len(inputs))]
    inputs[index] = tensor
    node.inputs = inputs


def _literal(node: gs.Node, attribute: str, default: Any) -> Any:
    value = node.attrs.get(attribute, default)
    if isinstance(value, gs.Node.AttributeRef):
        raise _refusal(node, f"its {attribute} is an attribute of the function that it stands in")
    return value


def _inputs_from(*attributes: tuple[str, Any]) -> Adapter:
    """Attributes become the inputs after the first, in this order; type None is that of the first input."""

    def adapt(node: gs.Node, site: Site) -> None:
        for index, (attribute, dtype) in enumerate(attributes, 1):
            own = dtype or (np.float32 if node.inputs[0].dtype is None else node.inputs[0].dtype)
            _set_input(node, index, site.attribute(node, attribute, own))

    return adapt


def _axes(node: gs.Node, site: Site) -> None:
    """Axes become an input. A list of none is the same as no list: all axes."""
    if node.attrs.get("axes") == []:
        del node.attrs["axes"]
    _set_input(node, 1, site.attribute(node, "axes", np.int64))


def _softmax(node: gs.Node, site: Site) -> None:
    """Softmax of all axes from ``axis`` on, as one; newer ones take ``axis`` alone.

    Where one axis is left, or the others have extent 1, both are the same. Else the axes are made one.
    """
    axis, shape = int(_literal(node, "axis", 1)), site.shape(node.inputs[0])
    if axis == -1 or (shape is not None and axis % max(len(shape), 1) == len(shape) - 1):
        node.attrs["axis"] = -1
        return
    if shape is not None and shape and all(extent == 1 for extent in shape[axis % len(shape) + 1 :]):
        node.attrs["axis"] = axis
        return
    data, result = node.inputs[0], node.outputs[0]
    flat, soft = (site.variable(node, what, data.dtype) for what in ("flat", "softmax"))
    extents = site.variable(node, "shape", np.dtype(np.int64))
    site.before += [
        gs.Node("Flatten", attrs={"axis": axis}, inputs=[data], outputs=[flat]),
        gs.Node("Shape", inputs=[data], outputs=[extents]),
    ]
    node.inputs, node.outputs, node.attrs["axis"] = [flat], [soft], -1
    site.after.append(gs.Node("Reshape", inputs=[soft, extents], outputs=[result]))


def _batch_norm_per_channel(node: gs.Node, _site: Site) -> None:
    if not _literal(node, "spatial", 1):
        raise _refusal(node, "it has statistics for each place (spatial is 0), which opset 9 took away")
    node.attrs.pop("spatial", None)


def _batch_norm_training(node: gs.Node, site: Site) -> None:
    """More than one output was how a node said that it trains: that it takes the statistics of its batch."""
    spare = [tensor.name for tensor in node.outputs[3:] if site.is_read(tensor)]
    if spare:
        raise _refusal(node, f"its output {spare[0]!r} is read, which opset 14 took away")
    if any(tensor.name for tensor in node.outputs[1:]):
        node.attrs["training_mode"] = 1
        node.outputs = node.outputs[:3]


def _dropout_mask(node: gs.Node, site: Site) -> None:
    """The mask becomes bool; who reads it still gets numbers."""
    mask = node.outputs[1] if len(node.outputs) > 1 else None
    if mask is None or not site.is_read(mask):
        return
    if node.inputs[0].dtype is None:
        raise _refusal(node, "its mask is read, and the type of its input is not known")
    element = onnx.helper.np_dtype_to_tensor_dtype(node.inputs[0].dtype)
    truth = site.variable(node, "mask", np.dtype(bool))
    node.outputs = [node.outputs[0], truth]
    site.after.append(gs.Node("Cast", attrs={"to": element}, inputs=[truth], outputs=[mask]))


def _dropout_ratio(node: gs.Node, site: Site) -> None:
    _set_input(node, 1, site.attribute(node, "ratio", np.float32))


def _top_k(node: gs.Node, site: Site) -> None:
    _set_input(node, 1, site.constant(node, "k", [_literal(node, "k", 0)], np.int64))
    del node.attrs["k"]


def _rename(op: str) -> Adapter:
    def adapt(node: gs.Node, _site: Site) -> None:
        node.op = op

    return adapt


def _resize_places(node: gs.Node, site: Site) -> None:
    """Older ones take the place x / scale; a region, of no effect here, becomes the second input."""
    scales = node.inputs[1]
    node.attrs["coordinate_transformation_mode"] = "asymmetric"
    if _literal(node, "mode", "nearest") == "nearest":
        node.attrs["nearest_mode"] = _nearest(node, scales)
    region = site.constant(node, "roi", [], np.float32) if site.target < 13 else gs.Variable.empty()
    node.inputs = [node.inputs[0], region, scales]


def _nearest(node: gs.Node, scales: gs.Tensor) -> str:
    """The engine rounds up where it makes smaller, and down where it makes larger."""
    constant = _constant(scales)
    values = np.ones(1, np.float32) if constant is None else np.asarray(constant.values)
    if (values >= 1).all():
        return "floor"
    if (values <= 1).all():
        return "ceil"
    raise _refusal(
        node, "it makes some axes smaller and some larger by the nearest place, which newer ones round alike"
    )


def _resize_left_out(node: gs.Node, _site: Site) -> None:
    """A region or scales of no elements become inputs that are left out: two answers to one question are an error."""
    node.inputs = [
        gs.Variable.empty() if index and (constant := _constant(t)) is not None and 0 in constant.shape else t
        for index, t in enumerate(node.inputs)
    ]


def _constant(tensor: gs.Tensor) -> gs.Constant | None:
    """``tensor`` as a constant, be it an initializer or made by a Constant node."""
    value = tensor.inputs[0].attrs.get("value") if tensor.inputs and tensor.inputs[0].op == "Constant" else tensor
    return value if isinstance(value, gs.Constant) else None


def _split_count(node: gs.Node, _site: Site) -> None:
    if len(node.inputs) < 2 or not node.inputs[1].name:
        node.attrs["num_outputs"] = len(node.outputs)


def _set_default(attribute: str, value: str) -> Adapter:
    """Write out a default that a newer opset changed, or introduced with another meaning."""

    def adapt(node: gs.Node, _site: Site) -> None:
        node.attrs.setdefault(attribute, value)

    return adapt


def _grid_sample(node: gs.Node, _site: Site) -> None:
    mode = _literal(node, "mode", "bilinear")
    node.attrs["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)


def _dft(node: gs.Node, site: Site) -> None:
    _set_input(node, 2, site.constant(node, "axis", _literal(node, "axis", 1), np.int64))
    node.attrs.pop("axis", None)


def _group_norm(node: gs.Node, site: Site) -> None:
    """A scale and a bias a group become a scale and a bias a channel."""
    groups = int(_literal(node, "num_groups", 0))
    channels, size, shape = (site.variable(node, what, np.dtype(np.int64)) for what in ("channels", "size", "shape"))
    site.before += [
        gs.Node("Shape", inputs=[node.inputs[0]], outputs=[channels], attrs={"start": 1, "end": 2}),
        gs.Node("Div", inputs=[channels, site.constant(node, "groups", [groups], np.int64)], outputs=[size]),
        gs.Node("Concat", inputs=[site.constant(node, "one", [1], np.int64), size], outputs=[shape], attrs={"axis": 0}),
    ]
    node.inputs = [node.inputs[0], *(_spread(node, site, index, shape) for index in (1, 2))]


def _spread(node: gs.Node, site: Site, index: int, shape: gs.Tensor) -> gs.Tensor:
    """[groups] -> [channels]: each value as often as a group has channels."""
    each = node.inputs[index]
    column, table, flat = (site.variable(node, f"{what}_{index}", each.dtype) for what in ("column", "table", "flat"))
    axis, every = site.constant(node, "last", [1], np.int64), site.constant(node, "every", [-1], np.int64)
    site.before += [
        gs.Node("Unsqueeze", inputs=[each, axis], outputs=[column]),
        gs.Node("Expand", inputs=[column, shape], outputs=[table]),
        gs.Node("Reshape", inputs=[table, every], outputs=[flat]),
    ]
    return flat


def _scan_over_batches(node: gs.Node, _site: Site) -> None:
    raise _refusal(node, "opset 8 scans each sample of a batch, which opset 9 took away")


#: Operator -> the opsets that changed it, in order, and what is done then.
ADAPTERS: dict[str, tuple[tuple[int, Adapter], ...]] = {
    "BatchNormalization": ((9, _batch_norm_per_channel), (14, _batch_norm_training)),
    "Clip": ((11, _inputs_from(("min", None), ("max", None))),),
    "DFT": ((20, _dft),),
    "Dropout": ((10, _dropout_mask), (12, _dropout_ratio)),
    "GridSample": ((20, _grid_sample),),
    "GroupNormalization": ((21, _group_norm),),
    "Hardmax": ((13, _softmax),),
    "LogSoftmax": ((13, _softmax),),
    "Pad": ((11, _inputs_from(("pads", np.int64), ("value", None))),),
    "ReduceSum": ((13, _axes),),
    "Resize": ((11, _resize_places), (13, _resize_left_out)),
    "RoiAlign": ((16, _set_default("coordinate_transformation_mode", "output_half_pixel")),),
    "Scan": ((9, _scan_over_batches),),
    "Scatter": ((11, _rename("ScatterElements")),),
    "Slice": ((10, _inputs_from(("starts", np.int64), ("ends", np.int64), ("axes", np.int64))),),
    "Softmax": ((13, _softmax),),
    "Split": ((13, _inputs_from(("split", np.int64))), (18, _split_count)),
    "Squeeze": ((13, _axes),),
    "TopK": ((10, _top_k),),
    "Unsqueeze": ((13, _axes),),
    "Upsample": ((9, _inputs_from(("scales", np.float32))), (10, _rename("Resize"))),
    **dict.fromkeys(members(Family.REDUCTION) - {"ReduceSum"}, ((18, _axes),)),
}

#: Operators whose adapter does better where shapes are known.
ASK_FOR_SHAPES = frozenset(["Hardmax", "LogSoftmax", "Softmax"])


def next_adapter(op: str, version: int, target: int) -> tuple[int, Adapter] | None:
    """The first change of ``op`` after opset ``version``, up to ``target``."""
    return next((entry for entry in ADAPTERS.get(op, ()) if version < entry[0] <= target), None)

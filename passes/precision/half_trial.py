"""Ask the engine whether it takes a node in float16: a model of that node alone, opened and run on a few numbers.

The engine's list of kernels is not enough. Where it has no float16 kernel it casts by itself, if it finds a float16
input to notice it by; and some kernels are listed for float16 that refuse it when they run (ScatterElements that adds).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from passes.base import subgraphs
from passes.engine_operators import has_half_kernel
from passes.node_values import constant
from passes.precision.half_rules import HalfRules, Precision
from passes.reference_session import SILENT, reference_session
from passes.shapes.dtypes import DTYPE_ATTRIBUTES, FLOAT, has_dtype

_IR_VERSION = 10
_HOLD_VALUES = frozenset(["Constant", "ConstantOfShape"])  # they give the type of the value that they hold
_MOST_VALUES = 64  # whole numbers up to this many say how (axes, a shape) and are given as they are
#: For tensors whose rank is not known, and for the last extent of whole numbers, which may be the length of an index:
#: the first that float32 runs on is tried.
_RANKS, _INDEX_LENGTHS = (1, 2, 3, 4), (1, 2, 3, 4)


def refused_in_half(nodes: Iterable[gs.Node], rules: HalfRules, opsets: Mapping[str, int]) -> Iterator[gs.Node]:
    """Those of ``nodes`` that the engine takes in float32 and not in the types that ``rules`` give them.

    Control flow and local functions are left out: the nodes that they hold are asked for by themselves.
    """
    for node in nodes:
        if node.op in _HOLD_VALUES or any(subgraphs(node)) or not rules.is_operator(node):
            continue
        halves = _halves(node, rules)
        if not halves or _is_cast(node, halves) or not _is_tensors(node):
            continue
        if _is_refused(_alone(node, opsets, set()), _alone(node, opsets, halves)):
            yield node


def _is_cast(node: gs.Node, halves: set[str]) -> bool:
    """Whether the engine, which has no float16 kernel for it, sees a float16 input and casts."""
    return not node.domain and not has_half_kernel("", node.op) and any(name.startswith("i") for name in halves)


def _halves(node: gs.Node, rules: HalfRules) -> set[str]:
    """The names, as :func:`_name` makes them, of the inputs and outputs that would be float16."""
    reads = {_name("i", i, t) for i, t in enumerate(node.inputs) if _is_half(t, rules.input(node, i))}
    return reads | {_name("o", i, t) for i, t in enumerate(node.outputs) if _is_half(t, rules.output(node, i))}


def _is_half(tensor: gs.Tensor, precision: Precision) -> bool:
    return has_dtype(tensor, FLOAT) and precision is Precision.HALF


def _name(kind: str, index: int, tensor: gs.Tensor) -> str:
    """Its place, so that equal nodes make equal models; "" for what is left out."""
    return f"{kind}{index}" if tensor.name else ""


def _is_tensors(node: gs.Node) -> bool:
    """Whether all types and attributes are known: a function's body may get them from its caller."""
    if any(isinstance(value, gs.Node.AttributeRef) for value in node.attrs.values()):
        return False
    named = [tensor for tensor in (*node.inputs, *node.outputs) if tensor.name]
    return all(t.dtype is not None and getattr(t, "type", "tensor_type") == "tensor_type" for t in named)


def _alone(node: gs.Node, opsets: Mapping[str, int], halves: set[str]) -> bytes:
    """A model of the node alone, its parameters float16 where ``halves`` names them."""
    inputs: list[onnx.ValueInfoProto] = []
    weights: list[onnx.TensorProto] = []
    for index, tensor in enumerate(node.inputs):
        name = _name("i", index, tensor)
        values = constant(tensor) if name and not has_dtype(tensor, FLOAT) else None
        if values is not None and values.size <= _MOST_VALUES:
            weights.append(onnx.numpy_helper.from_array(values, name))
        elif name:
            inputs.append(_declared(name, tensor, tensor.shape, halves))
    outputs = [_declared(f"o{i}", tensor, None, halves) for i, tensor in enumerate(node.outputs) if tensor.name]
    graph = onnx.helper.make_graph([_proto(node, halves)], "node", inputs, outputs, weights)
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION)
    return bytes(model.SerializeToString(deterministic=True))


def _declared(name: str, tensor: gs.Tensor, shape: Any, halves: set[str]) -> onnx.ValueInfoProto:
    """Of the shape the rank alone counts."""
    kind = tensor.dtype
    if not isinstance(kind, int):
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(np.float16 if name in halves else kind))
    return onnx.helper.make_tensor_value_info(name, kind, None if shape is None else [None] * len(shape))


def _proto(node: gs.Node, halves: set[str]) -> onnx.NodeProto:
    proto: onnx.NodeProto = OnnxExporter.export_node(node)
    proto.ClearField("name")
    proto.input[:] = [_name("i", i, tensor) for i, tensor in enumerate(node.inputs)]
    proto.output[:] = [_name("o", i, tensor) for i, tensor in enumerate(node.outputs)]
    if node.op in DTYPE_ATTRIBUTES and any(name in halves for name in proto.output):
        attribute = DTYPE_ATTRIBUTES[node.op][0]
        others = [item for item in proto.attribute if item.name != attribute]
        del proto.attribute[:]
        proto.attribute.extend([*others, onnx.helper.make_attribute(attribute, onnx.TensorProto.FLOAT16)])
    return proto


@lru_cache(maxsize=4096)
def _is_refused(plain: bytes, half: bytes) -> bool:
    """Whether the float32 form loads, or runs, where the float16 form does not. What neither does says nothing.

    A form that loads is run only where the engine has a float16 kernel: else it casts, and runs what it ran before.
    """
    session = _open(plain)
    if session is None:
        return False
    half_session = _open(half)
    if half_session is None:
        return True
    (node,) = onnx.ModelProto.FromString(plain).graph.node
    return has_half_kernel(node.domain, node.op_type) and _fails_in_half(session, half_session, plain)


def _fails_in_half(session: ort.InferenceSession, half_session: ort.InferenceSession, plain: bytes) -> bool:
    graph = onnx.ModelProto.FromString(plain).graph
    inputs, least = graph.input, _least_rank(graph.node[0])
    for rank, length in product([rank for rank in _RANKS if rank >= least], _INDEX_LENGTHS):
        feeds = {value.name: _numbers(value.type.tensor_type, rank, length) for value in inputs}
        if _runs(session, feeds):
            types = {value.name: value.type for value in half_session.get_inputs()}
            halved = {n: a.astype(np.float16) if "float16" in types[n] else a for n, a in feeds.items()}
            return not _runs(half_session, halved)
    return False


def _least_rank(node: onnx.NodeProto) -> int:
    """Room for each axis that the node names: without it ReverseSequence ends the process, and raises nothing."""
    return 1 + max((item.i for item in node.attribute if item.name.endswith("axis")), default=-1)


def _open(model: bytes) -> ort.InferenceSession | None:
    try:
        return reference_session(model, threads=1)
    except Exception:  # onnxruntime's exceptions share no base class of their own
        return None


def _numbers(kind: onnx.TypeProto.Tensor, rank: int, length: int) -> np.ndarray[Any, Any]:
    """One element: 1; of whole numbers ``length`` of them: 0, which is an index of anything."""
    rank = len(kind.shape.dim) if kind.HasField("shape") else rank
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    shape = [1] * rank
    if dtype.kind not in "iu":
        return np.ones(shape, dtype)
    shape[-1:] = [length] * bool(rank)
    return np.zeros(shape, dtype)


def _runs(session: ort.InferenceSession, feeds: Mapping[str, np.ndarray[Any, Any]]) -> bool:
    options = ort.RunOptions()
    options.log_severity_level = SILENT
    try:
        session.run(None, dict(feeds), options)
    except Exception:  # as above
        return False
    return True

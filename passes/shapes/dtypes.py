"""Which element type each tensor has, read off the operators' schemas.

Passes that change types must know them all, and exporters leave many tensors without one. The rule of the ONNX
schemas is local (an output has the type of the inputs with the same type variable), so no shapes are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.base import subgraphs, walk_graphs
from passes.declared_types import declared_type
from passes.engine_operators import engine_schema
from passes.graph_io import opset_imports

#: numpy's type, or the ONNX enumeration value where numpy has none; None where unknown.
Dtype = np.dtype[Any] | int | None

FLOAT: np.dtype[Any] = np.dtype(np.float32)
_BY_NAME = {
    onnx.TensorProto.DataType.Name(value).lower(): onnx.helper.tensor_dtype_to_np_dtype(value)
    for value in onnx.helper.get_all_tensor_dtypes()
}
#: Operators that choose their output type by an attribute: attribute name, and the type without it (None: the input's).
DTYPE_ATTRIBUTES: Mapping[str, tuple[str, Dtype]] = {
    "Bernoulli": ("dtype", None),
    "BlackmanWindow": ("output_datatype", FLOAT),
    "EyeLike": ("dtype", None),
    "HammingWindow": ("output_datatype", FLOAT),
    "HannWindow": ("output_datatype", FLOAT),
    "MelWeightMatrix": ("output_datatype", FLOAT),
    "Multinomial": ("dtype", np.dtype(np.int32)),
    "RandomNormal": ("dtype", FLOAT),
    "RandomNormalLike": ("dtype", None),
    "RandomUniform": ("dtype", FLOAT),
    "RandomUniformLike": ("dtype", None),
    "SequenceEmpty": ("dtype", FLOAT),
}
_MAKE_SEQUENCES = frozenset(
    ["SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceMap", "SplitToSequence"]
)
#: Domains whose operators onnx does not know and that give the type that they take.
_GUESSED_DOMAINS = frozenset(["", None, "ai.onnx", "ai.graphcore", "com.microsoft"])
_INT64: Dtype = np.dtype(np.int64)
_CONSTANT_ATTRIBUTES = {"value_float": FLOAT, "value_floats": FLOAT, "value_int": _INT64, "value_ints": _INT64}


def has_dtype(tensor: gs.Tensor, dtype: Any) -> bool:
    """Whether the tensor is known to have this numpy type."""
    is_known = isinstance(tensor.dtype, (np.dtype, type))  # not onnx's number of a type, or the type of an optional
    return is_known and np.dtype(tensor.dtype) == np.dtype(dtype)


def as_dtype(value: Any) -> Dtype:
    """An attribute's type (an ONNX enumeration value or a numpy type) as numpy's type."""
    if isinstance(value, int):
        return onnx.helper.tensor_dtype_to_np_dtype(value)
    return None if isinstance(value, gs.Node.AttributeRef) or value is None else np.dtype(value)


def find_schema(node: gs.Node, opsets: Mapping[str, int]) -> onnx.defs.OpSchema | None:
    """The schema of ``node`` under ``opsets`` (domain -> version), or None where onnx does not know the operator."""
    domain = "" if node.domain in (None, "ai.onnx") else node.domain
    try:
        return onnx.defs.get_schema(node.op, opsets.get(domain, 1), domain)
    except onnx.defs.SchemaError:
        return None


def type_variable(formals: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> str:
    """The type of parameter ``index``: a variable such as "T", or a type such as "tensor(int64)"; "" past the end.

    Each argument of a heterogeneous variadic parameter has a type of its own: "" as well.
    """
    if index < len(formals):
        formal = formals[index]
    elif formals and formals[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic:
        formal = formals[-1]
    else:
        return ""
    variadic = formal.option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    return "" if variadic and not formal.is_homogeneous else str(formal.type_str)


def allowed_types(schema: onnx.defs.OpSchema, variable: str) -> frozenset[str]:
    """The types that a type variable (or a plain type) of ``schema`` may stand for: "tensor(float)" and so on."""
    for constraint in schema.type_constraints:
        if constraint.type_param_str == variable:
            return frozenset(constraint.allowed_type_strs)
    return frozenset([variable])


def infer_dtypes(graph: gs.Graph) -> None:
    """Set the dtype of every tensor whose type is missing and follows from the schemas.

    What a custom operator gives follows from its readers alone: an Add reads two tensors of one type.
    Covers subgraphs, and those local functions that are called, with the types of their first call.
    The nodes must be in topological order. What does not follow stays None.
    """
    functions = {(function.domain, function.name): function for function in graph.functions}
    opsets = opset_imports(graph)
    _infer(graph, opsets, functions)
    while _infer_from_readers(graph, opsets):
        _infer(graph, opsets, functions)


def _infer_from_readers(graph: gs.Graph, opsets: Mapping[str, int]) -> bool:
    """Set the dtypes of what no known operator gives; say whether there were any to set."""
    nodes = [node for scope in walk_graphs(graph, functions=False) for node in scope.nodes]
    untyped = [tensor for node in nodes for tensor in node.outputs if tensor.name and tensor.dtype is None]
    unknown = [tensor for tensor in untyped if declared_type(tensor) is None]
    for tensor in unknown:
        read_types = (_read_as(tensor, reader, opsets) for reader in tensor.outputs)
        tensor.dtype = next((dtype for dtype in read_types if dtype is not None), None)
    return any(tensor.dtype is not None for tensor in unknown)


def _read_as(tensor: gs.Tensor, reader: gs.Node, opsets: Mapping[str, int]) -> Dtype:
    """The type that ``tensor`` must have for ``reader`` to take it: that of its other operands of the same variable."""
    schema = find_schema(reader, opsets)
    if schema is None:
        return None
    inputs = [(type_variable(schema.inputs, index), operand) for index, operand in enumerate(reader.inputs)]
    outputs = [(type_variable(schema.outputs, index), result) for index, result in enumerate(reader.outputs)]
    variable = next(name for name, operand in inputs if operand is tensor)
    allowed = allowed_types(schema, variable)
    if not variable or not all(kind.startswith("tensor(") for kind in allowed):
        return None
    if len(allowed) == 1:
        return _tensor_dtype(allowed)
    alike = (other.dtype for name, other in [*inputs, *outputs] if name == variable and other.name)
    return next((dtype for dtype in alike if dtype is not None), None)


def _tensor_dtype(kinds: Iterable[str]) -> Dtype:
    """The type of the first of ``kinds`` ("tensor(float)")."""
    return _BY_NAME.get(next(iter(kinds)).removeprefix("tensor(").removesuffix(")"))


def _infer(graph: gs.Graph, opsets: Mapping[str, int], functions: Mapping[tuple[str, str], gs.Function]) -> None:
    for node in graph.nodes:
        _bind_body_inputs(node)
        for nested in subgraphs(node):
            _infer(nested, opsets, functions)
        called = functions.get((node.domain or "", node.op))
        output_dtypes = _call(node, called, functions) if called is not None else _outputs(node, opsets)
        for index, (output, dtype) in enumerate(zip(node.outputs, output_dtypes, strict=False)):
            if isinstance(output, gs.Variable) and output.name and output.dtype is None:
                output.dtype = dtype
                if _gives_sequence(node, index, called):
                    output.type = "sequence_type"


def _gives_sequence(node: gs.Node, index: int, called: gs.Function | None) -> bool:
    """Whether an output is a sequence of tensors."""
    if called is not None:
        return _is_sequence(called.outputs[index])
    if node.op == "If":
        return _is_sequence(node.attrs["then_branch"].outputs[index])
    if node.op == "Loop":
        return _is_sequence(node.attrs["body"].outputs[index + 1])
    return node.op in _MAKE_SEQUENCES or (node.op == "Identity" and _is_sequence(node.inputs[0]))


def _is_sequence(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Variable) and tensor.type == "sequence_type"


def _bind_body_inputs(node: gs.Node) -> None:
    if node.op not in ("Loop", "Scan"):
        return
    body, skipped = node.attrs["body"], 2 if node.op == "Loop" else 0
    for outer, inner in zip(node.inputs[skipped:], body.inputs[skipped:], strict=False):
        _bind(inner, outer)


def _bind(inner: gs.Tensor, outer: gs.Tensor) -> None:
    """Give an input of a body the type of what it is called with."""
    if inner.dtype is None:
        inner.dtype = outer.dtype
        if _is_sequence(outer):
            inner.type = "sequence_type"


def _call(node: gs.Node, function: gs.Function, functions: Mapping[tuple[str, str], gs.Function]) -> list[Dtype]:
    if node.domain == "ai.graphcore":  # generic in dtype: one body serves calls of different types
        return _outputs(node, {})
    for outer, inner in zip(node.inputs, function.inputs, strict=False):
        _bind(inner, outer)
    _infer(function, opset_imports(function), functions)
    return [output.dtype for output in function.outputs]


def _outputs(node: gs.Node, opsets: Mapping[str, int]) -> list[Dtype]:
    special = _outputs_by_attribute(node)
    if special is not None:
        return special
    schema = find_schema(node, opsets) or engine_schema(node.domain or "", node.op)
    if schema is None:
        return _outputs_of_unknown(node)
    bound: dict[str, Dtype] = {}
    for index, tensor in enumerate(node.inputs):
        variable = type_variable(schema.inputs, index)
        if variable and tensor.name and tensor.dtype is not None:
            bound.setdefault(variable, tensor.dtype)
    return [_output(schema, index, bound, node) for index in range(len(node.outputs))]


def _output(schema: onnx.defs.OpSchema, index: int, bound: Mapping[str, Dtype], node: gs.Node) -> Dtype:
    variable = type_variable(schema.outputs, index)
    if variable in bound:
        return bound[variable]
    allowed = allowed_types(schema, variable)
    if len(allowed) == 1:
        return _tensor_dtype(allowed)
    if "Sequence" in node.op:  # the element type of the sequence is that of its tensors
        return node.inputs[0].dtype if node.inputs else None
    return None


def _outputs_by_attribute(node: gs.Node) -> list[Dtype] | None:
    if node.op == "Cast":
        return [as_dtype(node.attrs.get("to"))]
    if node.op == "Constant":
        value = node.attrs.get("value")
        if isinstance(value, gs.Tensor):
            return [value.dtype]
        return [next((dtype for name, dtype in _CONSTANT_ATTRIBUTES.items() if name in node.attrs), None)]
    if node.op == "ConstantOfShape":
        value = node.attrs.get("value")
        return [FLOAT if value is None else getattr(value, "dtype", None)]
    if node.op == "AttentionMask":
        return [np.dtype(np.float16) if node.attrs.get("dataType") == "FLOAT16" else FLOAT]
    if node.op in DTYPE_ATTRIBUTES:
        name, default = DTYPE_ATTRIBUTES[node.op]
        if default is None and node.inputs:
            default = node.inputs[0].dtype
        return [as_dtype(node.attrs[name]) if name in node.attrs else default]
    if node.op == "If":
        return [output.dtype for output in node.attrs["then_branch"].outputs]
    if node.op in ("Loop", "Scan"):
        return [output.dtype for output in node.attrs["body"].outputs[1 if node.op == "Loop" else 0 :]]
    return None


def _outputs_of_unknown(node: gs.Node) -> list[Dtype]:
    if node.domain not in _GUESSED_DOMAINS:
        return []
    floating = [t.dtype for t in node.inputs if any(has_dtype(t, kind) for kind in (np.float32, np.float16))]
    if floating and node.domain != "ai.graphcore":
        return [floating[0]]
    return [node.inputs[0].dtype] if node.inputs else []

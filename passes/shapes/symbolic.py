"""Symbolic shapes: which axis of which tensor carries the batch, and which the sequence.

onnxruntime's symbolic shape inference does the work. It runs on a copy of the graph without its large tensors, so
that a 400 MB model costs no more than a small one, and what it found before it met something it cannot infer is
kept.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import onnx
import onnx_graphsurgeon as gs
import sympy
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference, get_opset, get_shape_from_sympy_shape

from passes.errors import RewriteError
from passes.graph_io import export_weightless
from passes.operators import Family, members
from passes.ops.common import DOMAIN
from passes.shapes.attention_shapes import standard_attention_shapes
from passes.shapes.contents import LARGEST_VALUE_READ, is_shape_like
from passes.shapes.shape_functions import ask_shape_function, has_shape_function

#: An extent: a number, or an expression of the inputs' symbols.
Dim: TypeAlias = "int | sympy.Expr"
Shape: TypeAlias = tuple[Dim, ...]

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_REDUCTIONS = members(Family.REDUCTION) - {"ReduceMean", "ReduceProd", "ReduceSum"}
_HIGHEST_RANK = 64  # engines know eight axes or so

logger = logging.getLogger("poprt")


class SymbolicShapes(dict[str, Shape]):
    """Tensor name -> shape. A tensor of unknown rank is absent.

    Attributes:
        contents: tensor name -> the list of extents (or the one extent) that an integer tensor is known to hold.
        dtypes: tensor name -> its ONNX element type, where that is known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.contents: dict[str, Any] = {}
        self.dtypes: dict[str, int] = {}


def symbol(name: str) -> sympy.Symbol:
    """The symbol that inference uses for the dimension called ``name``."""
    return sympy.Symbol(name, integer=True, positive=True)


def infer_symbolic_shapes(
    graph: gs.Graph, input_shapes: Mapping[str, Sequence[int | str]] | None = None
) -> SymbolicShapes:
    """Infer the shapes of ``graph``'s tensors.

    Args:
        graph: the main graph; shapes inside its subgraphs are not reported.
        input_shapes: shapes to assume for some inputs instead of the declared ones; a string is a symbol.

    Returns:
        The shapes that are known. Shapes that the graph's tensors carry already win over inferred ones, extent by
        extent, where ``input_shapes`` does not contradict what they were made for.
    """
    assumed = dict(input_shapes or {})
    renamed, fixed_before = _reinterpret(graph, assumed)
    model = export_weightless(graph, LARGEST_VALUE_READ)
    for value in model.graph.input:
        if value.name in assumed:
            assume(value, assumed[value.name])
    inference = _run(model)
    found = SymbolicShapes()
    for name, value in inference.known_vi_.items():
        shape = _read(value, inference)
        if shape is not None:
            found[name] = shape
        if value.type.tensor_type.elem_type:
            found.dtypes[name] = value.type.tensor_type.elem_type
    found.contents = {name: data for name, data in inference.sympy_data_.items() if data is not None}
    for name, tensor in graph.tensors().items():
        if isinstance(tensor, gs.Constant):
            found[name] = tuple(tensor.shape)
        elif tensor.shape is not None and name not in assumed and not fixed_before:
            found[name] = _merge(found.get(name), tensor.shape, renamed)
    return found


def teach_reductions(inference: Any) -> None:
    """Let inference know reductions whose axes are an input, for a model that was preprocessed.

    onnxruntime's knows ReduceSum, ReduceMean and ReduceProd alone, and stops at the others from opset 18 on.
    """
    if get_opset(inference.out_mp_) >= 18:
        inference.dispatcher_.update(dict.fromkeys(_REDUCTIONS, inference._infer_ReduceSum))


def _reinterpret(graph: gs.Graph, assumed: Mapping[str, Sequence[int | str]]) -> tuple[dict[str, Dim], bool]:
    """How the symbols of the shapes in the graph read under the assumption, and whether they cannot be trusted.

    They cannot where the model was exported with a fixed extent that is now assumed to vary.
    """
    renamed: dict[str, Dim] = {}
    fixed_before = False
    for tensor in graph.inputs:
        if tensor.shape is None or tensor.name not in assumed:
            continue
        for old, new in zip(tensor.shape, assumed[tensor.name], strict=False):
            if isinstance(old, str):
                renamed[old] = symbol(new) if isinstance(new, str) else new
            elif isinstance(old, int) and old != new:
                fixed_before = True
    return renamed, fixed_before


def assume(value: onnx.ValueInfoProto, shape: Sequence[int | str]) -> None:
    """Declare the shape of an input; a string is a symbol."""
    del value.type.tensor_type.shape.dim[:]
    for extent in shape:
        dim = value.type.tensor_type.shape.dim.add()
        if isinstance(extent, str):
            dim.dim_param = extent
        else:
            dim.dim_value = extent


class _Inference(SymbolicShapeInference):  # type: ignore[misc]  # onnxruntime has no types
    """Symbolic shape inference that asks the registered shape functions where onnx does not know an operator.

    onnxruntime goes by an operator's name and takes the standard Attention for com.microsoft's, which has other inputs.
    Of GatherND it overlooks ``batch_dims``.
    """

    def _infer_GatherND(self, node: onnx.NodeProto) -> None:  # noqa: N802  (overrides)
        data, indices = self._get_shape(node, 0), self._get_shape(node, 1)
        batch = next((item.i for item in node.attribute if item.name == "batch_dims"), 0)
        if not isinstance(indices[-1], int):
            raise ValueError(f"GatherND {node.name!r}: how many axes its indices name is not known")
        dtype = self.known_vi_[node.input[0]].type.tensor_type.elem_type
        shape = [*indices[:-1], *data[batch + indices[-1] :]]
        self.known_vi_[node.output[0]].CopyFrom(onnx.helper.make_tensor_value_info(node.output[0], dtype, shape))

    def _infer_Attention(self, node: onnx.NodeProto) -> None:  # noqa: N802  (overrides)
        if node.domain:
            super()._infer_Attention(node)
            return
        shapes = [self._get_shape(node, index) for index in range(3)]
        dtype = self.known_vi_[node.input[0]].type.tensor_type.elem_type
        for name, shape in zip(node.output, standard_attention_shapes(node, *shapes), strict=False):
            if name:
                self.known_vi_[name].CopyFrom(onnx.helper.make_tensor_value_info(name, dtype, shape))

    def _infer_crossing(self, node: onnx.NodeProto) -> None:
        """Unpack and Repack change the first two extents alone.

        Left to guess the others, inference would take an unknown extent of 1 for that of the tensor it is broadcast to.
        """
        data = self._get_shape(node, 0)
        first = [str(self._new_symbolic_dim_from_output(node, 0, axis)) for axis in range(2)]
        dtype = self.known_vi_[node.input[0]].type.tensor_type.elem_type
        made = onnx.helper.make_tensor_value_info(node.output[0], dtype, [*first, *data[2:]])
        self.known_vi_[node.output[0]].CopyFrom(made)

    def _infer_Flatten(self, node: onnx.NodeProto) -> None:  # noqa: N802  (overrides)
        """[n, L, H] -> [n, L * H]: onnx alone would call the products by new names."""
        shape = self._get_sympy_shape(node, 0)
        axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
        axis = axis + len(shape) if axis < 0 else axis
        extents = [sympy.prod(shape[:axis]), sympy.prod(shape[axis:])]
        self._update_computed_dims(extents)
        dtype = self.known_vi_[node.input[0]].type.tensor_type.elem_type
        dims = get_shape_from_sympy_shape(extents)
        self.known_vi_[node.output[0]].CopyFrom(onnx.helper.make_tensor_value_info(node.output[0], dtype, dims))

    def _new_symbolic_shape(self, rank: int, node: onnx.NodeProto, out_idx: int = 0) -> Any:
        assert rank <= _HIGHEST_RANK, f"{node.op_type} {node.name!r} would have rank {rank}"
        return super()._new_symbolic_shape(rank, node, out_idx)

    def _infer_ConstantOfShape(self, node: onnx.NodeProto) -> None:  # noqa: N802  (overrides)
        extents = self._get_int_or_float_values(node)[0]
        listed = extents if isinstance(extents, list) else [extents]
        if not all(isinstance(n, int) for n in listed) or math.prod(listed) <= LARGEST_VALUE_READ:
            super()._infer_ConstantOfShape(node)
            return
        known = self.known_vi_[node.output[0]]  # onnxruntime's would compute the values
        kind = known.type.tensor_type.elem_type
        known.CopyFrom(onnx.helper.make_tensor_value_info(node.output[0], kind, listed))

    def bound_contents(self) -> None:
        """Let each operator forget contents that no shape has, before the next one makes more of them."""
        known: dict[str, Callable[[onnx.NodeProto], None]] = self.dispatcher_
        for op, infer in known.items():
            known[op] = self._forgetful(infer)

    def _forgetful(self, infer: Callable[[onnx.NodeProto], None]) -> Callable[[onnx.NodeProto], None]:
        def run(node: onnx.NodeProto) -> None:
            infer(node)
            for name in node.output:
                if name in self.sympy_data_ and not is_shape_like(self.sympy_data_[name]):
                    del self.sympy_data_[name]

        return run

    def _onnx_infer_single_node(self, node: onnx.NodeProto) -> None:
        super()._onnx_infer_single_node(node)
        if node.domain == DOMAIN and node.op_type in ("Unpack", "Repack"):
            self._infer_crossing(node)
        if not has_shape_function(node.op_type):
            return
        unknown = [name for name in node.output if name and not self.known_vi_[name].type.tensor_type.elem_type]
        if not unknown:
            return
        inputs = [self.known_vi_[name] for name in dict.fromkeys(node.input) if name]
        constants = [self.initializers_[name] for name in dict.fromkeys(node.input) if name in self.initializers_]
        found = ask_shape_function(node, inputs, constants, self.out_mp_.opset_import)
        for index, name in enumerate(node.output):
            dtype, shape = found.get(name, (0, None))
            if name in unknown and shape is not None:
                extents = [
                    str(self._new_symbolic_dim_from_output(node, index, axis)) if extent is None else extent
                    for axis, extent in enumerate(shape)
                ]
                self.known_vi_[name].CopyFrom(onnx.helper.make_tensor_value_info(name, dtype, extents))


def _run(model: onnx.ModelProto) -> Any:
    # The class's public entry point raises when one tensor stays unknown and returns nothing; the shapes found up to
    # there are all we need, so its steps are called here one by one.
    inference = _Inference(int_max=2**31 - 1, auto_merge=True, guess_output_rank=True, verbose=0)
    inference.sympy_data_ = {}
    inference._preprocess(model)
    teach_reductions(inference)
    inference.dispatcher_["Flatten"] = inference._infer_Flatten
    inference.bound_contents()
    try:
        while inference.run_:
            inference._infer_impl()
    except RewriteError:
        raise
    except Exception as error:  # it reports what it does not know by failed assertions of every kind
        logger.debug("symbolic shape inference stopped early: %s: %s", type(error).__name__, error)
    return inference


def _read(value: onnx.ValueInfoProto, inference: Any) -> Shape | None:
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return None
    dims: list[Dim] = []
    for dim in value.type.tensor_type.shape.dim:
        if dim.HasField("dim_value"):
            dims.append(dim.dim_value)
        elif dim.HasField("dim_param") and dim.dim_param:
            dims.append(inference.symbolic_dims_.get(dim.dim_param, symbol(dim.dim_param)))
        else:
            dims.append(sympy.Dummy("unknown", integer=True, positive=True))
    return tuple(dims)


def _merge(inferred: Shape | None, declared: Sequence[Any], renamed: Mapping[str, Dim]) -> Shape:
    if inferred is not None and len(inferred) != len(declared):
        inferred = None
    merged: list[Dim] = []
    for axis, extent in enumerate(declared):
        if isinstance(extent, str) and extent in renamed:
            merged.append(renamed[extent])
        elif isinstance(extent, str) and _IDENTIFIER.fullmatch(extent) and inferred is None:
            merged.append(symbol(extent))
        elif isinstance(extent, int) and extent >= 0:
            merged.append(extent)
        else:
            merged.append(inferred[axis] if inferred else sympy.Dummy("unknown", integer=True, positive=True))
    return tuple(merged)

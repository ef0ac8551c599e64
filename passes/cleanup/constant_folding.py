"""Compute what depends on constants alone."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from passes.base import GraphPass, PassResult, walk_graphs
from passes.cleanup.determinism import is_deterministic
from passes.cleanup.extract_constant_to_initializer import STAYS, constant_values
from passes.cleanup.folding_size import SPARE_BYTES, constant_bytes, is_too_much_work, outputs_bytes
from passes.cleanup.rewiring import drop_nodes, is_op, onnx_dtype
from passes.node_attributes import export_node
from passes.refusal import Refusal, because
from passes.registry import register

#: Quantized weights stay small: unfolding them would multiply the file.
_KEPT = frozenset({"QuantizeLinear", "DequantizeLinear"})
#: The most elements of a constant from which extents are computed.
_LARGEST_SHAPE = 1024


@register("constant_folding")
class ConstantFolding(GraphPass):
    """Replaces nodes whose inputs are all constant by their results, in the main graph and subgraphs.

    It leaves alone: what depends on an input, random operators, operators of other domains, nodes with subgraphs,
    (de)quantization, graph outputs, results larger than the limit, results whose size is not known before they are
    computed, what takes long to compute, and what would leave more than twice the bytes of constants that the graph
    came with (plus 16 MiB). Local functions have no constants to fold.

    Args:
        max_tensor_size: largest result in bytes that folding may create; -1 is no limit.
    """

    def __init__(self, max_tensor_size: int = -1) -> None:
        super().__init__()
        self.max_tensor_size = max_tensor_size
        self._spare = SPARE_BYTES

    def apply(self, graph: gs.Graph) -> PassResult:
        """Fold in node order until nothing folds, so that the order of the nodes does not matter."""
        result = PassResult()
        scopes = list(walk_graphs(graph, functions=False))
        bytes_before = sum(constant_bytes(list(scope.tensors().values())) for scope in scopes)
        self._spare = bytes_before + SPARE_BYTES
        for scope in scopes:
            folded = -1
            while folded:
                attempt = PassResult()
                folded = self._fold_once(scope, attempt)
                result.count("nodes folded", folded)
            result.refusals.extend(attempt.refusals)
        return result

    def _fold_once(self, scope: gs.Graph, result: PassResult) -> int:
        folded = []
        for node in scope.nodes:
            if not _depends_on_constants_alone(node, scope):
                continue
            refusal = self._fold(node, int(scope.opset))
            if refusal is None:
                folded.append(node)
            else:
                result.refusals.append(refusal.at(node))
        drop_nodes(scope, folded)
        return len(folded)

    def _fold(self, node: gs.Node, opset: int) -> Refusal | None:
        """Turn the node's outputs into constants; None when done, else why not."""
        if is_op(node, "Constant"):
            return _fold_constant_node(node)
        try:
            nbytes = outputs_bytes(node, _model(node, export_node(node), opset, with_values=True))
            reason = self._too_large(node, nbytes)
            if reason is not None:
                return reason
            results = _evaluate(node, opset)
        except Exception as error:  # whatever the evaluator cannot do is left to the engine
            return because(f"it cannot be evaluated: {type(error).__name__}: {error}")
        outputs = list(node.outputs)
        for tensor, values in zip(outputs, results, strict=True):
            if not isinstance(values, (np.ndarray, np.generic)):
                return because(f"{tensor.name!r} is no tensor")
            declared = onnx_dtype(tensor)
            if declared not in (None, onnx.helper.np_dtype_to_tensor_dtype(values.dtype)):
                kind = onnx.helper.tensor_dtype_to_np_dtype(declared)
                return because(f"{tensor.name!r} is declared as {kind} and evaluates to {values.dtype}")
        node.outputs.clear()
        for tensor, values in zip(outputs, results, strict=True):
            tensor.to_constant(np.asarray(values))
        read = [tensor for tensor in {id(tensor): tensor for tensor in node.inputs}.values() if not tensor.is_empty()]
        node.inputs.clear()
        self._spare += constant_bytes([tensor for tensor in read if not tensor.outputs]) - constant_bytes(outputs)
        return None

    def _too_large(self, node: gs.Node, nbytes: int | str) -> Refusal | None:
        """Why results of ``nbytes`` bytes are not computed, or None where they are."""
        if isinstance(nbytes, str):
            return because(f"the size of {nbytes!r} is not known in advance")
        if 0 <= self.max_tensor_size < nbytes:
            return because(f"its results would take {nbytes} bytes, more than max_tensor_size {self.max_tensor_size}")
        own_inputs = [tensor for tensor in node.inputs if len(tensor.outputs) == 1]
        if nbytes > self._spare + constant_bytes(own_inputs):
            return because(
                f"its results would take {nbytes} bytes, and the graph's constants more than twice what they did"
            )
        return because("computing its results takes long") if is_too_much_work(node, nbytes) else None


def _depends_on_constants_alone(node: gs.Node, scope: gs.Graph) -> bool:
    return (
        is_deterministic(node)
        and node.op not in _KEPT
        and all(tensor.is_empty() or _is_readable_constant(tensor) for tensor in node.inputs)
        and bool(node.outputs)
        and not any(tensor.is_empty() or tensor in scope.outputs for tensor in node.outputs)
    )


def _is_readable_constant(tensor: gs.Tensor) -> bool:
    # A type that numpy lacks (bfloat16, float8) is held as its ONNX number; reading the values would change them.
    return isinstance(tensor, gs.Constant) and not isinstance(tensor.dtype, int)


def _fold_constant_node(node: gs.Node) -> Refusal | None:
    values = constant_values(node)
    if values is None:
        return because(STAYS)
    tensor = node.outputs[0]
    node.outputs.clear()
    tensor.to_constant(values)
    return None


def _evaluate(node: gs.Node, opset: int) -> list[np.ndarray]:
    proto = export_node(node)
    feeds = {tensor.name: tensor.values for tensor in node.inputs if not tensor.is_empty()}
    with np.errstate(all="ignore"):  # infinities are values like others
        return list(ReferenceEvaluator(_model(node, proto, opset)).run(None, feeds))


def _model(node: gs.Node, proto: onnx.NodeProto, opset: int, *, with_values: bool = False) -> onnx.ModelProto:
    """A model of this node alone; the values of its small inputs as initializers where asked."""
    inputs = {tensor.name: tensor for tensor in node.inputs if not tensor.is_empty()}
    graph = onnx.helper.make_graph(
        [proto],
        "folding",
        [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), list(tensor.shape)
            )
            for name, tensor in inputs.items()
        ],
        [onnx.helper.make_empty_tensor_value_info(tensor.name) for tensor in node.outputs],
        [
            onnx.numpy_helper.from_array(tensor.values, name)
            for name, tensor in inputs.items()
            # shapes, repeats, sizes: what extents are computed from
            if with_values and len(tensor.shape) <= 1 and math.prod(tensor.shape) <= _LARGEST_SHAPE
        ],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])

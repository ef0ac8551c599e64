"""Add and remove graph outputs."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import onnx
import onnx_graphsurgeon as gs

from passes.base import GraphPass, PassResult
from passes.errors import RewriteError
from passes.graph_io import export_graph
from passes.registry import register


@register("remove_outputs")
class RemoveOutputs(GraphPass):
    """Drops the outputs ``names`` of the main graph, and the nodes that only they need. Without names it does nothing.

    Args:
        names: output names, as a sequence or a comma-separated string.
    """

    def __init__(self, names: str | Sequence[str] = ()) -> None:
        super().__init__()
        self.names = split_names(names)

    def apply(self, graph: gs.Graph) -> PassResult:
        """Drop the outputs.

        Raises:
            RewriteError: a name is no output, or no output would be left.
        """
        result = PassResult()
        if not self.names:
            return result
        existing = [tensor.name for tensor in graph.outputs]
        for name in self.names:
            if name not in existing:
                raise RewriteError(f"remove_outputs: {name!r} is no output of the model; its outputs are {existing}")
        kept = [tensor for tensor in graph.outputs if tensor.name not in self.names]
        if not kept:
            raise RewriteError(f"remove_outputs: {self.names} are all the outputs of the model; keep at least one")
        before = len(graph.nodes)
        result.count("outputs removed", len(graph.outputs) - len(kept))
        graph.outputs = kept
        graph.cleanup(remove_unused_graph_inputs=False)
        result.count("nodes removed", before - len(graph.nodes))
        return result


@register("add_checkpoints")
class AddCheckpoints(GraphPass):
    """Makes intermediate tensors of the main graph outputs as well. Tensors that are outputs already are left alone.

    Args:
        names: tensor names, as a sequence or a comma-separated string.
    """

    def __init__(self, names: str | Sequence[str] = ()) -> None:
        super().__init__()
        self.names = split_names(names)

    def apply(self, graph: gs.Graph) -> PassResult:
        """Add the outputs.

        Raises:
            RewriteError: a tensor does not exist in the main graph, or no node computes it.
        """
        result = PassResult()
        produced = {tensor.name: tensor for node in graph.nodes for tensor in node.outputs if tensor.name}
        added: list[gs.Tensor] = []
        for name in self.names:
            if name not in produced:
                near = difflib.get_close_matches(name, produced, n=3)
                offer = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
                raise RewriteError(f"checkpoints: no node of the main graph computes a tensor {name!r}{offer}")
            if produced[name] not in graph.outputs and name not in [tensor.name for tensor in added]:
                added.append(produced[name])
        graph.outputs = [*graph.outputs, *added]
        if any(tensor.dtype is None or tensor.shape is None for tensor in added):
            _infer_types(graph, added)
        result.count("outputs added", len(added))
        return result


def split_names(names: str | Sequence[str]) -> list[str]:
    """The names of a comma-separated string or a sequence, without blanks."""
    parts = names.split(",") if isinstance(names, str) else names
    return [part.strip() for part in parts if part.strip()]


def _infer_types(graph: gs.Graph, tensors: Sequence[gs.Tensor]) -> None:
    """A graph output needs a type and a rank; ask shape inference for those that the exporter left open."""
    inferred = {
        output.name: output.type.tensor_type
        for output in onnx.shape_inference.infer_shapes(export_graph(graph)).graph.output
    }
    for tensor in tensors:
        kind = inferred[tensor.name]
        if tensor.dtype is None and kind.elem_type:
            tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if tensor.shape is None and kind.HasField("shape"):
            tensor.shape = [
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in kind.shape.dim
            ]

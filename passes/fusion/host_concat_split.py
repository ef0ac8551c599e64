"""Feed many small inputs of one shape as one tensor, which the graph splits."""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from passes.base import GraphPass, PassResult
from passes.cleanup.rewiring import onnx_dtype
from passes.errors import RewriteError
from passes.graph_io import header
from passes.packed_model import PackedModel
from passes.precision.names import tensor_names, unique_name
from passes.registry import register
from poprt_format.host_concat import HOST_CONCAT_KEY, JoinedInputs

#: Element type and extents of inputs that are joined.
Family = tuple[int, tuple[int, ...]]
_COUNTED_SINCE = 18  # opset in which Split wants to be told how many parts


@register("apply_host_concat_split")
class HostConcatSplit(GraphPass):
    """Joins inputs of one type and shape into one input, and splits that in the graph.

    Example: sixty inputs float [512, 1] become one, [512, 60], and a Split along axis 1 gives the sixty tensors. Inputs
    of one axis are joined along that. What was joined is noted in the metadata (:class:`JoinedInputs`), by which the
    HostConcatRunner takes requests with the inputs that there were. Leaves scalars and inputs with open extents alone.

    Args:
        value: pairs of type (a number of onnx's, or a name such as "float32") and shape, as a list or the text of one;
            None joins all that are at least two of a kind.
    """

    def __init__(self, value: Iterable[tuple[Any, Sequence[int]]] | str | None = None) -> None:
        super().__init__()
        self._families = None if value is None else _families(value)

    def apply(self, graph: gs.Graph) -> PassResult:
        """Join the inputs.

        Raises:
            RewriteError: a family that is asked for has no input, or the model is packed.
        """
        result = PassResult()
        noted = _noted(graph)
        by_family = _by_family(graph, leave=noted)
        for family in by_family if self._families is None else self._families:
            members = by_family.get(family, [])
            if len(members) > 1:
                self._refuse_packed(graph)
                joined = _join(graph, members, family)
                noted[joined.tensor_name] = dataclasses.asdict(joined)
                result.count("inputs joined", len(members))
            elif self._families is not None and not _was_joined(noted, family):
                self._refuse_family(graph, family, members, result)
        if result.modified:
            header(graph).metadata[HOST_CONCAT_KEY] = json.dumps(noted, sort_keys=True)
        return result

    @staticmethod
    def _refuse_packed(graph: gs.Graph) -> None:
        if PackedModel.read(graph) is not None:
            raise RewriteError("apply_host_concat_split: the model is packed, and its inputs are fed by a pack runner")

    @staticmethod
    def _refuse_family(graph: gs.Graph, family: Family, members: Sequence[gs.Tensor], result: PassResult) -> None:
        if members:
            result.refuse(members[0].name, "it is the only input of its type and shape")
            return
        listed = ", ".join(f"{tensor.name} {_describe(_family(tensor))}" for tensor in graph.inputs[:8])
        raise RewriteError(
            f"apply_host_concat_split: no input is {_describe(family)} with fixed extents; the first are {listed}"
        )


def _families(value: Iterable[tuple[Any, Sequence[int]]] | str) -> list[Family]:
    """The families that are asked for, each once."""
    try:
        pairs = ast.literal_eval(value) if isinstance(value, str) else value
        families = [(_element(dtype), tuple(int(extent) for extent in shape)) for dtype, shape in pairs]
    except (ValueError, TypeError, SyntaxError, KeyError) as error:
        raise RewriteError(
            f"apply_host_concat_split: expected pairs of type and shape, as [('float32', (512, 1))], not {value!r}"
        ) from error
    return list(dict.fromkeys(families))


def _element(dtype: Any) -> int:
    """onnx's number of a type that is given by that, by its name, or as a numpy type."""
    return int(dtype) if isinstance(dtype, int) else int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _describe(family: Family) -> str:
    return f"{onnx.TensorProto.DataType.Name(family[0])} {list(family[1])}"


def _family(tensor: gs.Tensor) -> Family:
    """The type and shape of an input; 0 for what is open or not said."""
    extents = [extent if isinstance(extent, int) else 0 for extent in tensor.shape or ()]
    return int(onnx_dtype(tensor) or 0), tuple(extents)


def _by_family(graph: gs.Graph, leave: Iterable[str]) -> dict[Family, list[gs.Tensor]]:
    """The inputs that may be joined; those that are joined ones already are left out."""
    members: dict[Family, list[gs.Tensor]] = {}
    for tensor in graph.inputs:
        family = _family(tensor)
        if family[0] and family[1] and 0 not in family[1] and tensor.name not in leave:
            members.setdefault(family, []).append(tensor)
    return members


def _noted(graph: gs.Graph) -> dict[str, Any]:
    """What an earlier run joined."""
    try:
        noted = json.loads(header(graph).metadata.get(HOST_CONCAT_KEY, "{}"))
    except ValueError:
        noted = None
    if not isinstance(noted, dict):
        raise RewriteError(f"the model's metadata {HOST_CONCAT_KEY!r} are damaged; remove them")
    return noted


def _was_joined(noted: dict[str, Any], family: Family) -> bool:
    return any(tuple(entry.get("shape", ())) == family[1] for entry in noted.values())


def _join(graph: gs.Graph, members: Sequence[gs.Tensor], family: Family) -> JoinedInputs:
    """Put one input in the place of ``members``, which become the outputs of a Split."""
    element, shape = family
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(element))
    name = unique_name(f"host_concat_{members[0].name}", tensor_names(graph))
    nbytes = int(np.prod(shape)) * dtype.itemsize
    joined = JoinedInputs(name, tuple(tensor.name for tensor in members), shape, nbytes)
    source = gs.Variable(name, members[0].dtype, list(joined.joined_shape()))
    place = next(index for index, tensor in enumerate(graph.inputs) if tensor is members[0])
    joined_names = set(joined.input_tensor_names)
    inputs = [tensor for tensor in graph.inputs if tensor.name not in joined_names]
    graph.inputs = [*inputs[:place], source, *inputs[place:]]
    parts = {"num_outputs": len(members)} if graph.opset >= _COUNTED_SINCE else {}
    graph.nodes.insert(0, gs.Node("Split", f"split_{name}", {"axis": joined.axis, **parts}, [source], list(members)))
    return joined

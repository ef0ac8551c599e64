"""The operators of domain ``ai.graphcore``: schema, body in standard operators, numpy reference; one operator a file.

Every node of the domain in a converted model is backed by a model-local function, so that the model runs in any
engine that knows standard ONNX. AttentionMask, Repack and Unpack are ours: they pack. The others come in graphs that
PopRT wrote (:data:`FOREIGN`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
import onnx.parser
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter

from passes.building import import_domain
from passes.errors import RewriteError
from passes.node_protos import opset_of, walk_graphs
from passes.ops import attention_mask, ipu_norms, ipu_standard, mask_compress, repack, unpack
from passes.ops.common import DOMAIN, VERSION

__all__ = [
    "DOMAIN",
    "FOREIGN",
    "MINIMUM_OPSET",
    "VERSION",
    "attach_functions",
    "declare_operators",
    "function_body",
    "known_operators",
    "least_opset",
]

_FOREIGN_BODIES = {
    **ipu_standard.BODIES,
    "FastNorm": ipu_norms.FAST_NORM,
    "GroupNormalization": ipu_norms.GROUP_NORMALIZATION,
    "MaskCompress": mask_compress.BODY,
}
_BODIES = {
    "AttentionMask": attention_mask.BODY,
    "Repack": repack.BODY,
    "Unpack": unpack.BODY,
    **_FOREIGN_BODIES,
}

#: Operators of PopRT's that no pass here writes.
FOREIGN = frozenset(_FOREIGN_BODIES)

#: The oldest opset in which the bodies are valid (Shape with start and end).
MINIMUM_OPSET = 15

_NEED_LAYER_NORM = frozenset({"FastNorm", "GroupNormalization"})

for _schema in (unpack.SCHEMA, repack.SCHEMA, attention_mask.SCHEMA):
    if not onnx.defs.has(_schema.name, DOMAIN):
        onnx.defs.register_schema(_schema)


def known_operators(op_types: Iterable[str]) -> list[str]:
    """Those of these operators of the domain that have a body, sorted."""
    return sorted(set(op_types) & set(_BODIES))


def least_opset(op_types: Iterable[str]) -> int:
    """The oldest opset in which the bodies of these operators are valid; 1 where there are none."""
    names = known_operators(op_types)
    return max((ipu_norms.LEAST_OPSET if name in _NEED_LAYER_NORM else MINIMUM_OPSET for name in names), default=1)


def function_body(op_type: str, opset: int) -> onnx.FunctionProto:
    """The model-local function behind ``op_type``, for a model of default-domain ``opset``.

    Raises:
        RewriteError: the operator is not one of ours, or the opset is too old for the body.
    """
    if op_type not in _BODIES:
        names = ", ".join(sorted(_BODIES))
        raise RewriteError(f"operator {DOMAIN}.{op_type} is not known; known are {names}")
    if opset < least_opset([op_type]):
        raise RewriteError(f"{DOMAIN}.{op_type} needs opset {least_opset([op_type])} or newer, the model has {opset}")
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>'
    return onnx.parser.parse_function(header + _BODIES[op_type])


def attach_functions(model: onnx.ModelProto) -> None:
    """Give each node of our domain that has no body its function, and import the domain. Changes ``model``."""
    present = {function.name for function in model.functions if function.domain == DOMAIN}
    used = set()
    for graph in walk_graphs(model.graph):
        for node in graph.node:
            if node.domain == DOMAIN:
                used.add(node.op_type)
                _complete(node)
    if not used:
        return
    if DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    model.functions.extend(function_body(op_type, opset_of(model)) for op_type in sorted(used - present))
    model.ir_version = max(model.ir_version, 8)


def declare_operators(graph: gs.Graph, op_types: Sequence[str]) -> None:
    """Give ``graph`` the bodies of these operators, and import their domain."""
    present = {function.name for function in graph.functions if function.domain == DOMAIN}
    bodies = [function_body(op, graph.opset) for op in op_types if op not in present]
    graph.functions.extend(OnnxImporter.import_function(body) for body in bodies)
    import_domain(graph, DOMAIN, VERSION)


def _complete(node: onnx.NodeProto) -> None:
    if node.op_type != "AttentionMask" or any(attribute.name == "to" for attribute in node.attribute):
        return
    data_type = next((a.s.decode() for a in node.attribute if a.name == "dataType"), "FLOAT")
    node.attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.DataType.Value(data_type)))

"""Several models in one: side by side in one graph, the tensors of model i named ``graph<i>/...``.

The fused model is an ordinary ONNX model: any runtime can load it. What each model said of itself is kept in one record
in its metadata, by which the compiler takes them apart again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import onnx
from onnx.compose import add_prefix_graph

from passes import PassManager, get_pass
from passes.check.structure import check_structure
from passes.errors import RewriteError
from passes.node_protos import opset_of, walk_nodes
from passes.ops import DOMAIN
from poprt.fused_names import prefix_of

#: The ``metadata_props`` key: a JSON list with the metadata of each model.
FUSION_KEY = "poprt.fusion"


class MFConverter:
    """Fuses models: one executable is compiled of them, and a run of it runs one of them."""

    def convert(self, models: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
        """One model with those given side by side; they are left as they are.

        Tensors and nodes of the first have names ``graph0/...``, of the second ``graph1/...``. All get the newest opset
        that one of them has.

        Raises:
            RewriteError: there is none, one is not valid or fused itself, or they cannot have one opset; the message
                gives the number of the model.
        """
        if isinstance(models, onnx.ModelProto) or not models:
            raise RewriteError("models: expected a list of one ModelProto or more")
        for index, model in enumerate(models):
            _check(index, model)
        fused = onnx.ModelProto(
            ir_version=max(model.ir_version for model in models), producer_name="poprt", graph={"name": "fused"}
        )
        target = max(map(opset_of, models))
        for index, model in enumerate(models):
            _add(fused, index, _raised(index, model, target))
        record = [{item.key: item.value for item in model.metadata_props} for model in models]
        onnx.helper.set_model_props(fused, {FUSION_KEY: json.dumps(record, sort_keys=True)})
        return fused


def fused_metadata(model: onnx.ModelProto) -> list[dict[str, str]] | None:
    """The metadata of each model that ``model`` was fused of; None where it is one model.

    Raises:
        RewriteError: the record is damaged.
    """
    text = next((item.value for item in model.metadata_props if item.key == FUSION_KEY), None)
    if text is None:
        return None
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, list) or not record or not all(_is_metadata(item) for item in record):
        raise RewriteError(f"the model's metadata {FUSION_KEY!r} are damaged; fuse the models again")
    return record


def _is_metadata(item: object) -> bool:
    return isinstance(item, dict) and all(isinstance(value, str) for value in item.values())


def _check(index: int, model: object) -> None:
    if not isinstance(model, onnx.ModelProto):
        raise RewriteError(f"model {index}: expected a ModelProto, got {type(model).__name__}")
    try:
        check_structure(model)
        if fused_metadata(model) is not None:
            raise RewriteError("it is fused itself; give the models that it was made of")
        if not model.graph.output:
            raise RewriteError("it has no outputs")
    except RewriteError as error:
        raise error.inside(f"model {index}") from error


def _raised(index: int, model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    """A copy of opset ``target``."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if opset_of(model) == target:
        return copy
    try:
        return PassManager([get_pass("convert_opset", target=target)]).run(copy)
    except RewriteError as error:
        raise error.inside(f"model {index} cannot be fused with a model of opset {target}") from error


def _add(fused: onnx.ModelProto, index: int, model: onnx.ModelProto) -> None:
    """Move ``model`` into ``fused``, with names of its own."""
    _add_domains(fused, index, model)
    _add_functions(fused, index, model)
    prefix, graph = prefix_of(index), model.graph
    # onnx renames what a subgraph reads of the graphs around it, but for initializers, which it has to be told.
    outer = {tensor.name: prefix + tensor.name for tensor in graph.initializer}
    add_prefix_graph(graph, prefix, inplace=True, name_map=outer)
    name = fused.graph.name
    fused.graph.MergeFrom(graph)
    fused.graph.name = name


def _add_domains(fused: onnx.ModelProto, index: int, model: onnx.ModelProto) -> None:
    versions = {entry.domain: entry.version for entry in fused.opset_import}
    for entry in model.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if versions.setdefault(domain, entry.version) != entry.version:
            raise RewriteError(
                f"model {index} has version {entry.version} of the operators of {domain!r}, a model before it "
                f"{versions[domain]}; models that are fused need one version"
            )
    del fused.opset_import[:]
    fused.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in versions.items())


def _add_functions(fused: onnx.ModelProto, index: int, model: onnx.ModelProto) -> None:
    """Add the local functions of ``model``. One that has the name of another but not its body gets a new name."""
    known_bodies = {(item.domain, item.name): item.SerializeToString(deterministic=True) for item in fused.functions}
    renamed: dict[tuple[str, str], str] = {}
    for function in model.functions:
        key = (function.domain, function.name)
        body = known_bodies.get(key)
        if body is not None and function.domain != DOMAIN and body != function.SerializeToString(deterministic=True):
            renamed[key] = f"{function.name}_graph{index}"
    nodes = [model.graph.node, *(function.node for function in model.functions)]
    for node in (node for body in nodes for node in walk_nodes(body)):
        node.op_type = renamed.get((node.domain, node.op_type), node.op_type)
    for function in model.functions:
        function.name = renamed.get((function.domain, function.name), function.name)
        if (function.domain, function.name) not in known_bodies:
            fused.functions.append(function)

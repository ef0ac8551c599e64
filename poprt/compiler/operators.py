"""Give the nodes of domain ``ai.graphcore`` their bodies."""

from __future__ import annotations

import logging

import onnx

from passes.errors import RewriteError
from passes.ops import DOMAIN, MINIMUM_OPSET, VERSION, attach_functions
from passes.shapes.convert_opset import ConvertOpset
from poprt.compiler.walk import walk_nodes
from poprt.errors import CompileError

logger = logging.getLogger("poprt")


def attach_bodies(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with a function behind each bare node of our domain; its opset is raised where the bodies need that.

    Raises:
        CompileError: an operator of the domain is not known, or onnx cannot raise the model's opset.
    """
    try:
        if _is_too_old(model):
            _import_domain(model)
            model = ConvertOpset(MINIMUM_OPSET).run(model)
            logger.info("the model's opset is raised to %d for the operators of %s", MINIMUM_OPSET, DOMAIN)
        attach_functions(model)
    except RewriteError as error:
        raise CompileError(str(error)) from error
    return model


def _import_domain(model: onnx.ModelProto) -> None:
    if DOMAIN not in {item.domain for item in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))


def _is_too_old(model: onnx.ModelProto) -> bool:
    bodies = {function.name for function in model.functions if function.domain == DOMAIN}
    bare = any(node.domain == DOMAIN and node.op_type not in bodies for node in walk_nodes(model.graph.node))
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 1)
    return bare and opset < MINIMUM_OPSET

"""Load a converted model before it is handed over: what onnxruntime refuses is of no use to anyone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from passes.node_protos import walk_nodes
from passes.parted import PartedModel
from poprt.engine.plain import NOTHING, has_operator, plain_session
from poprt.errors import PoprtError

logger = logging.getLogger("poprt")


def check_loads(model: PartedModel) -> None:
    """Open a session on ``model``, with the optimiser off and no weight copied into it.

    A model with operators of somebody's own is left alone, with a warning: onnxruntime knows them only where their
    library is registered.

    Raises:
        PoprtError: onnxruntime refuses the model.
    """
    foreign = sorted(set(_foreign_operators(model.model)))
    if foreign:
        logger.warning(
            "it was not tried whether the converted model loads: onnxruntime has no operator %s; register the library "
            "that brings it with the session that runs the model",
            ", ".join(foreign),
        )
        return
    weights = _outside(model)
    try:
        plain_session(model.model.SerializeToString(), optimise=False, weights=weights, log_severity=NOTHING)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise PoprtError(
            f"onnxruntime does not load the converted model, so nothing is written: {error}. See whether it loads the "
            "original, and report this if it does; --skip_check_load writes the model all the same"
        ) from error


def _foreign_operators(model: onnx.ModelProto) -> Iterator[str]:
    functions = {(function.domain, function.name) for function in model.functions}
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    for node in (node for body in bodies for node in walk_nodes(body)):
        if (node.domain, node.op_type) not in functions and not has_operator(node.domain, node.op_type):
            yield f"{node.domain or 'ai.onnx'}.{node.op_type}"


def _outside(model: PartedModel) -> Mapping[str, npt.NDArray[Any]]:
    """The weights beside the model, as the engine takes them."""
    return {name: np.ascontiguousarray(array) for name, array in model.weights.items()}

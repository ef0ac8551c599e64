"""Ask the engine whether it can run a graph, without giving it the weights."""

from __future__ import annotations

import logging

import onnx
from onnx import external_data_helper, helper

from poprt.engine.plain import plain_session
from poprt.engine.providers import default_providers
from poprt.engine.session import EngineSession
from poprt.errors import CompileError, ExecutableError
from poprt.executable import Executable

logger = logging.getLogger("poprt")


def validate(model: onnx.ModelProto, executable: Executable) -> None:
    """Check that the engine has every operator of ``model``, the graph of ``executable``. Nothing is run.

    The weights are declared as inputs for the check, so that the engine does not copy them. An operator that insists on
    constants refuses that; then the executable itself is tried.

    Raises:
        CompileError: the engine cannot run the graph; its message names the node.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    for index in reversed(range(len(probe.graph.initializer))):
        tensor = probe.graph.initializer[index]
        if external_data_helper.uses_external_data(tensor):
            probe.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
            del probe.graph.initializer[index]
    try:
        plain_session(probe.SerializeToString(), optimise=False, providers=default_providers())
    except Exception as error:
        logger.debug("the engine refuses the graph without its weights: %s", error)
        try:
            EngineSession(executable)
        except ExecutableError as refused:
            raise CompileError(str(refused)) from error

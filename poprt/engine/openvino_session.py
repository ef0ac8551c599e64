"""One OpenVINO model over an executable. OpenVINO is an extra: this module is imported where it is asked for."""

from __future__ import annotations

import queue
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
from openvino import opset13

from poprt.engine.cpu import usable_cores
from poprt.engine.feeds import chosen_outputs, prepared_feeds
from poprt.engine.weights import engine_arrays
from poprt.errors import ExecutableError, PoprtError, UnsupportedOperatorError
from poprt.executable import Executable, TensorSpec
from poprt.manifest import OPENVINO

Array = npt.NDArray[Any]

_DEVICE = "CPU"
_MISSING = re.compile(r"No conversion rule found for operations: ([^\n]*)")


class OpenVinoSession:
    """Runs an executable's graph for OpenVINO. Several threads may run it at once, as many as it has streams.

    Args:
        executable: what to run.
        threads: of all streams together; by default the cores that this process may use.
        streams: runs that go on at the same time, each with its share of the threads.

    Attributes:
        computes_in: the numpy name of the type that matrix products are computed in, where they are of floats.

    Raises:
        UnsupportedOperatorError: the graph needs an operator that the installed OpenVINO lacks.
        ExecutableError: the executable has no graph for OpenVINO, or OpenVINO refuses it.
    """

    def __init__(self, executable: Executable, *, threads: int | None = None, streams: int = 1) -> None:
        manifest = executable.manifest
        if manifest.engine != OPENVINO:
            raise ExecutableError(f"this graph was lowered for {manifest.engine}, not for {OPENVINO}")
        core = openvino.Core()
        self.computes_in = _compute_type(core, manifest.compute)
        settings = {
            "INFERENCE_NUM_THREADS": usable_cores() if threads is None else threads,
            "NUM_STREAMS": streams,
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[self.computes_in],
            # 0 switches it off: by itself OpenVINO rounds activations wherever it sees weights of 8 bits.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": manifest.activation_group,
        }
        executable.check_unchanged()
        with _blaming_the_graph():
            model = _with_weights(core, executable)
            names = [parameter.get_friendly_name() for parameter in model.get_parameters()]
            compiled = core.compile_model(model, _DEVICE, settings)
        executable.check_unchanged()
        executable.release_pages()
        shapes = [_shape(port.get_partial_shape()) for port in compiled.inputs]
        specs = {spec.name: spec for spec in executable.inputs}
        self._inputs: dict[str, tuple[TensorSpec, Sequence[int | None]]] = {
            name: (specs[name], shape) for name, shape in zip(names, shapes, strict=True)
        }
        self._unread = [name for name in specs if name not in self._inputs]
        self._outputs = {spec.name: number for number, spec in enumerate(executable.outputs)}
        self.output_shapes = {
            name: _shape(compiled.outputs[number].get_partial_shape()) for name, number in self._outputs.items()
        }
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(streams):
            self._idle.put(compiled.create_infer_request())

    def run(self, feeds: Mapping[str, Array], output_names: Sequence[str] | None = None) -> list[Array]:
        """Run the graph once; as :meth:`poprt.engine.session.EngineSession.run`."""
        names = chosen_outputs(output_names, list(self._outputs))
        prepared = prepared_feeds({n: a for n, a in feeds.items() if n not in self._unread}, self._inputs)
        arrays = {number: _writeable(prepared[name]) for number, name in enumerate(self._inputs)}
        request = self._idle.get()
        try:
            request.infer(arrays, share_inputs=True)
            # Copies: the next run writes over what OpenVINO holds.
            return [np.array(request.get_output_tensor(self._outputs[name]).data) for name in names]
        except RuntimeError as error:
            raise PoprtError(f"the engine failed: {_last_line(error)}") from error
        finally:
            self._idle.put(request)


def version() -> str:
    """The version of the installed OpenVINO, without what says how it was built."""
    return str(openvino.__version__).partition("-")[0]


def _compute_type(core: openvino.Core, allowed: str) -> str:
    """``allowed``, a numpy name, or "float32" where this CPU has no products of it."""
    has_bfloat16 = "BF16" in core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
    return allowed if allowed != "bfloat16" or has_bfloat16 else "float32"


def _with_weights(core: openvino.Core, executable: Executable) -> openvino.Model:
    """The executable's graph with its weights as constants.

    The graph has inputs in their places.
    """
    specs = executable.manifest.weights
    model = core.read_model(executable.graph)
    parameters = {parameter.get_friendly_name(): parameter for parameter in model.get_parameters()}
    for spec, array in zip(specs, engine_arrays(executable, specs), strict=True):
        # What is mapped from a file is read-only, and OpenVINO shares no such array.
        constant = opset13.constant(array, shared_memory=bool(array.flags.writeable))
        constant.set_friendly_name(spec.name)
        parameters[spec.name].output(0).replace(constant.output(0))
        model.remove_parameter(parameters[spec.name])
    return model


@contextmanager
def _blaming_the_graph() -> Iterator[None]:
    """Raise an ExecutableError for what OpenVINO says of the graph."""
    try:
        yield
    except RuntimeError as error:
        if missing := missing_operators(error):
            raise UnsupportedOperatorError(
                f"OpenVINO {version()} lacks an operator that this executable needs: {missing}; use "
                "engine='onnxruntime'"
            ) from error
        raise ExecutableError(f"OpenVINO {version()} cannot load the graph: {_last_line(error)}") from error


def missing_operators(error: RuntimeError) -> str:
    """The operators that OpenVINO's ``error`` says it has not; "" where it says something else."""
    match = _MISSING.search(str(error))
    return match[1].strip() if match else ""


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _shape(shape: openvino.PartialShape) -> list[int | None]:
    """Extents; None where one is open."""
    return [None if dimension.is_dynamic else dimension.get_length() for dimension in shape]


def _writeable(array: Array) -> Array:
    """``array``, or a copy where it is read-only, which OpenVINO does not take."""
    return array if array.flags.writeable else array.copy()

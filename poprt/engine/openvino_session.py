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
from poprt.engine.openvino_positions import keep_positions_exact
from poprt.engine.weights import engine_arrays
from poprt.errors import DamagedExecutableError, ExecutableError, InputError, PoprtError, UnsupportedOperatorError
from poprt.executable import Executable, Manifest, TensorSpec
from poprt.manifest import OPENVINO

Array = npt.NDArray[Any]

_DEVICE = "CPU"
#: How OpenVINO names the types that executables have.
_DTYPES = {
    "boolean": "bool",
    **{f"{kind[0]}{bits}": f"{kind}{bits}" for kind in ("float", "int", "uint") for bits in (8, 16, 32, 64)},
}
#: OpenVINO computes whole numbers of 64 bits in 32.
_LEAST, _MOST = np.iinfo(np.int32).min, np.iinfo(np.int32).max
_MISSING = re.compile(r"No conversion rule found for operations: ([^\n]*)")
#: The operator that a conversion failed at, and what is wrong with it, in the last line.
_FAILED = re.compile(r"^-- (\S+) with a message:\n(.*?)\n\s*\nSummary", re.DOTALL | re.MULTILINE)


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
        DamagedExecutableError: its graph takes or gives other tensors than its manifest says.
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
            model = core.read_model(executable.graph)
            _check_interface(executable.manifest, model)
            _put_weights(model, executable)
            if self.computes_in == "bfloat16":
                keep_positions_exact(model)
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
        for name, array in prepared.items():
            _check_whole(name, array)
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


def _check_interface(manifest: Manifest, model: openvino.Model) -> None:
    """Raise DamagedExecutableError unless the graph takes and gives what the manifest says.

    What nothing reads is no parameter of ``model``.
    """
    fed = {spec.name: spec.engine_dtype for spec in manifest.inputs}
    fed |= {weight.name: weight.engine_dtype for weight in manifest.weights}
    shapes = {weight.name: list(weight.shape) for weight in manifest.weights}
    for parameter in model.get_parameters():
        name, shape = parameter.get_friendly_name(), _shape(parameter.get_partial_shape())
        if fed.get(name) != _dtype(parameter) or shapes.get(name, shape) != shape:
            raise _damaged("inputs and weights", f"{name!r} {_dtype(parameter)}{shape}")
    if len(model.outputs) != len(manifest.outputs):
        raise _damaged("outputs", f"{len(model.outputs)} of them")
    for spec, port in zip(manifest.outputs, model.outputs, strict=True):
        if spec.name not in port.get_names() or spec.engine_dtype != _dtype(port):
            raise _damaged("outputs", f"{port.get_any_name()!r} {_dtype(port)} in the place of {spec.name!r}")


def _damaged(kind: str, in_graph: str) -> DamagedExecutableError:
    return DamagedExecutableError(
        f"the manifest's {kind} are not those of the graph for OpenVINO, which has {in_graph}"
    )


def _dtype(port: openvino.Output | openvino.Node) -> str:
    name = str(port.get_element_type().get_type_name())
    return _DTYPES.get(name, name)


def _put_weights(model: openvino.Model, executable: Executable) -> None:
    """The weights as constants in the place of the inputs that the graph has for them."""
    specs = executable.manifest.weights
    parameters = {parameter.get_friendly_name(): parameter for parameter in model.get_parameters()}
    for spec, array in zip(specs, engine_arrays(executable, specs), strict=True):
        # What is mapped from a file is read-only, and OpenVINO shares no such array.
        constant = opset13.constant(array, shared_memory=bool(array.flags.writeable))
        constant.set_friendly_name(spec.name)
        if parameter := parameters.get(spec.name):  # else nothing reads it
            parameter.output(0).replace(constant.output(0))
            model.remove_parameter(parameter)


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
        raise ExecutableError(f"OpenVINO {version()} cannot load the graph: {_reason(error)}") from error


def missing_operators(error: RuntimeError) -> str:
    """The operators that OpenVINO's ``error`` says it has not; "" where it says something else."""
    match = _MISSING.search(str(error))
    return match[1].strip() if match else ""


def _reason(error: RuntimeError) -> str:
    """What is wrong with the graph: the first operator that is not understood, and why."""
    failed = _FAILED.search(str(error))
    return f"{failed[1]}: {_last_line(failed[2])}" if failed else _last_line(error)


def _last_line(error: Exception | str) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _shape(shape: openvino.PartialShape) -> list[int | None]:
    """Extents; None where one is open."""
    return [None if dimension.is_dynamic else dimension.get_length() for dimension in shape]


def _check_whole(name: str, array: Array) -> None:
    """Raise InputError for whole numbers that OpenVINO would cut off."""
    if array.dtype in (np.int64, np.uint64) and array.size and not _LEAST <= array.min() <= array.max() <= _MOST:
        raise InputError(
            f"input {name!r} has values from {array.min()} to {array.max()}, and OpenVINO computes whole numbers in 32 "
            "bits; use engine='onnxruntime'"
        )


def _writeable(array: Array) -> Array:
    """``array``, or a copy where it is read-only, which OpenVINO does not take."""
    return array if array.flags.writeable else array.copy()

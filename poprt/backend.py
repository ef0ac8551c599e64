"""Sessions over a model file: compiled by poprt, or the model as it is in stock onnxruntime."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as engine

from poprt.compiler import Compiler, CompilerOptions
from poprt.compiler.source import ModelLike
from poprt.engine.plain import plain_session
from poprt.engine.providers import default_providers
from poprt.engine.session import engine_error
from poprt.errors import InputError, PoprtError
from poprt.executable import Executable
from poprt.model_file import read_proto
from poprt.runtime.declared import DeclaredSession
from poprt.runtime.fused_session import FusedSession
from poprt.utils import element_type_of, onnx_tensor_dtype_to_np_dtype

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Backend", "CompiledBackend", "OnnxRuntimeBackend", "PoprtBackend", "get_session"]

logger = logging.getLogger("poprt")

Array = npt.NDArray[Any]

#: Name -> (shape with 0 for an open extent, None for one of unknown rank; numpy type), in the model's order.
IoInfo = OrderedDict[str, tuple[list[int] | None, "np.dtype[Any]"]]


class Backend(ABC):
    """A model that can be loaded and run. ``load`` it first; then several threads may run it.

    ``Backend(model)`` itself compiles a model and has it loaded (:class:`CompiledBackend`).
    """

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Choose the class where none is."""
        chosen: type[Any] = CompiledBackend if cls is Backend else cls
        backend: Self = object.__new__(chosen)
        return backend

    @abstractmethod
    def load(self) -> Backend:
        """Make the model ready to run; return this object. A second call does nothing."""

    @abstractmethod
    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """Run once.

        Args:
            output_names: outputs to return, in this order; None or an empty list returns all.
            feeds: an array for each input.

        Raises:
            InputError: an input is missing, unknown, mistyped or misshapen, or an output is unknown.
            PoprtError: the model is not loaded.
        """

    @abstractmethod
    def get_io_info(self) -> tuple[IoInfo, IoInfo]:
        """Inputs and outputs: name -> (shape, with 0 for an open extent, and numpy type).

        The shape is None where the model does not say the rank.

        Raises:
            PoprtError: the model is not loaded.
        """


class PoprtBackend(Backend):
    """Compiles the model and runs the executable with its declared shapes and types.

    Of a fused model, a run computes the models whose outputs are asked for; names are ``graph0/x`` and so on.
    """

    def __init__(
        self, model: ModelLike, options: CompilerOptions | None = None, export_path: str | Path | None = None
    ) -> None:
        self._model = model
        self._options = options
        self._export_path = export_path
        self._loaded: tuple[Executable, DeclaredSession | FusedSession] | None = None

    def load(self) -> PoprtBackend:
        """Compile the model, write the executable where that was asked for, and open a session on it.

        Raises:
            CompileError: the model cannot be compiled.
        """
        if self._loaded is None:
            executable = Compiler.compile(self._model, None, self._options)
            if self._export_path is not None:
                Path(self._export_path).parent.mkdir(parents=True, exist_ok=True)
                executable.save(self._export_path)
            libraries = self._options.libraries() if self._options is not None else ()
            session_class = FusedSession if executable.models else DeclaredSession
            self._loaded = executable, session_class(executable, custom_ops=libraries)
        return self

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """See :meth:`Backend.run`; outputs have their declared shapes and types."""
        return self._ready()[1].run(feeds, output_names or None)

    def get_io_info(self) -> tuple[IoInfo, IoInfo]:
        """See :meth:`Backend.get_io_info`."""
        executable, _ = self._ready()
        inputs, outputs = (
            OrderedDict(
                (spec.name, (None if spec.any_rank else list(spec.shape), np.dtype(spec.dtype))) for spec in specs
            )
            for specs in (executable.inputs, executable.outputs)
        )
        return inputs, outputs

    def _ready(self) -> tuple[Executable, DeclaredSession | FusedSession]:
        if self._loaded is None:
            raise _not_loaded()
        return self._loaded


class CompiledBackend(PoprtBackend):
    """``Backend(model)``: compiled and loaded when it is made.

    Args:
        path_or_bytes: a path, bytes, a ModelProto, or an open binary file.
        export_popef: where to write the executable.
        compiler_options: see :class:`CompilerOptions`.
        runtime_options: taken for the signature's sake, and announced: a runner has such options, a session none.
        align_output_dtype: whether outputs have the types that the model declares; they always do.
        lazy_load: compile at the first use, not now.
        logger: for what is announced.
    """

    def __init__(
        self,
        path_or_bytes: ModelLike | IO[bytes],
        *,
        export_popef: str | Path | None = None,
        compiler_options: CompilerOptions | None = None,
        runtime_options: Any = None,
        align_output_dtype: bool = False,
        lazy_load: bool = False,
        logger: logging.Logger | None = None,
    ) -> None:
        if not isinstance(path_or_bytes, (str, bytes, os.PathLike, onnx.ModelProto)):
            path_or_bytes = path_or_bytes.read()
        super().__init__(path_or_bytes, compiler_options, export_popef)
        self.logger = logger or logging.getLogger("poprt")
        if runtime_options is not None:
            self.logger.warning("runtime_options has no effect on a backend; runtime.Runner takes such options")
        if not lazy_load:
            self.load()

    def run(
        self, output_names: Sequence[str] | None, inputs: Mapping[str, Array], align_output_dtype: bool = False
    ) -> list[Array]:
        """See :meth:`Backend.run`."""
        return super().run(output_names, inputs)

    def _ready(self) -> tuple[Executable, DeclaredSession | FusedSession]:
        self.load()
        return super()._ready()


class OnnxRuntimeBackend(Backend):
    """Runs the model as it is, for comparison."""

    def __init__(self, model: ModelLike) -> None:
        self._model = model
        self._session: ort.InferenceSession | None = None

    def load(self) -> OnnxRuntimeBackend:
        """Open an onnxruntime session on the model.

        Raises:
            ExecutableError: onnxruntime refuses the model.
        """
        if self._session is None:
            source = self._model.SerializeToString() if isinstance(self._model, onnx.ModelProto) else self._model
            try:
                self._session = plain_session(source, providers=default_providers())
            except Exception as error:
                raise engine_error(error) from error
        return self

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """See :meth:`Backend.run`."""
        session = self._ready()
        input_names = [item.name for item in session.get_inputs()]
        if set(feeds) != set(input_names):
            raise InputError(f"got inputs {', '.join(feeds)}; expected {', '.join(input_names)}")
        try:
            results: list[Array] = session.run(list(output_names) if output_names else None, dict(feeds))
        except (ValueError, engine.InvalidArgument) as error:
            raise InputError(f"onnxruntime refuses these inputs: {error}") from error
        return results

    def get_io_info(self) -> tuple[IoInfo, IoInfo]:
        """See :meth:`Backend.get_io_info`."""
        session = self._ready()
        groups = session.get_inputs(), session.get_outputs()
        of_any_rank = self._of_any_rank() if any(not item.shape for items in groups for item in items) else frozenset()
        inputs, outputs = (
            OrderedDict(
                (item.name, (None if item.name in of_any_rank else _extents(item.shape), _numpy_type(item.type)))
                for item in items
            )
            for items in groups
        )
        return inputs, outputs

    def _of_any_rank(self) -> frozenset[str]:
        """The inputs and outputs that declare no rank. onnxruntime does not tell them from scalars."""
        model = self._model if isinstance(self._model, onnx.ModelProto) else read_proto(self._model)
        values = [*model.graph.input, *model.graph.output]
        return frozenset(value.name for value in values if not value.type.tensor_type.HasField("shape"))

    def _ready(self) -> ort.InferenceSession:
        if self._session is None:
            raise _not_loaded()
        return self._session


def get_session(
    model: ModelLike,
    num_devices: int = 1,
    backend: str = "poprt",
    output_dir: str | os.PathLike[str] = "./",
    options: CompilerOptions | Mapping[str, Any] | None = None,
    batches_per_step: int = 1,
    export_popef: bool = False,
) -> Backend:
    """A session on a model; call ``load`` on it before the first run.

    Args:
        model: path, bytes or ModelProto.
        num_devices, batches_per_step: steer an IPU; announced as having no effect when they are not 1.
        backend: "poprt" compiles the model, "onnxruntime" runs it as it is.
        output_dir: where ``executable.popef`` goes.
        options: compiler options, or a mapping of them; for "poprt" only.
        export_popef: write ``<output_dir>/executable.popef`` on load; for "poprt" only.

    Raises:
        PoprtError: the backend is unknown.
    """
    for name, value in (("num_devices", num_devices), ("batches_per_step", batches_per_step)):
        if value != 1:
            logger.warning("%s=%s has no effect on this engine (it steers an IPU)", name, value)
    if backend == "poprt":
        chosen = CompilerOptions.from_dict(options) if isinstance(options, Mapping) else options
        return PoprtBackend(model, chosen, Path(output_dir) / "executable.popef" if export_popef else None)
    if backend == "onnxruntime":
        if export_popef or options is not None:
            logger.warning("options and export_popef have no effect with backend 'onnxruntime'")
        return OnnxRuntimeBackend(model)
    raise PoprtError(f"unknown backend {backend!r}; expected 'poprt' or 'onnxruntime'")


def _not_loaded() -> PoprtError:
    return PoprtError("the session is not loaded; call load() first")


def _extents(shape: Sequence[int | str | None]) -> list[int]:
    return [max(extent, 0) if isinstance(extent, int) else 0 for extent in shape]


def _numpy_type(name: str) -> np.dtype[Any]:
    """The numpy type of what onnxruntime calls "tensor(float)"."""
    return onnx_tensor_dtype_to_np_dtype(element_type_of(name))

"""One onnxruntime session over an executable."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as engine

from poprt.engine.cpu import has_bfloat16, is_arm
from poprt.engine.custom_ops import how_to_register
from poprt.engine.feeds import chosen_outputs, prepared_feeds, to_dtype
from poprt.engine.options import BFLOAT16_PRODUCTS, session_options, unfold_weights
from poprt.engine.providers import chosen_providers, runs_on_cpu
from poprt.engine.shared_threads import SharedThreads
from poprt.engine.turns import Turns
from poprt.engine.weights import engine_array, engine_arrays
from poprt.errors import DamagedExecutableError, ExecutableError, InputError, PoprtError, UnsupportedOperatorError
from poprt.executable import WEIGHT_DTYPES, Executable, Manifest
from poprt.graph_check import MOST_CALLED_NODES

logger = logging.getLogger("poprt")

Array = npt.NDArray[Any]

#: What onnxruntime raises when a run fails for another reason than its inputs.
_FAILURES = (engine.Fail, engine.RuntimeException, engine.EPFail, engine.NotImplemented)

#: How onnxruntime says that it has no such operator, or none for these types.
_MISSING_OPERATOR = (
    "is not a registered function/op",
    "No Op registered for",
    "Could not find an implementation for",
    "is under development and support for this is limited",
    "No opset import for domain",
)


#: Bytes that a constant may take which onnxruntime computes while it loads, besides four times those of the executable:
#: what int8 weights take as float32.
_FOLDED_BYTES = 64 << 20

#: How onnxruntime names the types that executables have.
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(string)": "object",
    **{f"tensor({name})": name for name in WEIGHT_DTYPES - {"float32", "float64"}},
}

#: Rewrites of onnxruntime that make a CPU slower. Its SkipLayerNormalization takes 4 times as long as Add and
#: LayerNormalization ([512, 384] and [512, 768], two cores of an AVX-512 machine, onnxruntime 1.32).
SLOWER_ON_CPU = ("SkipLayerNormFusion",)


class EngineSession:
    """Runs an executable's graph. Several threads may run it at once; they share the engine's threads.

    Args:
        executable: what to run.
        threads: of a run alone, which runs side by side share; by default the cores that this process may use.
        providers: onnxruntime execution providers, best first; by default CUDA where there is one, then the CPU.
        spin_between_runs: whether threads wait busily for the next run (:func:`poprt.engine.options.session_options`).
        turns: of sessions that share the cores; None where this one has them for itself.

    Raises:
        UnsupportedOperatorError: the executable needs an operator that the installed onnxruntime lacks.
        DamagedExecutableError: the file was changed since it was loaded, or its graph takes or gives other tensors than
            its manifest says.
        ExecutableError: onnxruntime refuses the graph for another reason.
    """

    def __init__(
        self,
        executable: Executable,
        *,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        spin_between_runs: bool = True,
        turns: Turns | None = None,
    ) -> None:
        self.executable = executable
        self._turns = turns
        self.providers = chosen_providers(providers)
        self._variable = {
            spec.name: engine_array(executable, spec) for spec in executable.manifest.weights if not spec.constant
        }
        #: The numpy name of the type that matrix products of floats are computed in.
        self.computes_in = (
            "bfloat16" if executable.manifest.compute == "bfloat16" and _multiplies_bfloat16() else "float32"
        )
        options = session_options(threads, spin_between_runs=spin_between_runs)
        if self.computes_in == "bfloat16":
            options.add_session_config_entry(BFLOAT16_PRODUCTS, "1")
        self._session = self._start(options)
        self._shared = SharedThreads(self._session, self._session.get_session_options().intra_op_num_threads)
        _check_interface(executable.manifest, self._session)
        shapes = {item.name: item.shape for item in self._session.get_inputs()}
        self._inputs = {spec.name: (spec, shapes[spec.name]) for spec in executable.inputs}
        #: Output name -> its shape in the graph: a number, or anything else where the extent is open.
        self.output_shapes = {item.name: list(item.shape) for item in self._session.get_outputs()}
        self._outputs = list(self.output_shapes)

    def _start(self, options: ort.SessionOptions) -> ort.InferenceSession:
        _bound(options, self.executable)
        unfold_weights(options, self.executable.graph)
        self.executable.check_unchanged()
        constant = [spec for spec in self.executable.manifest.weights if spec.constant]
        # onnxruntime copies these while it loads; they may go when this method returns.
        arrays = engine_arrays(self.executable, constant)
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays]
        if values:
            options.add_external_initializers([spec.name for spec in constant], values)
        try:
            started = ort.InferenceSession(
                self.executable.graph, options, providers=self.providers, disabled_optimizers=self._unwanted()
            )
        except Exception as error:
            raise self._refused(error) from error
        self.executable.check_unchanged()
        self.executable.release_pages()
        return started

    def _refused(self, error: Exception) -> ExecutableError:
        """What the engine's ``error`` means; a missing library comes first."""
        manifest = self.executable.manifest
        if not manifest.custom_ops or not is_missing_operator(error):
            return engine_error(error)
        libraries = " and ".join(manifest.custom_libraries)
        origin = f" (it was compiled with {libraries})" if libraries else ""
        return UnsupportedOperatorError(
            f"this executable needs the operators {', '.join(manifest.custom_ops)}, which onnxruntime "
            f"{ort.__version__} does not have{origin}; {how_to_register(manifest.custom_ops)}"
        )

    def _unwanted(self) -> list[str]:
        return list(SLOWER_ON_CPU) if runs_on_cpu(self.providers) else []

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs that :meth:`run` expects."""
        return list(self._inputs)

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, in order."""
        return list(self._outputs)

    @property
    def variable_weights(self) -> dict[str, Array]:
        """The replaceable weights (``constant_weights=False``) as they are now, in the engine's types."""
        return dict(self._variable)

    def update_weights(self, weights: Mapping[str, Array]) -> None:
        """Replace weights of an executable compiled with ``constant_weights=False``, all of them at one moment.

        Raises:
            InputError: a name is not a replaceable weight, or an array has another shape.
        """
        replaced = dict(self._variable)
        for name, array in weights.items():
            current = replaced.get(name)
            if current is None:
                raise InputError(
                    f"{name!r} is not a replaceable weight; expected one of {sorted(replaced)} "
                    "(compile with constant_weights=False)"
                )
            if array.shape != current.shape:
                raise InputError(f"weight {name!r} has shape {list(array.shape)}, expected {list(current.shape)}")
            replaced[name] = np.array(to_dtype(name, array, current.dtype), order="C")
        self._variable = replaced

    def run(self, feeds: Mapping[str, Array], output_names: Sequence[str] | None = None) -> list[Array]:
        """Run the graph once.

        Args:
            feeds: an array for each input, of the engine's shape, and of a type that converts to it without loss of
                meaning (integers are range-checked; a float for an integer input is an error).
            output_names: which outputs to return; None for all.

        Returns:
            The outputs in the order asked for, in the engine's types. They are new arrays.

        Raises:
            InputError: an input is missing, unknown, mistyped or misshapen, or an output is unknown.
            PoprtError: the engine failed for another reason, such as a lack of memory.
        """
        names = chosen_outputs(output_names, self._outputs)
        prepared = prepared_feeds(feeds, self._inputs)
        try:
            with nullcontext() if self._turns is None else self._turns.of(self):
                results = self._shared.run(names, {**prepared, **self._variable})
        except engine.InvalidArgument as error:
            raise InputError(f"the engine refuses these inputs: {error}") from error
        except _FAILURES as error:
            raise PoprtError(f"the engine failed: {error}") from error
        return results


def _multiplies_bfloat16() -> bool:
    """Whether onnxruntime has products of bfloat16 for this CPU."""
    return is_arm() and has_bfloat16()


def _bound(options: ort.SessionOptions, executable: Executable) -> None:
    """Options against graphs that grow while they are loaded. An older onnxruntime takes no notice of some."""
    stored = len(executable.graph) + sum(spec.nbytes for spec in executable.manifest.weights)
    for name, value in {
        "session.load_model_format": "ONNX",  # not its own format, which nobody checked
        "session.function_expansion_node_limit": str(MOST_CALLED_NODES),
        "optimization.constant_folding_max_output_size_in_bytes": str(_FOLDED_BYTES + 4 * stored),
    }.items():
        options.add_session_config_entry(name, value)


def _check_interface(manifest: Manifest, session: ort.InferenceSession) -> None:
    """Raise DamagedExecutableError unless the graph takes and gives what the manifest says, by name and type."""
    inputs = {spec.name: spec.engine_dtype for spec in manifest.inputs}
    variable = {spec.name: spec.engine_dtype for spec in manifest.weights if not spec.constant}
    declared = {
        "inputs": {**inputs, **variable},
        "outputs": {spec.name: spec.engine_dtype for spec in manifest.outputs},
    }
    for kind, items in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        in_graph = {item.name: _DTYPES.get(item.type, item.type) for item in items}
        if in_graph != declared[kind]:
            differing = dict(sorted(in_graph.items() ^ declared[kind].items())[:3])
            raise DamagedExecutableError(
                f"the manifest's {kind} are not those of the graph; they differ in {differing}"
            )


def is_missing_operator(error: Exception) -> bool:
    """Whether onnxruntime's ``error`` says that it has no such operator."""
    return any(sign in str(error) for sign in _MISSING_OPERATOR)


def engine_error(error: Exception) -> ExecutableError:
    """The error of ours that says what onnxruntime's ``error`` means."""
    text = str(error)
    if is_missing_operator(error):
        return UnsupportedOperatorError(
            f"onnxruntime {ort.__version__} lacks an operator that this executable needs: {text}; update onnxruntime"
        )
    return ExecutableError(f"onnxruntime {ort.__version__} cannot load the graph: {text}")

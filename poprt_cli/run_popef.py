"""Time an executable under a runner."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from poprt.engine.protocol import Session
from poprt.errors import PoprtError
from poprt.executable import Executable, PackingSpec, TensorSpec
from poprt.fused_names import check_index
from poprt.runtime import HostConcatRunner, PackRunner, PackRunnerConfig, Runner, RuntimeConfig
from poprt.runtime.assumed_packing import assume_packing
from poprt.runtime.declared import DeclaredSession
from poprt.runtime.opening import Opening, open_executable

Array = npt.NDArray[Any]
Request = tuple[dict[str, Array], dict[str, Array]]

_WARM_UP = 3


@dataclass(frozen=True)
class Timing:
    """What was measured.

    Attributes:
        seconds: the latency of each iteration.
        total: from the first start to the last end, in seconds.
        batch_size: samples in one iteration.
    """

    seconds: Sequence[float]
    total: float
    batch_size: int

    @property
    def longest(self) -> float:
        """The longest latency in seconds."""
        return max(self.seconds)

    @property
    def shortest(self) -> float:
        """The shortest latency in seconds."""
        return min(self.seconds)

    @property
    def mean(self) -> float:
        """The mean latency in seconds."""
        return sum(self.seconds) / len(self.seconds)

    @property
    def p99(self) -> float:
        """The latency in seconds that 99 % of the iterations do not exceed."""
        return float(np.percentile(self.seconds, 99))

    @property
    def throughput(self) -> float:
        """Samples a second."""
        return len(self.seconds) * self.batch_size / self.total


def one_model(executable: Executable, index: int) -> Executable:
    """The model ``index`` of an executable of several, or the one that it holds.

    Raises:
        PoprtError: there is no such model.
    """
    models = executable.models or (executable,)
    return models[check_index(index, len(models), "--index")]


def run_model(
    executable: Executable,
    *,
    iteration: int,
    threads: int,
    batch_size: int | None,
    custom_ops: Sequence[str] = (),
    config_type: type[RuntimeConfig] = RuntimeConfig,
    engine: str | None = None,
    **_: Any,
) -> Timing:
    """Time a model runner, or another one whose requests are of the same kind.

    Args:
        executable: of one model.
        iteration: timed requests.
        threads: threads that send requests at once.
        batch_size: extent of the batch axis of a request; None takes the declared one.
        custom_ops: libraries of operators that onnxruntime lacks.
        config_type: of the runner.
        engine: as for ``RuntimeConfig``.

    Raises:
        PoprtError: the executable does not say the rank of an input, or leaves open an extent that
            ``batch_size`` does not say.
    """
    manifest = executable.manifest
    axis = None if batch_size is None else manifest.batch_axis
    opened = open_executable(executable, Opening(engine, custom_ops=custom_ops))
    config = config_type(batching_dim=axis, custom_ops=custom_ops)
    with Runner(opened.executable, config, session=opened.session) as runner:
        inputs, size = _request(runner, batch_size)
        feeds = runner.joined(inputs) if isinstance(runner, HostConcatRunner) else inputs
        shapes = _output_shapes(opened.executable, opened.session, feeds, batch_size)

        def send() -> None:
            outputs = {spec.name: np.empty(shapes[spec.name], spec.dtype) for spec in manifest.outputs}
            runner.execute(inputs, outputs)

        return _time(send, iteration, threads, size)


def _request(runner: Runner, batch_size: int | None) -> tuple[dict[str, Array], int]:
    """Random inputs of a request, and how many rows they have."""
    manifest, rng = runner.executable.manifest, np.random.default_rng(0)
    packing = manifest.packing
    inputs, sizes = {}, []
    for desc in runner.get_execute_inputs():
        spec = TensorSpec(desc.name, tuple(desc.shape or ()), desc.numpy_data_type().name, "", any_rank=desc.any_rank)
        axis = manifest.batch_axis_of(desc.name)
        if packing is not None and desc.name == packing.unpack_info:
            inputs[desc.name] = _lengths(spec, packing)
        else:
            inputs[desc.name] = _random(spec, _request_shape(spec, axis, batch_size), rng)
        sizes += list(inputs[desc.name].shape[axis : axis + 1])
    return inputs, batch_size or next(iter(sizes), 1)


def run_packed(
    executable: Executable,
    *,
    iteration: int,
    threads: int,
    max_valid_num: int | None,
    pack_timeout: int,
    dynamic_input: str,
    mask: str,
    custom_ops: Sequence[str] = (),
    engine: str | None = None,
    **_: Any,
) -> Timing:
    """Time a pack runner. An iteration sends as many samples of random lengths as a pack holds, and waits for all.

    Args:
        executable: of one model.
        iteration: timed packs.
        threads: threads that send at once.
        max_valid_num: most samples in a pack; None takes the executable's.
        pack_timeout: how long a sample may wait for company, in microseconds.
        dynamic_input: the input that gives a sample's length; "" leaves the choice to the runner.
        mask: the mask input; "" takes the executable's.
        custom_ops: libraries of operators that onnxruntime lacks.
        engine: as for ``PackRunnerConfig``.

    Raises:
        PoprtError: the executable is not packed and no name says what to pack, or it lacks a named input.
    """
    config = PackRunnerConfig(pack_timeout, max_valid_num or 0, dynamic_input, custom_ops=custom_ops, engine=engine)
    _name_mask(config, executable, mask)
    packing = executable.manifest.packing or assume_packing(executable.manifest, config).packing
    size = max_valid_num or packing.max_valid_num
    rng = np.random.default_rng(0)
    of_run = _run_values(executable, packing, rng)
    requests = [_sample(executable, packing, of_run, rng) for _ in range(size)]
    with PackRunner(executable, config) as runner:

        def send() -> None:
            futures = [
                runner.execute_async(inputs, {name: np.empty_like(buffer) for name, buffer in outputs.items()})
                for inputs, outputs in requests
            ]
            for future in futures:
                future.wait()

        return _time(send, iteration, threads, size)


def _name_mask(config: PackRunnerConfig, executable: Executable, mask: str) -> None:
    """Set the mode that goes with a mask: single rows where something keeps the samples of a row apart."""
    packing, operators = executable.manifest.packing, executable.manifest.pack_operators
    if packing is not None and mask and mask not in packing.dynamic_inputs:
        raise PoprtError(f"--maskName {mask!r} is no dynamic input; there are {list(packing.dynamic_inputs)}")
    if packing is not None and packing.within_rows:
        config.enable_input_single_row_mode(mask or packing.mask)
    elif packing is None and mask and operators is not None and operators.apart_in_rows:
        config.enable_input_single_row_mode(mask)
    elif packing is None and mask:
        config.enable_padding_remove_mode(mask)


def _time(send: Callable[[], None], iteration: int, threads: int, batch_size: int) -> Timing:
    def timed(_: int) -> float:
        start = time.perf_counter()
        send()
        return time.perf_counter() - start

    for _ in range(_WARM_UP):
        send()
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        seconds = list(pool.map(timed, range(iteration)))
        return Timing(seconds, time.perf_counter() - start, batch_size)


def _output_shapes(
    executable: Executable, session: Session, inputs: dict[str, Array], batch_size: int | None
) -> dict[str, tuple[int, ...]]:
    """The shapes of the results. What the executable does not say of them is seen in a run."""
    manifest = executable.manifest
    unsaid = [spec.name for spec in manifest.outputs if spec.any_rank or 0 in spec.shape]
    if batch_size is not None or not unsaid:
        return {
            spec.name: _request_shape(spec, manifest.batch_axis_of(spec.name), batch_size) for spec in manifest.outputs
        }
    results = DeclaredSession(executable, session=session).run(inputs, unsaid)
    seen = {name: result.shape for name, result in zip(unsaid, results, strict=True)}
    return {spec.name: seen.get(spec.name, spec.shape) for spec in manifest.outputs}


def _request_shape(spec: TensorSpec, axis: int, batch_size: int | None) -> tuple[int, ...]:
    if spec.any_rank:
        raise PoprtError(
            f"{spec.name!r}: the executable does not say its rank, so no request can be made up; convert the model "
            f"with --input_shape {spec.name}=..."
        )
    shape = list(spec.shape)
    if batch_size is not None and len(shape) > axis:
        shape[axis] = batch_size
    if 0 in shape:
        raise PoprtError(
            f"{spec.name!r} has open extents {list(spec.shape)} (0 is open): convert the model with --input_shape, "
            f"or say axis {axis} with --batchSize"
        )
    return tuple(shape)


def _random(spec: TensorSpec, shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Values that any model takes: masks of 1, whole numbers 0 and 1 (in every table there is), normal floats."""
    dtype = np.dtype(spec.dtype)
    if "mask" in spec.name.lower():
        return np.ones(shape, dtype)
    if dtype.kind in "biu":
        return rng.integers(0, 2, size=tuple(shape)).astype(dtype)
    return rng.standard_normal(tuple(shape)).astype(dtype)


def _lengths(spec: TensorSpec, packing: PackingSpec) -> Array:
    """``unpack_info`` of one full pack of the longest samples."""
    table = np.zeros((packing.max_valid_num, len(packing.segment_max_size)), spec.dtype)
    full = packing.rows * packing.columns // sum(packing.segment_max_size)
    table[: min(full, packing.max_valid_num)] = packing.segment_max_size
    return table


def _run_values(executable: Executable, packing: PackingSpec, rng: np.random.Generator) -> dict[str, Array]:
    """The inputs that requests must have in common to share a pack."""
    specs = [spec for spec in executable.inputs if spec.name in packing.run_inputs]
    return {spec.name: _random(spec, [extent or 1 for extent in spec.shape], rng) for spec in specs}


def _sample(
    executable: Executable, packing: PackingSpec, of_run: dict[str, Array], rng: np.random.Generator
) -> Request:
    """One sample of random length with a buffer for each output, large enough for the longest sample."""
    longest = sum(packing.segment_max_size)
    several = len(packing.segment_max_size) > 1  # how a shorter sample splits into segments is the caller's to say
    length = longest if several else int(rng.integers(1, longest + 1))
    manifest = executable.manifest
    inputs = {
        spec.name: _random(spec, packing.request_shape(spec, length), rng)
        for spec in manifest.inputs
        if spec.name not in (packing.position_ids, packing.unpack_info, *of_run)
    }
    inputs.update(of_run)
    outputs = {}
    for spec in manifest.outputs:
        per_sample = spec.shape[2:] if packing.outputs[spec.name] == "packed" else spec.shape[1:]
        shape = (longest, *per_sample) if packing.outputs[spec.name] == "packed" else per_sample
        outputs[spec.name] = np.empty([extent or longest for extent in shape], spec.dtype)
    return inputs, outputs

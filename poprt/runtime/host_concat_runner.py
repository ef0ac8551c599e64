"""The host concat runner: requests give many small inputs, which the executable takes as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from poprt.errors import InputError, PoprtError
from poprt.executable import Executable, TensorSpec
from poprt.joined_inputs import read_joined
from poprt.manifest import Manifest
from poprt.runtime.buffers import Array, InputNames, as_array, check_dtype
from poprt.runtime.checks import check_int, check_text
from poprt.runtime.config import RuntimeConfig, WatchedOptions
from poprt.runtime.data_desc import DataDesc
from poprt.runtime.model_runner import ModelRunner
from poprt.runtime.runner import Outputs, refuse_several
from poprt.runtime.served_model import Rows, ServedModel
from poprt.runtime.shapes import fits
from poprt_format.host_concat import JoinedInputs


@dataclass
class HostConcatConfig(WatchedOptions):
    """Which inputs of requests are fed as one.

    Attributes:
        tensor_name: the input of the executable.
        input_tensor_names: the inputs of a request that are laid side by side in it, in order.
        shape: the extents of each of these.
        data_size_bytes: the bytes of each of these; they follow from shape and type, and are not used.
    """

    tensor_name: str = ""
    input_tensor_names: Sequence[str] = ()
    shape: Sequence[int] = ()
    data_size_bytes: int = 0

    def checked(self) -> JoinedInputs:
        """The same, with each field of its type; raise PoprtError naming the first that is of another."""
        name = check_text("tensor_name", self.tensor_name)
        if isinstance(self.input_tensor_names, str) or not self.input_tensor_names:
            raise PoprtError(f"input_tensor_names of {name!r}: expected names, got {self.input_tensor_names!r}")
        parts = tuple(check_text(f"input_tensor_names of {name!r}", part) for part in self.input_tensor_names)
        if isinstance(self.shape, (str, int)) or not list(self.shape):
            raise PoprtError(f"shape of {name!r}: expected the extents of each input, got {self.shape!r}")
        shape = tuple(check_int(f"shape of {name!r}", extent, 1) for extent in self.shape)
        return JoinedInputs(name, parts, shape, check_int("data_size_bytes", self.data_size_bytes, 0))


@dataclass
class HostConcatRunnerConfig(RuntimeConfig):
    """Options of a host concat runner: those of a model runner, and what is joined.

    Attributes:
        host_concat_config: joined input -> its ``HostConcatConfig``; empty takes what the executable says.
    """

    host_concat_config: Mapping[str, HostConcatConfig] = field(default_factory=dict)

    def checked(self) -> HostConcatRunnerConfig:
        """As for ``RuntimeConfig``."""
        super().checked()
        configs = self.host_concat_config
        good = isinstance(configs, Mapping) and all(isinstance(one, HostConcatConfig) for one in configs.values())
        if not good:
            raise PoprtError(f"host_concat_config: expected a dict of HostConcatConfig by name, got {configs!r}")
        return self


class HostConcatRunner(ModelRunner, configured_by=HostConcatRunnerConfig):
    """Runs requests as a model runner does, and lays inputs of one shape side by side before.

    For executables of models that the pass ``apply_host_concat_split`` has changed. A request may give a joined input
    itself as well. Where nothing is joined, it is a model runner.

    Args:
        executable: an ``Executable`` of one model or the path of one.
        config: the options; None takes the defaults.
        options: ``session``, ``threads``, ``providers`` and ``spin_between_runs``, as for ``Runner``.

    Raises:
        PoprtError: what is joined does not fit the executable, an option is out of range, or that holds several models.
    """

    _config: HostConcatRunnerConfig

    def __init__(
        self, executable: Executable | str | Path, config: HostConcatRunnerConfig | None = None, **options: Any
    ) -> None:
        super().__init__(executable, HostConcatRunnerConfig() if config is None else config, **options)

    def _serve(self, **options: Any) -> list[ServedModel]:
        refuse_several(self.executable, type(self).__name__)
        manifest = self.executable.manifest
        stated = [one.checked() for one in self._config.host_concat_config.values()]
        stated = stated or read_joined(manifest.opaque_blobs) or read_joined(manifest.metadata)
        self._joined = [_Joined(one, manifest) for one in stated]
        parts = {joined.spec.name: joined.parts for joined in self._joined}
        self._specs = [spec for own in manifest.inputs for spec in parts.get(own.name, [own])]
        self._part_names = InputNames([*(spec.name for spec in self._specs), *parts])
        return super()._serve(**options)

    def get_execute_inputs(self) -> Sequence[DataDesc]:
        """Return the inputs of a request: each of those that are joined, and the others."""
        return [DataDesc(spec) for spec in self._specs]

    def get_model_inputs(self) -> Sequence[DataDesc]:
        """Return the inputs of the executable."""
        return [DataDesc(spec) for spec in self.executable.manifest.inputs]

    def joined(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The inputs of the executable that those of a request make.

        Raises:
            InputError: one is missing, not known, or has another shape or type than it should.
        """
        self._part_names.check(inputs)
        arrays = dict(inputs)
        for joined in self._joined:
            if joined.spec.name not in arrays:
                axis = self._models[0].axes.get(joined.spec.name)
                arrays[joined.spec.name] = joined.join(arrays, axis, self._config.validate_io_params)
        return arrays

    def _request(self, inputs: Mapping[str, Array], outputs: Outputs) -> Rows:
        return super()._request(self.joined(inputs), outputs)


class _Joined:
    """An input of the executable and those that are laid side by side in it."""

    def __init__(self, stated: JoinedInputs, manifest: Manifest) -> None:
        specs = {spec.name: spec for spec in manifest.inputs}
        spec = specs.get(stated.tensor_name)
        if spec is None:
            raise PoprtError(f"host concat: {stated.tensor_name!r} is no input; the executable has {', '.join(specs)}")
        if not fits(stated.joined_shape(), spec):
            raise PoprtError(
                f"host concat: {len(stated.input_tensor_names)} inputs of shape {list(stated.shape)} make "
                f"{list(stated.joined_shape())}, and {spec.name!r} has the shape {list(spec.shape)}"
            )
        self.spec = spec
        self.parts = [
            TensorSpec(name, stated.shape, spec.dtype, spec.engine_dtype) for name in stated.input_tensor_names
        ]
        self._axis = stated.axis

    def join(self, arrays: dict[str, Array], batch_axis: int | None, validate: bool) -> Array:
        """Take the parts out of ``arrays`` and lay them side by side.

        Args:
            batch_axis: the axis along which they may have any extent, all the same one.
        """
        parts = [self._part(spec, arrays, batch_axis, validate) for spec in self.parts]
        shape = parts[0].shape
        other = next((number for number, part in enumerate(parts) if part.shape != shape), None)
        if other is not None:
            first, second = self.parts[0].name, self.parts[other].name
            raise InputError(
                f"inputs {first!r} and {second!r} are fed as one and differ: {list(shape)}, {list(parts[other].shape)}"
            )
        return np.concatenate(parts, self._axis, dtype=self.spec.dtype, casting="unsafe")

    def _part(self, spec: TensorSpec, arrays: dict[str, Array], batch_axis: int | None, validate: bool) -> Array:
        if spec.name not in arrays:
            raise InputError(f"missing input {spec.name!r} ({spec.dtype}, shape {list(spec.shape)})")
        array = as_array(spec.name, arrays.pop(spec.name))
        if validate:
            check_dtype(spec.name, array, spec.dtype)
        free = batch_axis if batch_axis != self._axis else None
        if not fits(array.shape, spec, free):
            raise InputError(f"input {spec.name!r}: expected shape {list(spec.shape)}, got {list(array.shape)}")
        return array

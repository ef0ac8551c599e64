"""Backends under the names that newer scripts import; see :mod:`poprt.backend`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from poprt.backend import Array, Backend, CompiledBackend, IoInfo, get_session

__all__ = ["Backend", "IoArgument", "ORTBackend", "get_session"]


@dataclass(frozen=True)
class IoArgument:
    """An input or output as ``onnxruntime.InferenceSession`` tells of it; 0 is an open extent."""

    name: str
    shape: list[int] | None
    type: str


class ORTBackend(CompiledBackend):
    """Compiles a model and stands in for an ``onnxruntime.InferenceSession``.

    Args:
        path_or_bytes: the model.
        sess_options, providers, provider_options: taken for the signature's sake, and announced.
        lazy_load: compile at the first run, not now.
        options: those of ``Backend``.
    """

    def __init__(
        self,
        path_or_bytes: Any,
        sess_options: Any = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Any] | None = None,
        lazy_load: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(path_or_bytes, lazy_load=lazy_load, **options)
        unused = {"sess_options": sess_options, "providers": providers, "provider_options": provider_options}
        for name in [name for name, value in unused.items() if value is not None]:
            self.logger.warning("%s has no effect here: poprt chooses the options of its session", name)

    def run(  # the third argument is onnxruntime's here
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Array], run_options: Any = None
    ) -> list[Array]:
        """Run once, as ``InferenceSession.run`` does."""
        return super().run(output_names, input_feed)

    def get_inputs(self) -> list[IoArgument]:
        """The inputs."""
        return _arguments(self.get_io_info()[0])

    def get_outputs(self) -> list[IoArgument]:
        """The outputs."""
        return _arguments(self.get_io_info()[1])


def _arguments(info: IoInfo) -> list[IoArgument]:
    return [IoArgument(name, shape, _type_name(dtype)) for name, (shape, dtype) in info.items()]


def _type_name(dtype: np.dtype[Any]) -> str:
    """float32 -> "tensor(float)"."""
    return f"tensor({onnx.TensorProto.DataType.Name(helper.np_dtype_to_tensor_dtype(dtype)).lower()})"

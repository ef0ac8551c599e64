"""Where models come from: ONNX files."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

import onnx

from poprt.errors import PoprtError
from poprt.model_file import read_external_data, read_proto

__all__ = ["OnnxFrontend", "get_frontend"]


class OnnxFrontend:
    """Loads an ONNX file.

    Args:
        path: the file; weights kept beside it are read too.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)

    def load_model(self) -> onnx.ModelProto:
        """Read the model.

        Raises:
            PoprtError: there is no such file, it is no ONNX model, or its weights are missing; the message names it.
        """
        if not os.path.isfile(self.path):  # Path.is_file raises for a name that is too long
            raise PoprtError(f"no model file {str(self.path)!r}")
        try:
            model = read_proto(self.path)
        except OSError as error:
            raise PoprtError(f"{str(self.path)!r} cannot be read as an ONNX model: {error}") from error
        if not model.HasField("graph"):
            raise PoprtError(f"{str(self.path)!r} is no ONNX model: it holds no graph")
        read_external_data(model, self.path)
        return model


def get_frontend(path: str | PathLike[str], framework: str = "onnx") -> OnnxFrontend:
    """The loader of a model file: ``get_frontend("model.onnx").load_model()``.

    Raises:
        PoprtError: ``framework`` is another than "onnx", which is all that is read here.
    """
    if framework.lower() != "onnx":
        raise PoprtError(f"framework {framework!r} is not read; export the model to ONNX and use framework='onnx'")
    return OnnxFrontend(path)

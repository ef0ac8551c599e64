"""A dense layer of sentence-transformers: a product, a bias and an activation behind the pooling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from poprt.errors import PoprtError
from poprt.text.folder.building import Nodes
from poprt.text.folder.files import ModelFolder

#: torch's modules, in small letters -> ONNX operators; None is none.
_ACTIVATIONS = {"identity": None, "tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid"}
_HOW_TO = "save the model with SentenceTransformer(...).save_pretrained(FOLDER, safe_serialization=True)"


def add_dense(nodes: Nodes, vectors: str, path: str, folder: ModelFolder) -> tuple[str, int]:
    """Add the layer in ``path``; its output [batch, out], and the extent out.

    Raises:
        PoprtError: its activation is not known, or its weights cannot be read or have other shapes.
    """
    config = folder.table(f"{path}/config.json")
    activation = _activation(config, folder.path / path / "config.json")
    weights = _weights(folder.path / path)
    weight, bias = weights.get("linear.weight"), weights.get("linear.bias")
    if weight is None or weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = {name: array.shape for name, array in weights.items()}
        raise PoprtError(f"{str(folder.path / path)!r}: expected linear.weight [out, in] and linear.bias, got {shapes}")
    result = nodes.add("MatMul", [vectors, nodes.floats(weight.T)])
    if bias is not None:
        result = nodes.add("Add", [result, nodes.floats(bias)])
    return (nodes.add(activation, [result]) if activation else result), weight.shape[0]


def _activation(config: dict[str, Any], path: Path) -> str | None:
    said = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    name = said.rpartition(".")[2].lower()
    if name not in _ACTIVATIONS:
        expected = "Identity, ReLU, Sigmoid, Tanh"
        raise PoprtError(f"{str(path)!r}: activation_function is {said!r}, expected one of {expected}")
    return _ACTIVATIONS[name]


def _weights(path: Path) -> dict[str, npt.NDArray[Any]]:
    file = path / "model.safetensors"
    if not file.is_file():
        raise PoprtError(f"{str(path)!r} has no model.safetensors (a pickle is not read): {_HOW_TO}")
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise PoprtError("safetensors is not installed: pip install 'poprt[text]'") from error
    try:
        weights: dict[str, npt.NDArray[Any]] = load_file(str(file))
    except (SafetensorError, TypeError, KeyError, OSError) as error:  # KeyError: a type that numpy lacks
        raise PoprtError(f"{str(file)!r} cannot be read: {error}; {_HOW_TO}, in float32") from error
    return {name: np.asarray(array) for name, array in weights.items()}

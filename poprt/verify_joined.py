"""Sample data of a converted model whose inputs ``apply_host_concat_split`` joined, each made by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from poprt.joined_inputs import read_joined
from poprt.sample_data import Array, InputInfo, model_inputs
from poprt_format.host_concat import JoinedInputs


def joined_of(model: onnx.ModelProto) -> list[JoinedInputs]:
    """The joined inputs of a converted model."""
    return read_joined({item.key: item.value for item in model.metadata_props})


def separate_inputs(model: onnx.ModelProto) -> list[InputInfo]:
    """The inputs of a converted model, each of those that were joined by itself: [8, 60] is sixty of [8, 1]."""
    parts = {one.tensor_name: one for one in joined_of(model)}
    inputs = []
    for info in model_inputs(model):
        joined = parts.get(info.name)
        names = [info.name] if joined is None else joined.input_tensor_names
        shape = info.shape if joined is None else joined.shape
        inputs += [replace(info, name=name, shape=shape) for name in names]
    return inputs


def join_feeds(feeds: Mapping[str, Array], joined: Sequence[JoinedInputs]) -> dict[str, Array]:
    """Lay the joined inputs of a run side by side: sixty of [8, 1] make [8, 60]."""
    arrays = dict(feeds)
    for one in joined:
        arrays[one.tensor_name] = np.concatenate([arrays.pop(name) for name in one.input_tensor_names], one.axis)
    return arrays

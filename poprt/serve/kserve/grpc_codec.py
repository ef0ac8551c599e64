"""Messages of inference to requests, and answers to messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from poprt.serve.errors import BadRequest
from poprt.serve.kserve import arrays, parameters
from poprt.serve.kserve.arrays import Array
from poprt.serve.kserve.datatypes import BYTES, Datatype, datatype, datatype_of
from poprt.serve.kserve.messages import Message, response_class
from poprt.serve.kserve.requests import InferRequest, InferResponse, check_id, check_name, check_new

_Response = response_class("ModelInfer")


def read_request(message: Message) -> InferRequest:
    """The request that a ``ModelInferRequest`` holds; ``parameters.binary_output`` says whether its tensors are raw.

    Raises:
        BadRequest: a tensor is no such; the message names it.
    """
    asked = parameters.of_request(_values(message.parameters))
    raw = bool(message.raw_input_contents) or not message.inputs
    return InferRequest(
        inputs=_inputs(message),
        outputs=dict.fromkeys(_outputs(message.outputs), raw),
        parameters=replace(asked, binary_output=raw),
        id=check_id(message.id),
    )


def write_response(response: InferResponse, raw: bool) -> Message:
    """A ``ModelInferResponse``: its tensors raw or typed, all in the same way.

    Raises:
        BadRequest: an output has no typed form.
    """
    message = _Response(model_name=response.model, model_version=response.version, id=response.id)
    for name, array in response.outputs.items():
        kind = datatype_of(array.dtype)
        tensor = message.outputs.add(name=name, datatype=kind.name, shape=array.shape)
        if raw:
            message.raw_output_contents.append(arrays.to_bytes(array))
        elif kind.contents:
            getattr(tensor.contents, kind.contents).extend(_typed(array))
        else:
            raise BadRequest(f"output {name!r}: {kind.name} is sent raw alone; send the inputs in raw_input_contents")
    return message


def _typed(array: Array) -> Iterable[Any]:
    return map(str.encode, array.flat) if array.dtype == object else array.ravel().tolist()


def _inputs(message: Message) -> dict[str, Array]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise BadRequest(f"raw_input_contents has {len(raw)} tensors, the request has {len(message.inputs)} inputs")
    inputs: dict[str, Array] = {}
    for number, tensor in enumerate(message.inputs):
        name = check_name("name of an input", tensor.name)
        check_new("input", name, inputs)
        inputs[name] = _input(tensor, raw[number] if raw else None)
    return inputs


def _input(tensor: Message, raw: bytes | None) -> Array:
    name = tensor.name
    kind = datatype(tensor.datatype, name)
    shape = arrays.check_shape(name, list(tensor.shape))
    size = parameters.of_input(name, _values(tensor.parameters))  # of HTTP; KServe's client leaves it in
    if size is not None and size != (None if raw is None else len(raw)):
        raise BadRequest(f"input {name!r}: binary_data_size is {size}, and raw_input_contents has no such tensor")
    contents = tensor.contents.ListFields()
    if raw is None:
        return arrays.from_flat(name, kind, shape, _flat(name, kind, contents))
    if contents:
        raise BadRequest(f"input {name!r} has contents, and the request raw_input_contents; send one of them")
    return arrays.from_bytes(name, kind, shape, raw)


def _flat(name: str, kind: Datatype, contents: list[tuple[Any, Any]]) -> list[Any]:
    """The typed values of an input."""
    others = [field.name for field, _ in contents if field.name != kind.contents]
    if others:
        where = kind.contents or "raw_input_contents"
        raise BadRequest(f"input {name!r}: {kind.name} is sent in {where}, the request has {', '.join(others)}")
    values = [value for _, field in contents for value in field]
    if kind.name == BYTES:
        return [arrays.decoded(name, number, value) for number, value in enumerate(values)]
    return values


def _outputs(items: Iterable[Message]) -> list[str]:
    names: dict[str, None] = {}
    for tensor in items:
        name = check_name("name of an output", tensor.name)
        check_new("output", name, names)
        parameters.of_output(name, _values(tensor.parameters))
        names[name] = None
    return list(names)


def _values(items: Mapping[str, Message]) -> dict[str, object]:
    """Parameters as plain values."""
    choices = {name: item.WhichOneof("parameter_choice") for name, item in items.items()}
    return {name: getattr(items[name], choice) if choice else None for name, choice in choices.items()}

"""Bodies of HTTP requests and answers: JSON, with tensors in binary form behind it where the client likes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from poprt.serve.errors import BadRequest, Internal
from poprt.serve.kserve import arrays, parameters
from poprt.serve.kserve.arrays import Array
from poprt.serve.kserve.datatypes import datatype, datatype_of
from poprt.serve.kserve.requests import InferRequest, InferResponse, check_id, check_name, check_new

#: Says how many bytes of a body are JSON, where tensors in binary form lie behind it. Bytes before compression.
JSON_LENGTH = "Inference-Header-Content-Length"


class Body(NamedTuple):
    """The body of an answer, and how many bytes of it are JSON; None where all are."""

    data: bytes
    json_length: int | None


def read_request(body: bytes, json_length: str | None = None) -> InferRequest:
    """The request that a body holds.

    Args:
        body: without compression.
        json_length: the value of the header :data:`JSON_LENGTH`; None where there is none.

    Raises:
        BadRequest: the body is no such request; the message names the tensor.
    """
    end = _json_end(json_length, len(body))
    fields = _object("the request", read_json(memoryview(body)[:end]))
    asked = parameters.of_request(fields.get("parameters"))
    return InferRequest(
        inputs=_inputs(_list("inputs", fields.get("inputs")), _Binary(memoryview(body)[end:], json_length is not None)),
        outputs=_outputs(_list("outputs", fields.get("outputs") or []), asked.binary_output),
        parameters=asked,
        id=check_id(fields.get("id")),
    )


def read_json(data: bytes | memoryview) -> Any:
    """A JSON value; raise BadRequest where it is none, holds NaN or half of a surrogate pair, or is nested too deep."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is no JSON: {error}") from None


def write_response(response: InferResponse, request: InferRequest) -> Body:
    """The body of an answer.

    Raises:
        BadRequest: an output has no form in JSON, and is not asked for in binary form.
        Internal: an output has NaN or infinity, and is asked for in JSON.
    """
    entries, binary = [], list[bytes]()
    for name, array in response.outputs.items():
        entry: dict[str, Any] = {"name": name, "datatype": datatype_of(array.dtype).name, "shape": list(array.shape)}
        if request.binary(name):
            binary.append(arrays.to_bytes(array))
            entry["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            entry["data"] = _values(name, array)
        entries.append(entry)
    fields = {"model_name": response.model, "model_version": response.version, "outputs": entries}
    if response.id:
        fields["id"] = response.id
    head = orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)
    return Body(b"".join((head, *binary)), len(head)) if binary else Body(head, None)


def _values(name: str, array: Array) -> Any:
    """What JSON says of an array: its values in row-major order."""
    if array.dtype == np.float16:
        raise BadRequest(f"output {name!r}: FP16 is sent in binary form alone; set its parameter binary_data to true")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Internal(f"output {name!r} holds NaN or infinity, which JSON has no form of")
    return array.ravel().tolist() if array.dtype == object else np.ascontiguousarray(array).reshape(-1)


def _json_end(json_length: str | None, size: int) -> int:
    """How many bytes of the body are JSON."""
    if json_length is None:
        return size
    end = int(json_length) if json_length.isascii() and json_length.isdigit() and len(json_length) < 20 else -1
    if not 0 <= end <= size:
        raise BadRequest(f"{JSON_LENGTH} is {json_length!r:.50}, the body has {size} bytes")
    return end


class _Binary:
    """The tensors behind the JSON text, which lie one after the other."""

    def __init__(self, data: memoryview, announced: bool) -> None:
        self._data = data
        self._announced = announced
        self._at = 0

    def take(self, name: str, size: int) -> memoryview:
        """The bytes of the next tensor; raise BadRequest."""
        if size and not self._announced:
            raise BadRequest(f"input {name!r} is in binary form, which needs the header {JSON_LENGTH}")
        start, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise BadRequest(
                f"input {name!r}: binary_data_size is {size}, {len(self._data) - start} bytes of the body are left"
            )
        return self._data[start : self._at]

    def check_used(self) -> None:
        """Raise BadRequest where bytes are left that belong to no tensor."""
        if self._at < len(self._data):
            raise BadRequest(f"{len(self._data) - self._at} bytes of the body belong to no input")


def _inputs(entries: list[Any], binary: _Binary) -> dict[str, Array]:
    inputs: dict[str, Array] = {}
    for entry in entries:
        fields = _object("an input", entry)
        name = check_name("name of an input", fields.get("name"))
        check_new("input", name, inputs)
        inputs[name] = _input(name, fields, binary)
    binary.check_used()
    return inputs


def _input(name: str, fields: dict[str, Any], binary: _Binary) -> Array:
    kind = datatype(fields.get("datatype"), name)
    shape = arrays.check_shape(name, fields.get("shape"))
    size = parameters.of_input(name, fields.get("parameters"))
    values = fields.get("data")
    if (size is None) == (values is None):
        which = "neither data nor" if size is None else "both data and"
        raise BadRequest(f"input {name!r} has {which} binary_data_size, expected one of them")
    if size is None:
        return arrays.from_values(name, kind, shape, values)
    return arrays.from_bytes(name, kind, shape, binary.take(name, size))


def _outputs(entries: list[Any], default: bool) -> dict[str, bool]:
    outputs: dict[str, bool] = {}
    for entry in entries:
        output = _object("an output", entry)
        name = check_name("name of an output", output.get("name"))
        check_new("output", name, outputs)
        binary = parameters.of_output(name, output.get("parameters"))
        outputs[name] = default if binary is None else binary
    return outputs


def _object(what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{what} is {type(value).__name__}, expected an object of names and values")
    return value


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BadRequest(f"{name}: expected a list of tensors, got {type(value).__name__}")
    return list(value)

"""Parameters of requests and tensors: each is followed, or refused by its name; none is passed over in silence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from poprt.serve.errors import BadRequest

#: Parameters that are not followed, and why. Their neutral values (0, "", false, null) say nothing and pass.
_REFUSED = {
    "sequence_id": "models keep nothing from one request to the next; leave it out",
    "sequence_start": "models keep nothing from one request to the next; leave it out",
    "sequence_end": "models keep nothing from one request to the next; leave it out",
    "priority": "requests take turns by their size; leave it out",
    "classification": "it is not offered; ask for the output itself and choose among its values",
    "shared_memory_region": "shared memory is not offered; send the tensor in the request",
    "shared_memory_byte_size": "shared memory is not offered; send the tensor in the request",
    "shared_memory_offset": "shared memory is not offered; send the tensor in the request",
}
#: MLServer's clients say how they made the tensor; nothing hangs on it.
_HINTS = frozenset({"content_type"})
_OF_REQUEST = ("binary_data_output", "timeout", "truncate", "prompt_name")
_OF_INPUT = ("binary_data_size",)
_OF_OUTPUT = ("binary_data",)


@dataclass(frozen=True)
class Parameters:
    """What a request asks for beside its tensors.

    Attributes:
        binary_output: whether outputs that say nothing of it are sent in binary form.
        timeout: seconds until the answer is of no use; None: as long as the server allows.
        truncate: whether a text that is too long is cut; None: as the server does by default.
        prompt_name: the model's prompt that goes before each text; None: its default one.
    """

    binary_output: bool = False
    timeout: float | None = None
    truncate: bool | None = None
    prompt_name: str | None = None


def of_request(values: object) -> Parameters:
    """The parameters of a request, ``timeout`` in microseconds among them.

    Raises:
        BadRequest: one is refused, not one that there is, or of a wrong type.
    """
    checked = _checked("the request", values, _OF_REQUEST)
    timeout = checked.get("timeout")
    if timeout is not None and (type(timeout) is not int or timeout < 0):
        raise BadRequest(f"parameter 'timeout' is {timeout!r:.50}, expected a whole number of microseconds")
    name = checked.get("prompt_name")
    if name is not None and not isinstance(name, str):
        raise BadRequest(f"parameter 'prompt_name' is {name!r:.50}, expected a string")
    return Parameters(
        binary_output=bool(_flag(checked, "binary_data_output")),
        timeout=timeout / 1e6 if timeout else None,
        truncate=_flag(checked, "truncate"),
        prompt_name=name,
    )


def of_input(tensor: str, values: object) -> int | None:
    """The bytes of an input behind the JSON text; None where its values are in it. Raise BadRequest."""
    size = _checked(f"input {tensor!r}", values, _OF_INPUT).get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise BadRequest(f"input {tensor!r}: binary_data_size is {size!r:.50}, expected a whole number of bytes")
    return size


def of_output(tensor: str, values: object) -> bool | None:
    """Whether an output is asked for in binary form; None where it does not say. Raise BadRequest."""
    return _flag(_checked(f"output {tensor!r}", values, _OF_OUTPUT), "binary_data")


def _checked(what: str, values: object, names: tuple[str, ...]) -> Mapping[str, object]:
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise BadRequest(f"parameters of {what}: expected names and values, got {type(values).__name__}")
    for name, value in values.items():
        if name in _REFUSED:
            if value:
                raise BadRequest(f"parameter {name!r} of {what}: {_REFUSED[name]}")
        elif name not in names and name not in _HINTS:
            raise BadRequest(f"unknown parameter {name!r:.50} of {what}; it takes {', '.join(names)}")
    return values


def _flag(values: Mapping[str, object], name: str) -> bool | None:
    value = values.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise BadRequest(f"parameter {name!r} is {value!r:.50}, expected true or false")

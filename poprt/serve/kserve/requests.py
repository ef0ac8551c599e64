"""A request and an answer, whichever way they travel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from poprt.serve.errors import BadRequest
from poprt.serve.kserve.arrays import Array
from poprt.serve.kserve.parameters import Parameters

#: Most characters of a tensor's name or a request's id.
_MOST_CHARACTERS = 256


@dataclass(frozen=True)
class InferRequest:
    """What a client asks of a model.

    Attributes:
        inputs: input name -> array; texts are arrays of ``str`` objects.
        outputs: name of each output that is asked for -> whether in binary form; empty: all of them.
        parameters: what it says beside.
        id: is returned with the answer; "" where it has none.
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, bool] = field(default_factory=dict)
    parameters: Parameters = field(default_factory=Parameters)
    id: str = ""

    def binary(self, output: str) -> bool:
        """Whether an output is sent in binary form."""
        return self.outputs.get(output, self.parameters.binary_output)


@dataclass(frozen=True)
class InferResponse:
    """What a model answers: name of the model, its version, the request's id, and output name -> array."""

    model: str
    version: str
    id: str
    outputs: Mapping[str, Array]


def check_name(what: str, value: object) -> str:
    """A name that a request gives; raise BadRequest where it is none."""
    if not isinstance(value, str) or not 0 < len(value) <= _MOST_CHARACTERS:
        raise BadRequest(f"{what}: expected a string of 1 to {_MOST_CHARACTERS} characters, got {value!r:.50}")
    return value


def check_id(value: object) -> str:
    """A request's id; raise BadRequest where it is none."""
    return "" if value in (None, "") else check_name("id", value)


def check_new(what: str, name: str, others: Mapping[str, object]) -> None:
    """Raise BadRequest where a request names a tensor twice."""
    if name in others:
        raise BadRequest(f"{what} {name!r} stands in the request twice")

"""The protocol's names of types, and what a tensor of each may hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from poprt.serve.errors import BadRequest

#: Texts. Their arrays hold ``str`` objects.
BYTES = "BYTES"


@dataclass(frozen=True)
class Datatype:
    """A type of the protocol.

    Attributes:
        name: what the protocol calls it.
        dtype: the type of its arrays; little-endian in binary form.
        contents: the field of a gRPC message that holds typed values of it; "" where there is none.
    """

    name: str
    dtype: np.dtype[Any]
    contents: str


def _datatype(name: str, dtype: npt.DTypeLike, contents: str) -> Datatype:
    return Datatype(name, np.dtype(dtype), contents)


#: Every type of the protocol by its name.
DATATYPES = {
    item.name: item
    for item in (
        _datatype("BOOL", np.bool_, "bool_contents"),
        _datatype("INT8", np.int8, "int_contents"),
        _datatype("INT16", np.int16, "int_contents"),
        _datatype("INT32", np.int32, "int_contents"),
        _datatype("INT64", np.int64, "int64_contents"),
        _datatype("UINT8", np.uint8, "uint_contents"),
        _datatype("UINT16", np.uint16, "uint_contents"),
        _datatype("UINT32", np.uint32, "uint_contents"),
        _datatype("UINT64", np.uint64, "uint64_contents"),
        _datatype("FP16", np.float16, ""),  # neither JSON nor the typed fields of gRPC have a form of it
        _datatype("FP32", np.float32, "fp32_contents"),
        _datatype("FP64", np.float64, "fp64_contents"),
        _datatype(BYTES, np.object_, "bytes_contents"),
    )
}
_BY_DTYPE = {item.dtype: item for item in DATATYPES.values()}


def datatype(name: object, tensor: str) -> Datatype:
    """The type of this name.

    Args:
        name: what the request says.
        tensor: the tensor's name, for the message.

    Raises:
        BadRequest: the protocol has no such type, or it is one that is not served (BF16).
    """
    item = DATATYPES.get(name) if isinstance(name, str) else None
    if item is None:
        raise BadRequest(f"tensor {tensor!r}: datatype {name!r:.50}, expected one of {', '.join(DATATYPES)}")
    return item


def datatype_of(dtype: npt.DTypeLike) -> Datatype:
    """The protocol's type of an array's type; raise KeyError where it has none."""
    return _BY_DTYPE[np.dtype(dtype)]

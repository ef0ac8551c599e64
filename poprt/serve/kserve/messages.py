"""The protocol's messages and its gRPC service, from the descriptors beside this file.

They have a pool of their own. In the common one they would clash with those of a client in the same process, which have
the same names.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any, TypeAlias

from google.protobuf.descriptor_pb2 import FileDescriptorSet  # type: ignore[import-untyped]
from google.protobuf.descriptor_pool import DescriptorPool  # type: ignore[import-untyped]
from google.protobuf.message_factory import GetMessageClass  # type: ignore[import-untyped]

#: A message: protobuf makes their classes when it runs, and has no types for them.
Message: TypeAlias = Any

DESCRIPTORS = "open_inference.binpb"
SERVICE = "inference.GRPCInferenceService"


def _pool() -> Any:
    pool = DescriptorPool()
    data = files(__package__).joinpath(DESCRIPTORS).read_bytes()
    for file in FileDescriptorSet.FromString(data).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _pool()


def message_class(name: str) -> Any:
    """The class of a message by its name, such as "ModelInferRequest"; raise KeyError."""
    return GetMessageClass(_POOL.FindMessageTypeByName(f"inference.{name}"))


#: Method of the service -> its descriptor, which knows the messages that it takes and gives.
METHODS: dict[str, Any] = {method.name: method for method in _POOL.FindServiceByName(SERVICE).methods}


def request_class(method: str) -> Any:
    """The class of what a method takes."""
    return GetMessageClass(METHODS[method].input_type)


def response_class(method: str) -> Any:
    """The class of what a method gives."""
    return GetMessageClass(METHODS[method].output_type)

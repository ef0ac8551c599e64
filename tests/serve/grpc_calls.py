"""Calls of gRPC methods without a client of anybody's."""

from __future__ import annotations

from typing import Any

import pytest

from poprt.serve.kserve.messages import METHODS, request_class, response_class
from tests.serve.v2_models import SOON

grpc = pytest.importorskip("grpc", reason="pip install 'poprt[grpc]'")


def ask(address: str, method: str, message: Any, metadata: Any = (), timeout: float = SOON) -> Any:
    """Call a method with a message, or with bytes, and nothing of a client's own."""
    data = message if isinstance(message, bytes) else message.SerializeToString()
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        answer = call(data, metadata=metadata, timeout=timeout)
    return response_class(method).FromString(answer) if method in METHODS else answer


def typed(texts: list[str], **fields: Any) -> Any:
    """A request whose texts are typed values."""
    message = request_class("ModelInfer")(model_name="embed", **fields)
    tensor = message.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
    tensor.contents.bytes_contents.extend(text.encode() for text in texts)
    return message


def error_of(*args: Any, **options: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as error:
        ask(*args, **options)
    return error.value.code().name, error.value.details()

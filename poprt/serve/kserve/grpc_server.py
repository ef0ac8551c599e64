"""The protocol over gRPC, on the event loop of the HTTP server."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc  # type: ignore[import-untyped]
from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from poprt.errors import PoprtError
from poprt.serve.calls import Call
from poprt.serve.errors import BadRequest, ClientGone, ServeError, Unauthorized, from_exception
from poprt.serve.kserve import metadata
from poprt.serve.kserve.answering import counted
from poprt.serve.kserve.grpc_codec import read_request, write_response
from poprt.serve.kserve.messages import METHODS, SERVICE, Message, request_class, response_class
from poprt.serve.limits import is_key, sent_keys
from poprt.serve.options import ServeOptions

if TYPE_CHECKING:
    from poprt.serve.app import State

#: HTTP status of an error -> the code of gRPC.
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
#: Methods that other servers have -> what they need that is not here.
_REFUSED = {
    "RepositoryModelLoad": "models are named when the server starts, and not loaded later",
    "RepositoryModelUnload": "models are named when the server starts, and not unloaded later",
    **dict.fromkeys(
        (f"{kind}SharedMemory{what}" for kind in ("System", "Cuda") for what in ("Status", "Register", "Unregister")),
        "shared memory is not offered; send tensors in the request",
    ),
    "TraceSetting": "traces are not offered",
    "LogSettings": "logging is set when the server starts",
}
#: Methods that need no key, as the health routes of HTTP.
_OPEN = ("ServerLive", "ServerReady")


class GrpcServer:
    """A running server. Made by :func:`start`.

    Attributes:
        port: where it listens.
    """

    def __init__(self, server: Any, port: int) -> None:
        self._server = server
        self.port = port

    async def stop(self, grace: float) -> None:
        """Take no more requests, and wait ``grace`` seconds for those that run; then cancel them."""
        await self._server.stop(grace)


async def start(state: State) -> GrpcServer:
    """Serve on ``options.grpc_port`` of ``options.host``; port 0 takes a free one.

    Raises:
        PoprtError: the port is taken, or the key has a password, which gRPC does not take.
        OSError: a certificate cannot be read.
    """
    options = state.options
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", options.payload_limit),
            ("grpc.so_reuseport", int(options.workers > 1)),  # else a second server would take its share in silence
        ]
    )
    server.add_generic_rpc_handlers((_Service(state),))
    port = _listen(server, options)
    await server.start()
    return GrpcServer(server, port)


def _listen(server: Any, options: ServeOptions) -> int:
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"{host}:{options.grpc_port or 0}"
    credentials = _credentials(options)
    try:
        if credentials is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise PoprtError(
            f"grpc_port: {options.grpc_port} on {options.host} cannot be listened on; if another process has it, "
            "give another one"
        ) from error


def _credentials(options: ServeOptions) -> Any:
    """What TLS needs; None without it."""
    if options.ssl_certfile is None:
        return None
    if options.ssl_keyfile_password is not None:
        raise PoprtError("ssl_keyfile_password: gRPC takes no key with a password; give one without, or no grpc_port")
    certificate = Path(options.ssl_certfile).read_bytes()
    key = Path(options.ssl_keyfile or options.ssl_certfile).read_bytes()
    required = options.ssl_cert_reqs == ssl.CERT_REQUIRED
    authority = Path(options.ssl_ca_certs).read_bytes() if required and options.ssl_ca_certs else None
    return grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=required)


class _Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the function of a method. Messages are read and written here, so that one that is none is told so."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._functions: dict[str, Callable[[State, Message, Call], Awaitable[Message]]] = {
            "ServerLive": _server_live,
            "ServerReady": _server_ready,
            "ModelReady": _model_ready,
            "ServerMetadata": _server_metadata,
            "ModelMetadata": _model_metadata,
            "ModelInfer": _model_infer,
            "ModelConfig": _model_config,
            "ModelStatistics": _model_statistics,
            "RepositoryIndex": _repository_index,
        }

    def service(self, details: Any) -> Any:
        """The handler of a method; None where there is no such."""
        service, _, method = details.method.removeprefix("/").rpartition("/")
        if service != SERVICE:
            return None
        if method == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self._stream)
        if method in self._functions:
            return grpc.unary_unary_rpc_method_handler(self._unary(method))
        return grpc.unary_unary_rpc_method_handler(_refusal(method)) if method in _REFUSED else None

    def _unary(self, method: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def handle(data: bytes, context: Any) -> bytes:
            call = self._call(method, context)
            try:
                self._check_key(method, context)
                message = await self._answer(method, data, call)
            except ServeError as error:
                self._state.metrics.finished(call, error.status)
                await _abort(context, error)
                raise
            except asyncio.CancelledError:  # the client went, or its time is over
                self._state.metrics.finished(call, ClientGone.status)
                raise
            self._state.metrics.finished(call, 200)
            return bytes(message.SerializeToString())

        return handle

    async def _stream(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answer each request of a stream, in their order. An error is an answer, and the stream goes on."""
        try:
            self._check_key("ModelStreamInfer", context)
        except ServeError as error:
            await _abort(context, error)
        response = response_class("ModelStreamInfer")
        async for data in messages:
            call = self._call("ModelStreamInfer", context)
            try:
                message = response(infer_response=await self._answer("ModelInfer", data, call))
                status = 200
            except ServeError as error:
                message, status = response(error_message=error.message), error.status
            except asyncio.CancelledError:
                self._state.metrics.finished(call, ClientGone.status)
                raise
            self._state.metrics.finished(call, status)
            yield bytes(message.SerializeToString())

    async def _answer(self, method: str, data: bytes, call: Call) -> Message:
        """What a method gives; raise ServeError, whatever went wrong."""
        try:
            return await self._functions[method](self._state, _read(method, data), call)
        except Exception as error:
            raise from_exception(error) from error

    def _call(self, method: str, context: Any) -> Call:
        remaining = context.time_remaining()
        limit = self._state.options.request_timeout
        seconds = limit if remaining is None else min(limit, remaining)
        deadline = asyncio.get_running_loop().time() + seconds
        return Call(endpoint=f"/{SERVICE}/{method}", deadline=deadline, started=time.perf_counter())

    def _check_key(self, method: str, context: Any) -> None:
        key = self._state.options.api_key
        if key is None or method in _OPEN:
            return
        if not is_key(key, sent_keys(_headers(context.invocation_metadata() or ()))):
            raise Unauthorized("the key is missing or wrong: send it as the metadata `authorization: Bearer KEY`")


def _headers(metadata: Iterable[tuple[str, str | bytes]]) -> list[tuple[bytes, bytes]]:
    """A call's metadata as headers of HTTP."""
    return [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in metadata]


def _read(method: str, data: bytes) -> Message:
    try:
        return request_class(method).FromString(data)
    except DecodeError:
        raise BadRequest(f"the message is no {METHODS[method].input_type.name}") from None


def _refusal(method: str) -> Callable[[bytes, Any], Awaitable[None]]:
    async def refuse(data: bytes, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method}: {_REFUSED[method]}")

    return refuse


async def _abort(context: Any, error: ServeError) -> None:
    await context.abort(_CODES.get(error.status, grpc.StatusCode.INTERNAL), error.message)


def _message(method: str, fields: dict[str, Any]) -> Message:
    return ParseDict(fields, response_class(method)())


async def _server_live(state: State, message: Message, call: Call) -> Message:
    return _message("ServerLive", {"live": True})


async def _server_ready(state: State, message: Message, call: Call) -> Message:
    return _message("ServerReady", {"ready": metadata.is_ready(state)})


async def _model_ready(state: State, message: Message, call: Call) -> Message:
    model = metadata.find(state.models, message.name, message.version)
    return _message("ModelReady", {"ready": model.ready and not state.draining})


async def _server_metadata(state: State, message: Message, call: Call) -> Message:
    return _message("ServerMetadata", metadata.server_metadata())


async def _model_metadata(state: State, message: Message, call: Call) -> Message:
    return _message(
        "ModelMetadata", metadata.model_metadata(metadata.find(state.models, message.name, message.version))
    )


async def _model_config(state: State, message: Message, call: Call) -> Message:
    model = metadata.find(state.models, message.name, message.version)
    return _message("ModelConfig", {"config": metadata.model_config(model, state.options.max_client_batch)})


async def _model_statistics(state: State, message: Message, call: Call) -> Message:
    models = metadata.named(state.models, message.name, message.version)
    return _message("ModelStatistics", {"model_stats": [metadata.model_statistics(model) for model in models]})


async def _repository_index(state: State, message: Message, call: Call) -> Message:
    return _message("RepositoryIndex", {"models": metadata.repository_index(state.models.values(), message.ready)})


async def _model_infer(state: State, message: Message, call: Call) -> Message:
    model = metadata.find(state.models, message.model_name, message.model_version)
    request = read_request(message)
    response = await counted(model, request, call, state.options)
    return write_response(response, request.parameters.binary_output)

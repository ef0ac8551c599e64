"""The Open Inference Protocol over gRPC: Triton's own client, unmodified, and messages that are wrong."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet

from poprt.errors import PoprtError
from poprt.serve.app import create_app
from poprt.serve.kserve.messages import METHODS, request_class, response_class
from poprt.serve.options import ServeOptions
from tests.numerics import one_by_one
from tests.serve.v2_models import SOON, Served, arrays_model, encoder, original, padded, server, text_model
from tests.text_folders import HIDDEN

grpc = pytest.importorskip("grpc", reason="pip install 'poprt[grpc]'")

TEXTS = ["why is my bread dense", "the train was cancelled", "anna", ""]
VECTORS = "sentence_embedding"
KEY = "a-key"
_CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost "
    "-addext subjectAltName=DNS:localhost"
)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    models = {
        "embed": text_model("embed"),
        "packed": arrays_model(packed=True),
        "half": arrays_model(packed=True, precision="fp16"),
    }
    with server(models, ServeOptions(payload_limit=100_000), grpc=True) as running:
        yield running


@pytest.fixture
def triton(served: Served) -> Iterator[Any]:
    module = pytest.importorskip("tritonclient.grpc", reason="pip install 'tritonclient[grpc]'")
    with module.InferenceServerClient(served.grpc) as running:
        yield running


def text_input(texts: list[str]) -> Any:
    from tritonclient.grpc import InferInput

    array = np.array([text.encode() for text in texts], object)
    return InferInput("text", [len(texts)], "BYTES").set_data_from_numpy(array)


def array_inputs(arrays: dict[str, np.ndarray]) -> list[Any]:
    from tritonclient.grpc import InferInput

    return [InferInput(name, list(array.shape), "INT64").set_data_from_numpy(array) for name, array in arrays.items()]


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


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_triton_gets_the_vectors_of_encode(triton: Any, compression: str | None) -> None:
    result = triton.infer("embed", [text_input(TEXTS)], request_id="seven", compression_algorithm=compression)
    array = result.as_numpy(VECTORS)
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, encoder().encode(TEXTS), atol=1e-5)
    assert result.get_response().id == "seven"
    assert result.get_response().model_version == "1"


def test_triton_names_an_output_and_a_version(triton: Any) -> None:
    from tritonclient.grpc import InferRequestedOutput

    result = triton.infer("embed", [text_input(TEXTS)], model_version="1", outputs=[InferRequestedOutput(VECTORS)])
    np.testing.assert_allclose(result.as_numpy(VECTORS), encoder().encode(TEXTS), atol=1e-5)
    with pytest.raises(Exception, match="version '1', not '2'"):
        triton.infer("embed", [text_input(TEXTS)], model_version="2")


def test_padded_rows_are_answered_each_by_itself(triton: Any) -> None:
    lengths = [5, 20, 1]
    arrays = padded(lengths, 24)
    (output,) = triton.get_model_metadata("packed").outputs
    array = triton.infer("packed", array_inputs(arrays)).as_numpy(output.name)
    samples = [{key: value[row, :n] for key, value in arrays.items()} for row, n in enumerate(lengths)]
    for row, length, alone in zip(array, lengths, one_by_one(original(), samples), strict=True):
        np.testing.assert_allclose(row[:length], alone[output.name], atol=1e-5)
        assert not row[length:].any()


def test_the_aio_client_and_many_at_once(served: Served) -> None:
    aio = pytest.importorskip("tritonclient.grpc.aio", reason="pip install 'tritonclient[grpc]'")

    async def call() -> list[Any]:
        async with aio.InferenceServerClient(served.grpc) as running:
            calls = [running.infer("embed", [text_input([text] * 3)]) for text in TEXTS * 5]
            return [result.as_numpy(VECTORS) for result in await asyncio.gather(*calls)]

    for text, array in zip(TEXTS * 5, asyncio.run(call()), strict=True):
        np.testing.assert_allclose(array, encoder().encode([text] * 3), atol=1e-5)


def test_triton_reads_what_the_server_says_of_itself(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("embed", "1")
    with pytest.raises(Exception, match="embed"):
        triton.is_model_ready("other")
    assert triton.get_server_metadata().name == "poprt"
    about = triton.get_model_metadata("embed")
    assert [(item.name, item.datatype, list(item.shape)) for item in about.outputs] == [(VECTORS, "FP32", [-1, HIDDEN])]
    config = triton.get_model_config("embed").config
    assert config.parameters["task"].string_value == "embedding"
    assert config.input[0].name == "text"
    index = triton.get_model_repository_index()
    assert [item.name for item in index.models] == ["embed", "packed", "half"]
    before = triton.get_inference_statistics("embed").model_stats[0]
    triton.infer("embed", [text_input(TEXTS)])
    after = triton.get_inference_statistics("embed").model_stats[0]
    assert after.inference_count - before.inference_count == len(TEXTS)
    assert len(triton.get_inference_statistics().model_stats) == 3


def test_what_other_servers_have_is_refused_in_words(triton: Any) -> None:
    for message, call in {
        "shared memory": lambda: triton.register_system_shared_memory("region", "/key", 8),
        "not loaded later": lambda: triton.load_model("embed"),
        "traces": lambda: triton.get_trace_settings(),
        "logging": lambda: triton.get_log_settings(),
    }.items():
        with pytest.raises(Exception, match=message):
            call()


def test_a_stream_answers_in_order_and_goes_on_after_an_error(triton: Any) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    triton.start_stream(callback=lambda result, error: answers.put(error or result))
    for texts in (["anna"], ["a"] * 33, ["berlin", "paris"]):
        triton.async_stream_infer("embed", [text_input(texts)])
    first, second, third = (answers.get(timeout=SOON) for _ in range(3))
    triton.stop_stream()
    np.testing.assert_allclose(first.as_numpy(VECTORS), encoder().encode(["anna"]), atol=1e-5)
    assert "at most 32" in str(second)
    np.testing.assert_allclose(third.as_numpy(VECTORS), encoder().encode(["berlin", "paris"]), atol=1e-5)


def test_typed_values_are_answered_by_typed_values(served: Served) -> None:
    answer = ask(served.grpc, "ModelInfer", typed(TEXTS))
    (output,) = answer.outputs
    assert not answer.raw_output_contents
    array = np.array(output.contents.fp32_contents, np.float32).reshape(output.shape)
    np.testing.assert_allclose(array, encoder().encode(TEXTS), atol=1e-5)


def test_the_size_that_kserves_client_leaves_in_is_compared(served: Served) -> None:
    message = request_class("ModelInfer")(model_name="embed", raw_input_contents=[b"\x04\0\0\0anna"])
    tensor = message.inputs.add(name="text", datatype="BYTES", shape=[1])
    tensor.parameters["binary_data_size"].int64_param = 8
    assert ask(served.grpc, "ModelInfer", message).raw_output_contents
    tensor.parameters["binary_data_size"].int64_param = 9
    assert "binary_data_size is 9" in error_of(served.grpc, "ModelInfer", message)[1]


def test_half_precision_has_no_typed_form(served: Served) -> None:
    message = request_class("ModelInfer")(model_name="half")
    for name, array in padded([3], 4).items():
        message.inputs.add(name=name, datatype="INT64", shape=array.shape).contents.int64_contents.extend(array.flat)
    (output,) = ask(served.grpc, "ModelMetadata", request_class("ModelMetadata")(name="half")).outputs
    assert output.datatype == "FP16"
    code, details = error_of(served.grpc, "ModelInfer", message)
    assert (code, "FP16" in details) == ("INVALID_ARGUMENT", True)


def wrong(change: str) -> Any:
    message = typed(["a"])
    tensor = message.inputs[0]
    if change == "unknown model":
        message.model_name = "other"
    elif change == "raw and typed":
        message.raw_input_contents.append(b"")
    elif change == "more raw than inputs":
        message.raw_input_contents.extend([b"", b""])
    elif change == "other contents":
        tensor.contents.int_contents.append(1)
    elif change == "no UTF-8":
        tensor.contents.bytes_contents[0] = b"\xff"
    elif change == "negative shape":
        tensor.shape[0] = -1
    elif change == "huge shape":
        tensor.shape[0] = 2**62
    elif change == "count":
        tensor.shape[0] = 2
    elif change == "shared memory":
        tensor.parameters["shared_memory_region"].string_param = "r"
    elif change == "sequence":
        message.parameters["sequence_id"].int64_param = 3
    elif change == "priority":
        message.parameters["priority"].uint64_param = 1
    elif change == "twice":
        message.inputs.append(tensor)
    elif change == "classification":
        message.outputs.add(name=VECTORS).parameters["classification"].int64_param = 2
    return message


WRONG = {
    "unknown model": ("NOT_FOUND", "other"),
    "raw and typed": ("INVALID_ARGUMENT", "'text' has contents"),
    "more raw than inputs": ("INVALID_ARGUMENT", "2 tensors, the request has 1"),
    "other contents": ("INVALID_ARGUMENT", "'text': BYTES is sent in bytes_contents"),
    "no UTF-8": ("INVALID_ARGUMENT", "UTF-8"),
    "negative shape": ("INVALID_ARGUMENT", "'text': shape holds -1"),
    "huge shape": ("INVALID_ARGUMENT", "'text': shape holds"),
    "count": ("INVALID_ARGUMENT", "'text': shape [2]"),
    "shared memory": ("INVALID_ARGUMENT", "shared memory"),
    "sequence": ("INVALID_ARGUMENT", "sequence_id"),
    "priority": ("INVALID_ARGUMENT", "priority"),
    "twice": ("INVALID_ARGUMENT", "'text' stands in the request twice"),
    "classification": ("INVALID_ARGUMENT", "classification"),
}


@pytest.mark.parametrize("change", WRONG)
def test_each_wrong_message_is_told_what_is_wrong(served: Served, change: str) -> None:
    code, details = error_of(served.grpc, "ModelInfer", wrong(change))
    assert (code, WRONG[change][1] in details) == (WRONG[change][0], True), details


def test_bytes_that_are_no_message_are_refused(served: Served) -> None:
    code, details = error_of(served.grpc, "ModelInfer", b"\xff\xff\xff")
    assert (code, "ModelInferRequest" in details) == ("INVALID_ARGUMENT", True)
    assert error_of(served.grpc, "Other", b"")[0] == "UNIMPLEMENTED"


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_message_beyond_the_limit_is_refused_also_where_it_is_compressed(served: Served, compression: str) -> None:
    kind = None if compression is None else grpc.Compression.Gzip
    with grpc.insecure_channel(served.grpc, compression=kind) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as error:
            call(typed(["a" * 10_000_000]).SerializeToString(), timeout=SOON)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_timeout_of_the_request_counts(served: Served) -> None:
    message = typed(TEXTS)
    message.parameters["timeout"].int64_param = 1
    assert error_of(served.grpc, "ModelInfer", message)[0] == "DEADLINE_EXCEEDED"


class Blocked:
    """Stands for the engine of a model: nothing is answered until it is opened."""

    def __init__(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.gate = threading.Event(), threading.Event()
        worker = served.state.models["embed"].runner._worker  # type: ignore[attr-defined]
        run = worker.run

        def wait(batch: Any) -> Any:
            self.entered.set()
            assert self.gate.wait(SOON)
            return run(batch)

        monkeypatch.setattr(worker, "run", wait)


def test_what_is_queued_is_dropped_when_the_client_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    with server({"embed": text_model("embed")}, ServeOptions(lanes=1), grpc=True) as running:
        engine = Blocked(running, monkeypatch)
        runner = running.state.models["embed"].runner
        with grpc.insecure_channel(running.grpc) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            first = call.future(typed(["anna"]).SerializeToString(), timeout=SOON)
            assert engine.entered.wait(SOON)
            second = call.future(typed(["berlin"] * 3).SerializeToString(), timeout=SOON)
            _until(lambda: runner.pending().requests == 3)
            second.cancel()
            _until(lambda: runner.pending().requests == 0)
            engine.gate.set()
            assert first.result(SOON)


def test_the_deadline_of_a_call_frees_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    with server({"embed": text_model("embed")}, ServeOptions(lanes=1), grpc=True) as running:
        engine = Blocked(running, monkeypatch)
        runner = running.state.models["embed"].runner
        with grpc.insecure_channel(running.grpc) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            first = call.future(typed(["anna"]).SerializeToString(), timeout=SOON)
            assert engine.entered.wait(SOON)
            with pytest.raises(grpc.RpcError) as error:
                call(typed(["berlin"]).SerializeToString(), timeout=0.2)
            assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            _until(lambda: runner.pending().requests == 0)
            engine.gate.set()
            assert first.result(SOON)


def _until(condition: Any) -> None:
    """Wait until a condition holds."""
    pause = threading.Event()
    for _ in range(SOON * 100):
        if condition():
            return
        pause.wait(0.01)
    pytest.fail("the condition never held")


def _refuses(address: str) -> bool:
    """Whether a server takes no more calls."""
    with contextlib.suppress(grpc.RpcError):
        return not ask(address, "ServerLive", b"")
    return True


def test_a_full_queue_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ServeOptions(lanes=1, max_queue_requests=4)
    with server({"embed": text_model("embed")}, options, grpc=True) as running:
        engine = Blocked(running, monkeypatch)
        with grpc.insecure_channel(running.grpc) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            first = call.future(typed(["anna"]).SerializeToString(), timeout=SOON)
            assert engine.entered.wait(SOON)
            second = call.future(typed(["berlin"] * 4).SerializeToString(), timeout=SOON)
            runner = running.state.models["embed"].runner
            _until(lambda: runner.pending().requests == 4)
            code, _ = error_of(running.grpc, "ModelInfer", typed(["paris"]))
            assert code == "RESOURCE_EXHAUSTED"
            engine.gate.set()
            assert first.result(SOON)
            assert second.result(SOON)


def test_a_key_is_asked_for_but_for_health() -> None:
    with server({"embed": text_model("embed")}, ServeOptions(api_key=KEY), grpc=True) as running:
        for metadata in ((), (("authorization", "Bearer another"),)):
            code, details = error_of(running.grpc, "ModelInfer", typed(["anna"]), metadata=metadata)
            assert (code, KEY in details) == ("UNAUTHENTICATED", False)
        assert ask(running.grpc, "ServerLive", b"").live
        assert ask(running.grpc, "ServerReady", b"").ready
        for metadata in ((("authorization", f"Bearer {KEY}"),), (("x-api-key", KEY),)):
            assert ask(running.grpc, "ModelInfer", typed(["anna"]), metadata=metadata).outputs


def test_a_port_in_use_is_one_line() -> None:
    from poprt.serve.kserve.grpc_server import start

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        app = create_app({"embed": text_model("embed")}, ServeOptions(grpc_port=port))
        with pytest.raises(PoprtError, match=f"grpc_port: {port} on 127.0.0.1"):
            asyncio.run(start(app.state.poprt))
    app.state.poprt.models.close(cancel=True)


def test_tls_has_the_options_of_http(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes a certificate, is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [*_CERTIFICATE.split(), "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    options = ServeOptions(ssl_keyfile=str(key), ssl_certfile=str(certificate))
    with server({"embed": text_model("embed")}, options, grpc=True) as running:
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        with grpc.secure_channel(running.grpc.replace("127.0.0.1", "localhost"), credentials) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert response_class("ServerLive").FromString(call(b"", timeout=SOON)).live
        with grpc.insecure_channel(running.grpc) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=SOON)


def test_a_server_that_stops_answers_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with server({"embed": text_model("embed")}, ServeOptions(lanes=1), grpc=True) as running:
        engine = Blocked(running, monkeypatch)
        with grpc.insecure_channel(running.grpc) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            first = call.future(typed(["anna"]).SerializeToString(), timeout=SOON)
            assert engine.entered.wait(SOON)
            running.stop()
            _until(lambda: _refuses(running.grpc))
            engine.gate.set()
            assert first.result(SOON)


def test_messages_have_the_names_and_numbers_of_tritons_client() -> None:
    pb2 = pytest.importorskip("tritonclient.grpc.service_pb2", reason="pip install 'tritonclient[grpc]'")
    config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    messages = {**pb2.DESCRIPTOR.message_types_by_name, **config.DESCRIPTOR.message_types_by_name}
    service = pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for name, method in METHODS.items():
        theirs = service.methods_by_name[name]
        assert (method.input_type.name, method.output_type.name) == (theirs.input_type.name, theirs.output_type.name)
        for ours in (method.input_type, method.output_type):
            assert_same_fields(ours, messages[ours.name])


def numbers_of(descriptor: Any) -> dict[str, tuple[int, int, int]]:
    """Number, type and label of each field."""
    proto = DescriptorProto()
    descriptor.CopyToProto(proto)
    return {field.name: (field.number, field.type, field.label) for field in proto.field}


def assert_same_fields(ours: Any, theirs: Any) -> None:
    assert numbers_of(ours).items() <= numbers_of(theirs).items()
    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        if field.message_type is not None:
            assert_same_fields(field.message_type, other.message_type)
        if field.enum_type is not None:
            values = {value.name: value.number for value in other.enum_type.values}
            assert {value.name: value.number for value in field.enum_type.values}.items() <= values.items()


def test_the_descriptors_are_those_of_the_definition(tmp_path: Path) -> None:
    """The remedy is the command in ``open_inference.proto``."""
    protoc = pytest.importorskip("grpc_tools.protoc", reason="pip install grpcio-tools")
    folder, compiled = Path(str(files("poprt.serve.kserve"))), tmp_path / "set"
    assert not protoc.main(["", f"-I{folder}", f"--descriptor_set_out={compiled}", "open_inference.proto"])
    shipped = (folder / "open_inference.binpb").read_bytes()
    assert FileDescriptorSet.FromString(compiled.read_bytes()) == FileDescriptorSet.FromString(shipped)

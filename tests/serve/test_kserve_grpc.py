"""The Open Inference Protocol over gRPC: Triton's own client, unmodified, and messages that are wrong."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from poprt.serve.kserve.messages import request_class
from poprt.serve.options import ServeOptions
from tests.numerics import one_by_one
from tests.serve.grpc_calls import ask, error_of, grpc, typed
from tests.serve.v2_models import SOON, Served, arrays_model, encoder, original, padded, server, text_model
from tests.text_folders import HIDDEN

TEXTS = ["why is my bread dense", "the train was cancelled", "anna", ""]
VECTORS = "sentence_embedding"


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

"""Bodies and messages of the Open Inference Protocol: what goes through, and what each wrong one is told."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from poprt.serve.errors import BadRequest, Internal, ServeError
from poprt.serve.kserve.codec import read_request, write_response
from poprt.serve.kserve.datatypes import DATATYPES
from poprt.serve.kserve.requests import InferRequest, InferResponse

NUMBERS = [kind for kind in DATATYPES.values() if kind.name != "BYTES"]


def body(*inputs: dict[str, Any], binary: bytes = b"", **fields: Any) -> tuple[bytes, str | None]:
    """A body and the value of the header; ``binary`` lies behind the JSON text."""
    head = orjson.dumps({"inputs": list(inputs), **fields})
    return head + binary, str(len(head)) if binary else None


def tensor(data: Any = (1, 2), shape: Any = (2,), datatype: Any = "INT64", **fields: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": list(shape), "data": list(data), **fields}


def binary_tensor(size: int, shape: Any, datatype: str, name: str = "x") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape), "parameters": {"binary_data_size": size}}


def answer(array: np.ndarray, *, binary: bool) -> tuple[dict[str, Any], bytes]:
    """What is written of one output: its entry in the JSON text, and the bytes behind."""
    request = InferRequest({}, outputs={"y": binary})
    written = write_response(InferResponse("m", "1", "", {"y": array}), request)
    head = written.data[: written.json_length]
    (entry,) = orjson.loads(head)["outputs"]
    return entry, written.data[len(head) :]


arrays = st.sampled_from(NUMBERS).flatmap(
    lambda kind: numpy_strategies.arrays(
        kind.dtype,
        numpy_strategies.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        elements=numpy_strategies.from_dtype(kind.dtype, allow_nan=False, allow_infinity=False),
    )
)
texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=5)


@given(arrays)
def test_an_array_comes_back_from_binary_form(array: np.ndarray) -> None:
    entry, data = answer(array, binary=True)
    sent = binary_tensor(entry["parameters"]["binary_data_size"], entry["shape"], entry["datatype"])
    head = orjson.dumps({"inputs": [sent]})
    (back,) = read_request(head + data, str(len(head))).inputs.values()
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@given(arrays.filter(lambda array: array.dtype != np.float16))
def test_an_array_comes_back_from_json_flat_and_nested(array: np.ndarray) -> None:
    entry, _ = answer(array, binary=False)
    nested = array.tolist() if array.ndim else [array.item()]
    for data in (entry["data"], nested):
        sent = {"name": "x", "datatype": entry["datatype"], "shape": entry["shape"], "data": data}
        (back,) = read_request(*body(sent)).inputs.values()
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)


@given(texts)
def test_texts_come_back_from_json_and_from_binary_form(values: list[str]) -> None:
    array = np.empty(len(values), object)
    array[:] = values
    entry, _ = answer(array, binary=False)
    (back,) = read_request(*body({"name": "x", **{k: entry[k] for k in ("datatype", "shape", "data")}})).inputs.values()
    assert back.tolist() == values
    data = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in values)
    assert answer(array, binary=True)[1] == data
    head = orjson.dumps({"inputs": [binary_tensor(len(data), [len(values)], "BYTES")]})
    (back,) = read_request(head + data, str(len(head))).inputs.values()
    assert back.tolist() == values


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
likely = {
    "name": st.sampled_from(["x", "", "y"]) | json_values,
    "datatype": st.sampled_from(list(DATATYPES)) | json_values,
    "shape": st.lists(st.integers(-1, 3) | st.sampled_from([2**31, 2**62, 2**70]), max_size=3) | json_values,
    "data": st.lists(json_values, max_size=4) | json_values,
    "parameters": st.dictionaries(
        st.sampled_from(["binary_data_size", "shared_memory_region", "binary_data"]), json_values, max_size=2
    ),
}
entries = st.fixed_dictionaries({}, optional=likely)
requests = st.fixed_dictionaries(
    {},
    optional={
        "id": json_values,
        "inputs": st.lists(entries, max_size=3) | json_values,
        "outputs": st.lists(entries, max_size=2) | json_values,
        "parameters": st.dictionaries(
            st.sampled_from(["timeout", "truncate", "priority", "x"]), json_values, max_size=2
        ),
    },
)


def _is_answered(data: bytes, header: str | None) -> None:
    with contextlib.suppress(BadRequest):
        read_request(data, header)


@settings(max_examples=150)
@given(requests, st.binary(max_size=12), st.none() | st.integers(-2, 400).map(str) | st.text(max_size=3))
def test_garbage_is_a_bad_request_and_nothing_else(fields: Any, binary: bytes, header: str | None) -> None:
    _is_answered(json.dumps(fields).encode() + binary, header)  # the standard library writes NaN and halves of pairs
    _is_answered(json.dumps(fields).encode() + binary, str(len(json.dumps(fields))))


@given(st.binary(max_size=40), st.none() | st.text(max_size=4))
def test_bytes_of_any_kind_are_a_bad_request(data: bytes, header: str | None) -> None:
    with pytest.raises(BadRequest):
        read_request(b"\x00" + data, header)


WRONG = {
    "no JSON": ((b"{", None), "no JSON"),
    "NaN": ((b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[NaN]}]}', None), "no JSON"),
    "beyond a double": ((b'{"inputs":[{"name":"x","datatype":"FP64","shape":[1],"data":[1e999]}]}', None), "no JSON"),
    "half a pair": ((b'{"inputs":[{"name":"\\ud800"}]}', None), "no JSON"),
    "depth": ((b'{"inputs":' + b"[" * 10_000 + b"]" * 10_000 + b"}", None), "depth"),
    "a list": ((b"[]", None), "the request is list"),
    "no inputs": ((b"{}", None), "inputs"),
    "no name": (body({"datatype": "INT64", "shape": [1], "data": [1]}), "name of an input"),
    "no datatype": (body({"name": "x", "shape": [1], "data": [1]}), "'x'.*datatype None"),
    "BF16": (body(tensor(datatype="BF16")), "'x'.*BF16"),
    "no shape": (body({"name": "x", "datatype": "INT64", "data": [1]}), "'x'.*shape None"),
    "negative shape": (body(tensor(shape=[-1])), "'x'.*-1"),
    "huge shape": (body(tensor(shape=[2**62])), "'x'.*shape holds"),
    "huge product": (body(tensor(shape=[2**30] * 4)), "'x'.*holds .* values"),
    "huge and empty": (body(tensor([], shape=[0] + [2**31 - 1] * 8)), "'x'.*too large"),
    "a bool in the shape": (body(tensor(shape=[True, 2])), "'x'.*True"),
    "100 axes": (body(tensor(shape=[1] * 100)), "'x'.*100 axes"),
    "too few": (body(tensor(shape=[3])), r"'x'.*\[3\] holds 3 values, the data has 2"),
    "no data": (body({"name": "x", "datatype": "INT64", "shape": [1]}), "'x' has neither data"),
    "data is a number": (body({"name": "x", "datatype": "INT64", "shape": [], "data": 1}), "'x'.*int"),
    "ragged": (body(tensor([[1, 2], [3]], shape=[2, 2])), "'x'.*list of 1 at depth 1"),
    "mixed depth": (body(tensor([[1, 2], 3], shape=[2, 2])), "'x'.*mixes"),
    "deeper than the shape": (body(tensor([[1], [2]])), "'x'.*(int|list)"),
    "text for a number": (body(tensor(["1", "2"])), "'x'.*str"),
    "bool for a number": (body(tensor([True, 1])), "'x'.*bool"),
    "fraction for a whole number": (body(tensor([1.5, 1])), "'x'.*float"),
    "number for a bool": (body(tensor([1, 0], datatype="BOOL")), "'x'.*int"),
    "null": (body(tensor([None, 1])), "'x'.*NoneType"),
    "beyond INT8": (body(tensor([1, 128], datatype="INT8")), "'x'.*-128 to 127"),
    "below UINT8": (body(tensor([1, -1], datatype="UINT8")), "'x'.*0 to 255"),
    "beyond FP32": (body(tensor([1, 1e300], datatype="FP32")), "'x'.*FP32"),
    "FP16 in JSON": (body(tensor([1, 2], datatype="FP16")), "'x'.*FP16.*binary"),
    "twice": (body(tensor(), tensor()), "'x' stands in the request twice"),
    "binary without a header": (body(binary_tensor(8, [1], "INT64")), "'x'.*Inference-Header-Content-Length"),
    "binary beyond the body": (body(binary_tensor(16, [2], "INT64"), binary=bytes(8)), "'x'.*16, 8 bytes"),
    "binary and data": (body(tensor(parameters={"binary_data_size": 16}), binary=bytes(16)), "'x' has both"),
    "bytes that are over": (body(binary_tensor(8, [1], "INT64"), binary=bytes(9)), "1 bytes of the body belong to no"),
    "wrong size": (body(binary_tensor(4, [1], "INT64"), binary=bytes(4)), "'x'.*8 bytes of INT64, the data has 4"),
    "negative size": (body(binary_tensor(-8, [1], "INT64"), binary=bytes(8)), "'x'.*-8"),
    "no bool": (body(binary_tensor(1, [1], "BOOL"), binary=b"\x02"), "'x'.*neither 0 nor 1"),
    "text beyond the tensor": (body(binary_tensor(5, [1], "BYTES"), binary=b"\x02\0\0\0a"), "'x'.*element 0"),
    "length cut short": (body(binary_tensor(3, [1], "BYTES"), binary=b"\x02\0\0"), "'x'.*cut short"),
    "no UTF-8": (body(binary_tensor(5, [1], "BYTES"), binary=b"\x01\0\0\0\xff"), "'x'.*UTF-8"),
    "more texts": (body(binary_tensor(8, [1], "BYTES"), binary=bytes(8)), "'x'.*2 elements"),
    "shared memory": (
        body({"name": "x", "datatype": "INT64", "shape": [1], "parameters": {"shared_memory_region": "r"}}),
        "shared_memory_region.*'x'.*not offered",
    ),
    "sequence": (body(tensor(), parameters={"sequence_id": 7}), "sequence_id.*keep nothing"),
    "priority": (body(tensor(), parameters={"priority": 1}), "priority.*take turns"),
    "unknown parameter": (body(tensor(), parameters={"tiemout": 1}), "'tiemout'.*timeout"),
    "timeout": (body(tensor(), parameters={"timeout": "1"}), "'timeout'.*microseconds"),
    "classification": (body(tensor(), outputs=[{"name": "y", "parameters": {"classification": 3}}]), "classification"),
    "output without a name": (body(tensor(), outputs=[{}]), "name of an output"),
    "output twice": (body(tensor(), outputs=[{"name": "y"}, {"name": "y"}]), "output 'y'.*twice"),
    "id": (body(tensor(), id=7), "id: expected a string"),
    "header beyond the body": ((b"{}", "3"), "Inference-Header-Content-Length is '3', the body has 2 bytes"),
    "header that is no number": ((b"{}", "x"), "Inference-Header-Content-Length is 'x'"),
    "negative header": ((b"{}", "-1"), "Inference-Header-Content-Length is '-1'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_body_is_told_what_is_wrong(name: str) -> None:
    (data, header), message = WRONG[name]
    with pytest.raises(BadRequest, match=message):
        read_request(data, header)


def test_a_long_name_does_not_come_back_whole() -> None:
    with pytest.raises(BadRequest) as error:
        read_request(*body(tensor(name="n" * 100_000)))
    assert len(error.value.message) < 200


def test_parameters_without_effect_pass() -> None:
    quiet = {"sequence_id": 0, "priority": 0, "sequence_start": False, "content_type": "np", "timeout": 0}
    assert read_request(*body(tensor(), parameters=quiet)).parameters.timeout is None


def test_an_empty_tensor_in_binary_form_needs_no_header() -> None:
    """KServe's client sends ``null`` beside it, and no header where no tensor has bytes."""
    (array,) = read_request(*body({**binary_tensor(0, [0], "BYTES"), "data": None})).inputs.values()
    assert array.shape == (0,)


def test_a_timeout_is_in_microseconds() -> None:
    assert read_request(*body(tensor(), parameters={"timeout": 1500})).parameters.timeout == 0.0015


def test_outputs_are_binary_where_they_say_so_or_the_request_does() -> None:
    outputs = [{"name": "a"}, {"name": "b", "parameters": {"binary_data": False}}]
    request = read_request(*body(tensor(), outputs=outputs, parameters={"binary_data_output": True}))
    assert (request.binary("a"), request.binary("b")) == (True, False)
    request = read_request(*body(tensor(), parameters={"binary_data_output": True}))
    assert request.binary("any")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_has_no_form_of_nan_and_says_so(value: float) -> None:
    with pytest.raises(Internal, match="'y' holds NaN or infinity"):
        answer(np.array([value], np.float32), binary=False)


def test_half_precision_is_sent_in_binary_form_alone() -> None:
    array = np.array([0.5], np.float16)
    with pytest.raises(BadRequest, match="'y': FP16"):
        answer(array, binary=False)
    entry, data = answer(array, binary=True)
    assert (entry["datatype"], data) == ("FP16", array.tobytes())


def test_arrays_that_are_no_block_of_memory_are_written_in_their_order() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert answer(array, binary=False)[0]["data"] == array.ravel().tolist()
    assert answer(array, binary=True)[1] == np.ascontiguousarray(array).tobytes()


def test_a_bad_request_is_an_error_of_the_server() -> None:
    assert issubclass(BadRequest, ServeError)

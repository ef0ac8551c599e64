"""The engine session: what it takes, what it refuses, and running from many threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx import TensorProto, helper

from poprt.compiler import Compiler, CompilerOptions
from poprt.engine.cpu import usable_cores
from poprt.engine.session import EngineSession
from poprt.errors import ExecutableError, InputError, UnsupportedOperatorError
from poprt.executable import Executable, Manifest, TensorSpec
from tests.poprt.test_compiler import linear, make_model, value

KINDS = {"i": TensorProto.INT32, "f": TensorProto.FLOAT, "m": TensorProto.BOOL, "u": TensorProto.UINT8}


@pytest.fixture(scope="module")
def identity() -> EngineSession:
    """Gives each input back: i int32, f float32, m bool, u uint8; all of shape [2, n]."""
    model = make_model(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in KINDS],
        [value(name, kind, [2, "n"]) for name, kind in KINDS.items()],
        [value(f"{name}_out", kind, [2, "n"]) for name, kind in KINDS.items()],
    )
    return EngineSession(Compiler.compile(model))


def feeds(**changes: np.ndarray) -> dict[str, np.ndarray]:
    dtypes = {"i": np.int32, "f": np.float32, "m": np.bool_, "u": np.uint8}
    return {**{name: np.ones((2, 3), dtype) for name, dtype in dtypes.items()}, **changes}


@pytest.mark.parametrize(
    ("name", "feed", "dtype"),
    [
        ("i", np.array([[1, -2], [3, 4]], np.int64), np.int32),
        ("i", np.array([[True, False], [True, True]]), np.int32),
        ("f", np.array([[1, 2], [3, 4]], np.int32), np.float32),
        ("f", np.array([[0.5, 2], [3, 4]], np.float64), np.float32),
        ("f", np.array([[0.5, 2], [3, 4]], np.float16), np.float32),
        ("m", np.array([[1, 0], [0, 1]], np.int64), np.bool_),
        ("u", np.array([[255, 0], [0, 1]], np.int64), np.uint8),
        ("i", np.arange(8, dtype=np.int32).reshape(4, 2).T, np.int32),
    ],
)
def test_a_feed_of_another_safe_type_is_converted(
    identity: EngineSession, name: str, feed: np.ndarray, dtype: type
) -> None:
    others = {other: np.ones(feed.shape, array.dtype) for other, array in feeds().items()}
    (result,) = identity.run({**others, name: feed}, [f"{name}_out"])
    np.testing.assert_array_equal(result, feed.astype(dtype), strict=True)


@pytest.mark.parametrize(
    ("name", "feed", "message"),
    [
        ("i", np.ones((2, 3), np.float32), "input 'i' has type float32, expected int32"),
        ("i", np.full((2, 3), 1 << 40), "input 'i' has values from 1099511627776"),
        ("m", np.full((2, 3), 2), "input 'm' has values from 2 to 2, which bool cannot hold"),
        ("u", np.full((2, 3), -1), "input 'u' has values from -1"),
        ("f", np.ones((3, 3), np.float32), r"input 'f' has shape \[3, 3\], expected \[2, 'any'\]"),
        ("f", np.ones(3, np.float32), r"input 'f' has shape \[3\]"),
        ("f", np.array([["a"]]), "input 'f' has type"),
    ],
)
def test_a_feed_that_does_not_fit_is_an_error_that_names_it(
    identity: EngineSession, name: str, feed: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        identity.run(feeds(**{name: feed}))


def test_missing_and_unknown_inputs_are_named_beside_the_expected_ones(identity: EngineSession) -> None:
    inputs = feeds(unpack_info=np.zeros((2, 1), np.int32))
    del inputs["m"]
    with pytest.raises(InputError, match=r"missing input 'm', unknown input 'unpack_info'; expected i, f, m, u"):
        identity.run(inputs)


def test_an_unknown_output_is_named_beside_the_known_ones(identity: EngineSession) -> None:
    with pytest.raises(InputError, match=r"unknown output 'z'; expected i_out, f_out"):
        identity.run(feeds(), ["z"])


def test_values_that_the_engine_refuses_are_an_input_error() -> None:
    model = make_model(
        [helper.make_node("Gather", ["table", "ids"], ["y"], name="embed")],
        [value("ids", TensorProto.INT32, ["n"])],
        [value("y", TensorProto.FLOAT, ["n", 8])],
        {"table": np.ones((40, 8), np.float32)},
    )
    with pytest.raises(InputError, match="embed"):
        EngineSession(Compiler.compile(model)).run({"ids": np.array([40])})


def test_results_do_not_mix_between_threads() -> None:
    session = EngineSession(Compiler.compile(linear()), threads=1)
    inputs = [np.full((1 + index % 5, 32), index, np.float32) for index in range(64)]
    alone = [session.run({"x": x}) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda x: session.run({"x": x}), inputs))
    for expected, got in zip(alone, together, strict=True):
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_array_equal(a, b)


def test_constants_are_not_replaceable_and_shapes_have_to_match() -> None:
    with pytest.raises(InputError, match=r"'w' is not a replaceable weight.*constant_weights=False"):
        EngineSession(Compiler.compile(linear())).update_weights({"w": np.zeros((32, 32), np.float32)})
    session = EngineSession(Compiler.compile(linear(), None, CompilerOptions(constant_weights=False)))
    with pytest.raises(InputError, match=r"weight 'b' has shape \[3\], expected \[32\]"):
        session.update_weights({"w": np.zeros((32, 32), np.float32), "b": np.zeros(3, np.float32)})
    assert session.variable_weights["w"].any()


def test_an_executable_with_an_operator_that_the_engine_lacks_is_told_apart() -> None:
    spec = TensorSpec("x", (2,), "float32", "float32")
    node = helper.make_node("Novelty", ["x"], ["y"], name="later", domain="com.future")
    model = make_model([node], [value("x", TensorProto.FLOAT, [2])], [value("y", TensorProto.FLOAT, [2])])
    model.opset_import.append(helper.make_opsetid("com.future", 1))
    manifest = Manifest((spec,), (TensorSpec("y", (2,), "float32", "float32"),), ())
    for graph, error in [(model.SerializeToString(), UnsupportedOperatorError), (b"\xff\xff", ExecutableError)]:
        with pytest.raises(error) as caught:
            EngineSession(Executable.build(manifest, graph))
        assert type(caught.value) is error


def test_the_usable_cores_are_counted() -> None:
    assert usable_cores() >= 1


def test_a_run_sees_all_weights_of_one_update_or_none() -> None:
    session = EngineSession(Compiler.compile(linear(), ["y"], CompilerOptions(constant_weights=False)), threads=1)

    def filled(number: int) -> dict[str, np.ndarray]:
        return {"w": np.full((32, 32), number, np.float32), "b": np.full(32, number, np.float32)}

    def results(_: int) -> set[float]:
        return {float(y) for _ in range(300) for y in session.run({"x": np.ones((1, 32), np.float32)})[0].ravel()}

    session.update_weights(filled(1))
    with ThreadPoolExecutor(2) as pool:
        seen = [pool.submit(results, index) for index in range(2)]
        for index in range(300):
            session.update_weights(filled(1 + index % 2))
    assert set.union(*(future.result() for future in seen)) <= {33.0, 66.0}

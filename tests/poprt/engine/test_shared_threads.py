"""A run alone has all threads of the engine; runs side by side share them, one in its caller's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as engine

from poprt.engine.shared_threads import SharedThreads

SOON = 20
Finish = Callable[[list[Any], object, str], None]


class Places:
    """Notes where runs go: "caller" or "pool"; they last until ``gate`` is set.

    Args:
        threads: of the pool that take up runs; what comes later waits until ``late`` is set.
    """

    def __init__(self, threads: int = 9) -> None:
        self.where: list[str] = []
        self.gate, self.late = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self._free = threads
        self._here = threading.local()

    def run(self, names: list[str], feeds: Mapping[str, Any]) -> list[str]:
        place = getattr(self._here, "name", "caller")
        self.where.append(place)
        assert self.gate.wait(SOON)
        if self.error is not None:
            raise self.error
        return [f"from the {place}"]

    def run_async(self, names: list[str], feeds: Mapping[str, Any], finish: Finish, _: object) -> None:
        assert names == [""]
        self._free -= 1
        free = self._free >= 0

        def later() -> None:
            self._here.name = "pool"
            assert free or self.late.wait(SOON)
            finish([], None, "an output without a name")

        threading.Thread(target=later).start()


def started(places: Places, shared: SharedThreads, pool: ThreadPoolExecutor, count: int) -> list[Any]:
    """Begin runs one after the other, all of which last."""
    runs = []
    for number in range(count):
        runs.append(pool.submit(shared.run, ["y"], {}))
        while len(places.where) <= number:
            runs[-1].done() and runs[-1].result()
    return runs


@pytest.mark.parametrize(
    ("threads", "expected"),
    [
        (1, ["caller", "caller", "caller"]),
        (2, ["caller", "pool", "caller"]),
        (3, ["caller", "pool", "pool"]),
    ],
)
def test_there_are_no_more_busy_threads_than_the_engine_has(threads: int, expected: list[str]) -> None:
    places = Places()
    shared = SharedThreads(places, threads)
    with ThreadPoolExecutor(3) as pool:
        runs = started(places, shared, pool, 3)
        places.gate.set()
        assert [run.result(SOON) for run in runs] == [[f"from the {place}"] for place in expected]
        assert places.where == expected
        assert shared.run(["y"], {}) == ["from the caller"]


def test_what_fails_in_the_pool_raises_its_own_error_and_is_run_once() -> None:
    places = Places()
    shared = SharedThreads(places, 2)
    with ThreadPoolExecutor(2) as pool:
        runs = started(places, shared, pool, 2)
        places.error = ValueError("it failed")
        places.gate.set()
        assert [run.exception(SOON) for run in runs] == [places.error] * 2
    assert places.where == ["caller", "pool"]
    places.error = None
    assert shared.run(["y"], {}) == ["from the caller"]


def test_a_run_that_no_thread_of_the_pool_takes_up_is_made_by_its_caller_and_once() -> None:
    places = Places(threads=1)
    shared = SharedThreads(places, 4)
    with ThreadPoolExecutor(3) as pool:
        runs = started(places, shared, pool, 3)
        assert places.where == ["caller", "pool", "caller"]
        places.late.set()
        places.gate.set()
        assert [run.result(SOON) for run in runs] == [["from the caller"], ["from the pool"], ["from the caller"]]
    assert len(places.where) == 3


@pytest.fixture(scope="module")
def session() -> ort.InferenceSession:
    """y = x @ w four times over, with three threads."""
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32) / 8
    nodes = [helper.make_node("MatMul", [f"x{i}" if i else "x", "w"], [f"x{i + 1}"]) for i in range(4)]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("x4", TensorProto.FLOAT, ["n", 64])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 3
    return ort.InferenceSession(model.SerializeToString(), options)


def test_runs_side_by_side_answer_as_they_do_alone(session: ort.InferenceSession) -> None:
    rng = np.random.default_rng(1)
    inputs = [rng.normal(size=(n, 64)).astype(np.float32) for n in rng.integers(1, 300, 200)]
    alone = [session.run(["x4"], {"x": x})[0] for x in inputs]
    shared = SharedThreads(session, 3)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda x: shared.run(["x4"], {"x": x})[0], inputs))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_errors_side_by_side_are_those_of_a_run_alone(session: ort.InferenceSession) -> None:
    shared = SharedThreads(session, 3)
    wrong, right = np.zeros((3, 63), np.float32), np.zeros((3, 64), np.float32)

    def kind_of(x: np.ndarray) -> type[BaseException] | None:
        try:
            shared.run(["x4"], {"x": x})
        except Exception as error:
            return type(error)
        return None

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(kind_of, [wrong] * 40)) == {engine.InvalidArgument}
        assert set(pool.map(kind_of, [right] * 40)) == {None}

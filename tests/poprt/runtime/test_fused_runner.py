"""The model runner on an executable of several models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from poprt.compiler import Compiler
from poprt.converter import MFConverter
from poprt.errors import InputError, PoprtError
from poprt.executable import Executable
from poprt.runtime import ModelRunner, PackRunner, PackRunnerConfig, Runner, RuntimeConfig
from poprt.runtime.served_model import ServedModel
from tests.poprt.fused_models import adds, packed_bert, subtracts, triples
from tests.poprt.runtime.fake_engine import FakeEngine, executable

TWO = np.array([[1, 2]], np.float32)
FOUR = np.arange(8, dtype=np.float32).reshape(4, 2)


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fused") / "fused.popef"
    Compiler.compile_and_export(MFConverter().convert([adds(), triples(), subtracts()]), None, path)
    return path


def test_a_request_is_one_to_the_model_whose_names_it_has(fused: Path) -> None:
    """The program of PopRT's guide: no index beside the inputs, and one runner for all models."""
    runner = Runner(str(fused), RuntimeConfig(validate_io_params=False))
    total, triple, less = np.zeros(2, np.float32), np.zeros((4, 2), np.float32), np.zeros(1, np.int8)
    runner.execute({"graph0/X": TWO, "graph0/Y": TWO}, {"graph0/O": total})
    future = runner.execute_async({"graph1/X": FOUR}, {"graph1/O": triple})
    runner.execute({"W": np.array([9], np.int8)}, {"S": less})
    future.wait()
    np.testing.assert_array_equal(total, [2, 4])
    np.testing.assert_array_equal(triple, 3 * FOUR)
    assert less == [6]
    assert [desc.name for desc in runner.get_execute_inputs()] == ["graph0/X", "graph0/Y", "graph1/X", "graph2/W"]
    runner.close()


@pytest.mark.parametrize("index", [np.array([1], np.uint32), 1, np.int64(1)], ids=["array", "int", "scalar"])
def test_plain_names_mean_the_model_of_the_index(fused: Path, index: object) -> None:
    with ModelRunner(fused) as runner:
        triple = np.zeros((4, 2), np.float32)
        runner.execute({"index": index, "X": FOUR}, {"O": triple})
        np.testing.assert_array_equal(triple, 3 * FOUR)


def test_a_name_that_one_model_has_finds_the_others(fused: Path) -> None:
    with ModelRunner(fused) as runner:
        total, negative = np.zeros(2, np.float32), np.zeros((4, 2), np.float32)
        runner.execute({"X": TWO, "Y": TWO}, {"O": total})
        runner.execute({"X": FOUR}, {"P": negative})
        np.testing.assert_array_equal(total, [2, 4])
        np.testing.assert_array_equal(negative, -FOUR)


@pytest.mark.parametrize(
    ("inputs", "outputs", "text"),
    [
        ({"X": TWO}, {"O": TWO}, "'X' is in models 0 and 1: say 'graph0/X' or 'graph1/X'"),
        ({"graph0/X": TWO}, {"graph1/O": TWO}, r"no model .* 'graph0/X' is in model 0; 'graph1/O' is in model 1"),
        ({"graph3/X": TWO}, {}, "unknown tensor 'graph3/X'"),
        ({"graph0/W": TWO}, {}, "unknown tensor 'graph0/W'"),
        ({}, {}, "which model is meant is not said"),
        ({"index": [3], "W": TWO}, {}, "index 3: the executable has models 0 to 2"),
        ({"index": [-1], "W": TWO}, {}, "index -1"),
        ({"index": [0, 1], "W": TWO}, {}, "index: expected one whole number"),
        ({"index": [0.5], "W": TWO}, {}, "index: expected one whole number"),
        ({"index": [0], "W": TWO}, {}, "'W' is in model 2"),
        ({"graph0/X": TWO}, {"graph0/O": TWO[0]}, "missing input 'Y'"),
    ],
)
def test_requests_that_mean_no_one_model_are_named(fused: Path, inputs: dict, outputs: dict, text: str) -> None:
    with ModelRunner(fused) as runner, pytest.raises(InputError, match=text):
        runner.execute(inputs, outputs)


def test_requests_of_one_model_share_a_batch_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    run = ServedModel.run

    def noting(self: ServedModel, batch: list) -> float:
        batches.append([request.size for request in batch])
        return run(self, batch)

    monkeypatch.setattr(ServedModel, "run", noting)
    twins = Executable.fused([Compiler.compile(triples()), Compiler.compile(triples())])
    config = RuntimeConfig(batching_dim=0, send_when_idle=False, timeout_ns=10**9)
    with Runner(twins, config) as runner:
        answers = [np.zeros((rows, 2), np.float32) for rows in (3, 5, 2, 6)]
        samples = [
            ({f"graph{number % 2}/X": np.full(answer.shape, number, np.float32)}, {f"graph{number % 2}/O": answer})
            for number, answer in enumerate(answers)
        ]
        for future in runner.submit(samples):
            future.wait()
    assert sorted(batches) == [[3, 2], [5, 6]]
    assert [float(answer.max()) for answer in answers] == [0, 3, 6, 9]


def test_a_model_that_is_packed_is_packed_by_itself() -> None:
    two = Compiler.compile(MFConverter().convert([adds(), packed_bert()]))
    with pytest.raises(PoprtError, match=r"PackRunner serves one model, and the executable holds 2.*models\[0\]"):
        Runner(two, PackRunnerConfig())
    tokens = np.array([3, 5, 7])
    request = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": np.zeros_like(tokens)}
    single, packed = np.zeros(3, np.float32), np.zeros((4, 12), np.float32)
    with PackRunner(two.models[1]) as runner:
        runner.execute(request, {"start_logits": single})
    with ModelRunner(two) as runner:
        pack = {f"graph1/{name}": np.resize(np.pad(array, (0, 21)), (2, 12)) for name, array in request.items()}
        pack["graph1/unpack_info"] = np.array([3, 0, 0, 0], np.int32)
        runner.execute({name: array.astype(np.int32) for name, array in pack.items()}, {"start_logits": packed})
    np.testing.assert_allclose(packed[0, :3], single, rtol=1e-5, atol=1e-6)


def test_a_session_over_one_model_is_refused(fused: Path) -> None:
    with pytest.raises(PoprtError, match="session: the executable holds several models"):
        ModelRunner(fused, session=FakeEngine(executable()))

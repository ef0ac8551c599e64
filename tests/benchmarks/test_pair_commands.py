"""The commands that compare with plain onnxruntime, on tiny models and for a moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.commands import main
from benchmarks.comparison import compare
from benchmarks.mixed import Mixture
from benchmarks.networks import networks
from benchmarks.rounds import WrongNumbersError
from poprt.engine.plain import plain_session


def run(command: str, folder: Path) -> list[dict[str, Any]]:
    name, *options = command.split()
    main([name, *options, "--seconds", "0", "--pairs", "1", "--output_dir", str(folder)])
    comparisons: list[dict[str, Any]] = json.loads((folder / f"{name}.json").read_text())["results"]
    for comparison in comparisons:
        assert comparison["difference"] < 1e-4
        assert comparison["paired"]["ratio"]["median"] > 0
    return comparisons


def test_any_batch_compares_three_networks_at_each_batch_size(tmp_path: Path) -> None:
    cases = [comparison["case"] for comparison in run("any_batch --size tiny --batches 1 17", tmp_path)]
    assert len(cases) == 6
    assert [case.rpartition(" ")[2] for case in cases] == ["1", "17"] * 3
    assert [case.partition(" ")[0].strip(",") for case in cases[::2]] == ["BERT", "residual", "MLP"]


def test_lone_compares_each_length_and_mixed_each_budget_with_its_memory(tmp_path: Path) -> None:
    (lone,) = run("lone --sizes tiny --tokens 16", tmp_path)
    assert lone["case"] == "tiny, 16 tokens"
    (mixed,) = run("mixed --size tiny --documents 0.1 --budgets 256 --requests_tokens 600", tmp_path)
    assert mixed["case"] == "10% documents, token budget 256"
    assert all(peak > 2**20 for peak in mixed["peaks"])


def test_long_texts_have_their_peak_above_the_weights(tmp_path: Path) -> None:
    (compared,) = run("long_texts --size tiny --layers 1 --tokens 600", tmp_path)
    assert compared["case"] == "tiny, 1 layers, one text of 600 tokens"
    assert all(0 <= peak < 2**30 for peak in compared["peaks"])


def test_wrong_numbers_are_not_timed() -> None:
    def fail() -> list[dict[str, np.ndarray]]:
        return [{"y": np.ones(2)}]

    with pytest.raises(WrongNumbersError, match="a case: wrong numbers"):
        compare("a case", fail, lambda: [{"y": np.zeros(2)}], 0.0, 1)


def test_the_share_of_documents_holds_in_random_order() -> None:
    lengths = Mixture(0.1).draw(np.random.default_rng(0), 200)
    documents = [length for length in lengths if length > 12]
    assert len(documents) == 20
    assert all(488 <= length <= 512 for length in documents)
    assert min(lengths) >= 4
    assert sorted(lengths) != lengths
    assert Mixture(0.1).mean == pytest.approx(57.2)


def test_networks_take_batches_of_any_size_and_their_weights_are_seeded() -> None:
    for network, again in zip(networks("tiny", 8), networks("tiny", 8), strict=True):
        assert network.model.SerializeToString() == again.model.SerializeToString()
        session = plain_session(network.model.SerializeToString(), threads=1)
        for rows in (1, 3):
            assert session.run(None, network.feeds(rows))[0].shape[0] == rows


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("lone --pairs 0", "expected a whole number of 1 or more, got '0'"),
        ("lone --seconds nan", "expected a number of 0 or more, got 'nan'"),
        ("mixed --documents 2", "expected a share from 0 to 1, such as 0.1, got '2'"),
        ("mixed --budgets many", "expected a whole number of 1 or more, or \"own\", got 'many'"),
    ],
)
def test_a_value_that_does_not_suit_is_one_clear_line(
    options: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(options.split())
    assert text in capsys.readouterr().err.splitlines()[-1]

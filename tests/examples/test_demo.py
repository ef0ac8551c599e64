"""The demo, on a few of its texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from examples.contenders import measure, padded, plain_session
from examples.demo import QUERIES, main
from models.bert import SIZES, BertConfig, build_bert
from models.minilm import MiniLM
from models.texts import texts
from tests.numerics import one_by_one, random_samples


@pytest.mark.minilm
def test_the_demo_prints_neighbours_throughput_and_the_difference(
    minilm: MiniLM, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    main(["--texts", "40", "--rounds", "1", "--output_dir", str(tmp_path)])
    printed = capsys.readouterr().out
    assert (tmp_path / "executable.popef").stat().st_size < minilm.model.ByteSize() * 0.6
    assert sum("x as fast" in line for line in printed.splitlines()) == 4
    difference = float(printed.split("unpadded: ")[1].split()[0])
    assert 0 < difference < 2e-3


def test_the_demos_queries_are_among_its_texts() -> None:
    assert set(QUERIES) <= {item.text for item in texts()}


@pytest.mark.parametrize(("columns", "sort"), [(0, False), (0, True), (64, False)])
def test_each_way_to_pad_gives_every_text_its_own_result(columns: int, sort: bool) -> None:
    model = build_bert(BertConfig(**SIZES["tiny"], head="mean"))
    samples = random_samples([5, 40, 1, 17, 9, 30, 2])
    contender = padded("padded", plain_session(model.SerializeToString(), 1), samples, 3, columns=columns, sort=sort)
    expected = np.stack([output["embedding"] for output in one_by_one(model, samples)])
    np.testing.assert_allclose(contender.run(), expected, atol=2e-6)


def test_the_tokens_that_padding_computes_are_counted() -> None:
    session = plain_session(build_bert(BertConfig(**SIZES["tiny"], head="mean")).SerializeToString(), 1)
    samples = random_samples([5, 40, 1, 17, 9])
    counted = [
        padded("alone", session, samples, 1).computed,
        padded("arrival", session, samples, 2).computed,
        padded("sorted", session, samples, 2, sort=True).computed,
        padded("fixed", session, samples, 2, columns=64).computed,
    ]
    assert counted == [72, 2 * 40 + 2 * 17 + 9, 2 * 5 + 2 * 17 + 40, 3 * 2 * 64]


def test_every_way_is_run_once_in_each_round() -> None:
    session = plain_session(build_bert(BertConfig(**SIZES["tiny"], head="mean")).SerializeToString(), 1)
    samples = random_samples([5, 4])
    lines: list[str] = []
    ways = [padded(name, session, samples, rows) for name, rows in (("a", 1), ("b", 2))]
    seconds, found = measure(ways, 3, lines.append)
    assert [line.split(", ")[0][-1] for line in lines] == ["a", "b"] * 3
    assert set(seconds) == set(found) == {"a", "b"}
    assert all(value > 0 for value in seconds.values())


def test_no_round_begins_after_the_budget_is_spent() -> None:
    session = plain_session(build_bert(BertConfig(**SIZES["tiny"], head="mean")).SerializeToString(), 1)
    lines: list[str] = []
    measure([padded("a", session, random_samples([5]), 1)], 3, lines.append, budget=0)
    assert len(lines) == 2
    assert "stopped after 1 of 3 rounds" in lines[-1]

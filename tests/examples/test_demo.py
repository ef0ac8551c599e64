"""The demo, on a few of its texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.contenders import OnnxRuntime, Padded
from examples.demo import QUERIES, main
from examples.timing import measure
from models.bert import SIZES, BertConfig, build_bert
from models.minilm import MiniLM
from models.texts import texts
from tests.numerics import random_samples


@pytest.mark.minilm
def test_the_demo_prints_neighbours_throughput_and_the_difference(
    minilm: MiniLM, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    main(["--texts", "40", "--rounds", "1", "--output_dir", str(tmp_path)])
    printed = capsys.readouterr().out
    assert (tmp_path / "minilm.popef").stat().st_size < minilm.model.ByteSize() * 0.6
    assert sum("x as fast" in line for line in printed.splitlines()) == 4
    difference = float(printed.split("unpadded: ")[1].split()[0])
    assert 0 < difference < 2e-3
    assert "4 embeddings of 384 numbers" in printed
    served = float(printed.split("TextModel.encode: ")[1].split(". ")[0])
    assert served < 1e-5
    curl = printed.strip().splitlines()[-1]
    assert curl.startswith("curl http://127.0.0.1:8000/v1/embeddings")
    assert json.loads(curl.split("-d ")[1].strip("'")) == {"model": "minilm", "input": QUERIES[0]}


def test_the_demos_queries_are_among_its_texts() -> None:
    assert set(QUERIES) <= {item.text for item in texts()}


def test_every_way_is_run_once_in_each_round() -> None:
    engine = OnnxRuntime(build_bert(BertConfig(**SIZES["tiny"], head="mean")).SerializeToString(), threads=1)
    samples = random_samples([5, 4])
    lines: list[str] = []
    ways = [Padded(name, engine, rows) for name, rows in (("a", 1), ("b", 2))]
    seconds, results = measure(ways, samples, 3, lines.append)
    assert [line.split(", ")[0][-1] for line in lines] == ["a", "b"] * 3
    assert set(seconds) == set(results) == {"a", "b"}
    assert all(value > 0 for value in seconds.values())


def test_no_round_begins_after_the_budget_is_spent() -> None:
    engine = OnnxRuntime(build_bert(BertConfig(**SIZES["tiny"], head="mean")).SerializeToString(), threads=1)
    lines: list[str] = []
    measure([Padded("a", engine, 1)], random_samples([5]), 3, lines.append, budget=0)
    assert len(lines) == 2
    assert "stopped after 1 of 3 rounds" in lines[-1]

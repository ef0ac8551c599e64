"""The table of tokens that are no words, on tiny encoders: shares, and answers as each sample has them alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.commands import main
from benchmarks.token_kinds import KINDS


def test_every_kind_packs_and_gives_each_sample_the_answer_that_it_has_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["kinds", "--size", "tiny", "--samples", "3", "--pairs", "1", "--output_dir", str(tmp_path)])
    printed = capsys.readouterr().out
    (written,) = tmp_path.glob("kinds*.json")
    results = json.loads(written.read_text(encoding="utf-8"))["results"]
    assert [result["kind"] for result in results] == list(KINDS)
    for result in results:
        assert result["kind"] in printed
        assert result["neighbours"] == "any"
        assert 0 < result["share"] < 1
        assert result["difference"] < 1e-5

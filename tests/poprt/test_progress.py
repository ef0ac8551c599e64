"""The progress display: seen on a terminal, silent elsewhere."""

from __future__ import annotations

import pytest

from poprt.progress import pass_progress


def shown(capsys: pytest.CaptureFixture[str], *, disabled: bool = False) -> str:
    with pass_progress(2, disabled=disabled) as show:
        show("constant_folding")
        show("sort_graph")
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_the_running_pass_is_named_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the stream for a terminal
    assert "sort_graph" in shown(capsys)
    assert shown(capsys, disabled=True) == ""


def test_nothing_is_shown_where_nobody_watches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    assert shown(capsys) == ""

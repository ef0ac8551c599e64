"""Fixtures that all tests share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.minilm import MiniLM, MiniLMNotFoundError, load_minilm
from poprt.isolation import FAILED
from tests.exports import export


class FailedTrials(logging.Handler):
    """Keeps the warnings of conversions whose isolation trial failed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, FAILED, False):
            self.messages.append(record.getMessage())


_failed_trials = FailedTrials()


def pytest_configure() -> None:
    logging.getLogger("poprt").addHandler(_failed_trials)


@pytest.fixture(autouse=True)
def isolation_trials(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Fails a test in which a conversion fell back: that is a fault of the analysis.

    A test that asks for it has the marker ``isolation_failure``, and finds the warnings here.
    """
    yield _failed_trials.messages
    messages = _failed_trials.messages[:]
    _failed_trials.messages.clear()
    if messages and request.node.get_closest_marker("isolation_failure") is None:
        pytest.fail("\n".join(messages))


@pytest.fixture(scope="session")
def minilm() -> MiniLM:
    """The real MiniLM; skips where its weights are not installed."""
    try:
        return load_minilm()
    except MiniLMNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``exported(family, head, exporter, attention, opset)`` -> path of a tiny exported encoder, made once a run.

    Skips where torch or transformers is not installed. See tests/exports.py for the names.
    """
    pytest.importorskip("torch", reason="torch is not installed: pip install '.[export]'")
    pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[export]'")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base  # all workers of pytest-xdist share the parent

    def make(
        family: str,
        head: str = "hidden",
        exporter: str = "torch-old",
        attention: str = "eager",
        opset: int | None = None,
    ) -> Path:
        return export(family, head, exporter, attention, opset=opset, folder=shared / "exports")

    return make

"""Fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from models.minilm import MiniLM, MiniLMNotFoundError, load_minilm
from tests.exports import export


@pytest.fixture(scope="session")
def minilm() -> MiniLM:
    """The real MiniLM; skips where its weights are not installed."""
    try:
        return load_minilm()
    except MiniLMNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``exported(family, head, exporter, attention)`` -> path of a tiny exported encoder, made once a run.

    Skips where torch or transformers is not installed. See tests/exports.py for the names.
    """
    pytest.importorskip("torch", reason="torch is not installed: pip install '.[export]'")
    pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[export]'")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base  # all workers of pytest-xdist share the parent

    def make(family: str, head: str = "hidden", exporter: str = "torch-old", attention: str = "eager") -> Path:
        return export(family, head, exporter, attention, folder=shared / "exports")

    return make

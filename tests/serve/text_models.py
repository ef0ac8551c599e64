"""Tiny text models of every task, and a server of them, for the tests of the APIs on texts."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from poprt.runtime import Runner
from poprt.serve.calls import Call
from poprt.serve.metering import NoMetrics
from poprt.text import PackOptions, TextModel, pack
from tests.serve.v2_models import SOON, text_model
from tests.text_folders import bert_folder, embedding_folder

TEXTS = ["anna bought bread", "my train", "the river bank is old and the city is new"]
LONG = "river " * 100
#: Names of the models that the shared server has, the first one first.
NAMES = ("plain", "normalised", "classify", "rerank", "tag", "ask", "matryoshka")


@cache
def executable(name: str) -> Path:
    """The executable of one of :data:`NAMES`."""
    shared = {"normalised": "embed", "classify": "classify", "tag": "tag", "ask": "ask"}
    if name in shared:
        return text_model(shared[name])
    folder = Path(mkdtemp(prefix="poprt-serve-")) / name
    if name == "plain":
        embedding_folder(folder, "mean")
    elif name == "matryoshka":
        embedding_folder(folder, "mean", normalise=True, matryoshka_dimensions=[8, 16])
    else:
        bert_folder(folder, "sequence", "BertForSequenceClassification", labels=1)
    pack(folder, folder / "model.popef", PackOptions(progress=False))
    return folder / "model.popef"


@cache
def own(name: str) -> TextModel:
    """What a server's answers are compared with."""
    return TextModel(executable(name))


class Gate:
    """Stands before the engine of a runner: no batch is run until it is opened.

    Attributes:
        entered: is set once a batch stands there.
    """

    def __init__(self, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self._open = threading.Event(), threading.Event()
        worker: Any = runner._worker  # type: ignore[attr-defined]
        run = worker.run

        def wait(batch: Any) -> Any:
            self.entered.set()
            assert self._open.wait(SOON)
            return run(batch)

        monkeypatch.setattr(worker, "run", wait)

    def open(self) -> None:
        self._open.set()


class Recorder(NoMetrics):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Call, int]] = []
        self.taken_back: list[tuple[str, int]] = []
        self.closed = False

    def finished(self, call: Call, status: int) -> None:
        self.calls.append((call, status))

    def cancelled(self, model: str, count: int) -> None:
        self.taken_back.append((model, count))

    def close(self) -> None:
        self.closed = True

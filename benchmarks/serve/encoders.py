"""Ways to embed texts in process: poprt's ``TextModel``, and sentence-transformers with each of its backends.

Each runs in a process of its own, so that no engine's idle threads take time from another's. Such a process imports
this file, which therefore imports little.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.processes import start
from benchmarks.serve.contenders import why_no_torch
from benchmarks.serve.sources import Sources

BACKENDS = ("torch", "onnx", "openvino")
Array = NDArray[Any]
_NO_BATCH = 0


class Encoder(Protocol):
    """Embeds texts: float32 [n, d]."""

    #: Batch sizes to choose from.
    batches: Sequence[int]

    def encode(self, texts: list[str], batch: int) -> Array:
        """Embed all texts."""


class Ours:
    """``TextModel.encode``, which has no batch size."""

    batches: Sequence[int] = (_NO_BATCH,)

    def __init__(self, executable: str) -> None:
        from poprt.text import TextModel

        self._model = TextModel(executable)

    def encode(self, texts: list[str], batch: int) -> Array:
        """Embed all texts; the batch size has no meaning."""
        del batch
        return self._model.encode(texts, show_progress_bar=False)


class SentenceTransformers:
    """``SentenceTransformer.encode`` on the CPU in float32, which sorts texts by length itself.

    Raises:
        ImportError: it, or what the backend needs, is not installed.
    """

    batches: Sequence[int] = (8, 16, 32, 64, 128, 256)

    def __init__(self, folder: str, backend: str) -> None:
        os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
        from sentence_transformers import SentenceTransformer

        options = {
            "torch": {},
            "onnx": {"provider": "CPUExecutionProvider", "file_name": "onnx/model.onnx"},
            "openvino": {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}},
        }
        self._model = SentenceTransformer(folder, device="cpu", backend=backend, model_kwargs=options[backend])

    def encode(self, texts: list[str], batch: int) -> Array:
        """Embed all texts."""
        vectors: Array = self._model.encode(texts, batch_size=batch, show_progress_bar=False)
        return vectors


@dataclass(frozen=True)
class EncoderMaker:
    """Which encoder to make, in which process ever."""

    name: str
    precision: str
    make: Callable[[], Encoder]


def our_encoders(sources: Sources) -> list[EncoderMaker]:
    """``TextModel`` in each precision, float32 first."""
    return [
        EncoderMaker(f"TextModel.encode, {precision}", precision, partial(Ours, str(path)))
        for precision, path in sources.executables.items()
    ]


def other_encoders(sources: Sources, backends: Sequence[str]) -> list[EncoderMaker]:
    """sentence-transformers with these backends."""
    return [
        EncoderMaker(
            f"sentence-transformers, {backend}", "fp32", partial(SentenceTransformers, str(sources.folder), backend)
        )
        for backend in backends
    ]


class RemoteEncoder:
    """An encoder in a process of its own, while it is entered.

    Attributes:
        batch: the batch size that it is timed with.
    """

    def __init__(self, maker: EncoderMaker) -> None:
        self.maker = maker
        self.batch = _NO_BATCH

    def __enter__(self) -> Self:
        self._pipe, theirs = multiprocessing.get_context("spawn").Pipe()
        self._process = start(_serve, theirs, self.maker.make)
        theirs.close()
        try:
            self._batches: Sequence[int] = self._receive()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def encode(self, texts: list[str]) -> Array:
        """Embed texts: float32 [n, d]."""
        vectors: Array = self._ask(_encode, texts, self.batch or 32)
        return vectors.astype(np.float32)

    def choose_batch(self, texts: list[str], seconds: float) -> None:
        """Keep the fastest batch size."""
        rates = {batch: self._rate(texts, batch, seconds) for batch in self._batches}
        self.batch = max(rates, key=rates.__getitem__)

    def rate(self, texts: list[str], seconds: float) -> float:
        """Texts a second, over about ``seconds`` and one call at least."""
        return self._rate(texts, self.batch, seconds)

    def _rate(self, texts: list[str], batch: int, seconds: float) -> float:
        rate: float = self._ask(_time, texts, batch, seconds)
        return rate

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self._pipe.send((function, arguments))
        return self._receive()

    def _receive(self) -> Any:
        try:
            succeeded, value = self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"the process of {self.maker.name} ended early") from None
        if not succeeded:
            raise value
        return value

    def _end(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection, make: Callable[[], Encoder]) -> None:
    """Make the encoder, then call what is asked for with it, until the pipe closes."""
    encoder: Encoder | None = None

    def first() -> Sequence[int]:
        nonlocal encoder
        encoder = make()
        return encoder.batches

    _answer(pipe, first)
    while encoder is not None:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        _answer(pipe, partial(function, encoder, *arguments))


def _answer(pipe: Connection, work: Callable[[], Any]) -> None:
    try:
        answer: tuple[bool, Any] = True, work()
    except Exception as error:
        answer = False, error
    pipe.send(answer)


def _encode(encoder: Encoder, texts: list[str], batch: int) -> Array:
    return encoder.encode(texts, batch)


def _time(encoder: Encoder, texts: list[str], batch: int, seconds: float) -> float:
    calls, begin = 0, time.perf_counter()
    while not calls or time.perf_counter() - begin < seconds:
        encoder.encode(texts, batch)
        calls += 1
    return calls * len(texts) / (time.perf_counter() - begin)


def reference_vectors(sources: Sources, texts: list[str], report: Callable[[str], None]) -> Array:
    """The vectors that all others are compared with: those of sentence-transformers with torch.

    Where it is not installed, those of ``TextModel`` in float32; the report says so.
    """
    reason = why_no_torch(sources.folder)
    maker = our_encoders(sources)[0] if reason else other_encoders(sources, BACKENDS[:1])[0]
    report(f"vectors are compared with those of {maker.name}" + (f" ({reason})" if reason else ""))
    with RemoteEncoder(maker) as encoder:
        return encoder.encode(texts)

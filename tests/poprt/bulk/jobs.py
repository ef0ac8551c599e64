"""Jobs of tiny models, and what their outputs are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from poprt.bulk import job as jobs
from poprt.bulk.work import Job, PieceDone, here
from poprt.runtime import PackRunnerConfig
from poprt.text import PackOptions, TextModel, pack
from tests.text_folders import WORDS, bert_folder, embedding_folder, write_json

CONFIG = PackRunnerConfig(lanes=1, token_budget=512)


@cache
def model(kind: str = "embed") -> Path:
    """The executable of a tiny model: "embed", "other" (another one), "classify", "tag" or "rerank"."""
    folder = Path(mkdtemp(prefix="poprt-bulk-")) / kind
    if kind in ("embed", "other"):
        embedding_folder(folder, "mean" if kind == "embed" else "max", matryoshka_dimensions=[8, 16])
        write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "how my "}})
    elif kind == "tag":
        bert_folder(folder, "token", "BertForTokenClassification")
    else:
        bert_folder(folder, "sequence", "BertForSequenceClassification", labels=1 if kind == "rerank" else 3)
    pack(folder, folder / "model.popef", PackOptions(progress=False))
    return folder / "model.popef"


def random_texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS[:40], size=length)) for length in rng.integers(1, 6, size=count)]


@cache
def _vectors(texts: tuple[str, ...]) -> np.ndarray:
    with TextModel(model(), CONFIG, threads=1) as own:
        return own.encode(list(texts))


def vectors(texts: Sequence[str]) -> np.ndarray:
    """What ``encode`` gives."""
    return _vectors(tuple(texts))


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """Embeddings [rows, dimension] of a column without nulls."""
    array = column.combine_chunks()
    return np.asarray(array.flatten()).reshape(len(array), -1)


def assert_embeds(table: pa.Table, texts: Sequence[str]) -> None:
    """The table has the texts, in order, with the embeddings that ``encode`` gives, and no errors."""
    assert table.column("text").to_pylist() == list(texts)
    assert table.column("error").null_count == len(texts)
    np.testing.assert_allclose(matrix(table.column("embedding")), vectors(texts), atol=2e-5)


class Watch:
    """Is told of a job, as a progress bar is."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def start(self, pieces: int, done: int) -> None:
        self.events.append((pieces, done))

    def advance(self, piece: PieceDone) -> None:
        self.events.append("piece")

    def joining(self) -> None:
        self.events.append("joining")

    def joined(self, piece: PieceDone) -> None:
        self.events.append(piece)


def run(job: Job, *, stop_after: int | None = None) -> Watch:
    """Do a job here, and raise KeyboardInterrupt when so many pieces are done."""
    watch, count = Watch(), 0

    def execute(job: Job, pieces: list[int], advance: Callable[[PieceDone], None]) -> None:
        def counted(piece: PieceDone) -> None:
            nonlocal count
            advance(piece)
            count += 1
            if count == stop_after:
                raise KeyboardInterrupt

        here(CONFIG, threads=1)(job, pieces, counted)

    jobs.run(job, execute, watch)
    return watch


def text_file(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def parquet_file(path: Path, texts: Sequence[str | None], rows: int = 3000) -> Path:
    """A Parquet file with columns ``id`` and ``text``, in row groups of so many rows."""
    pq.write_table(pa.table({"id": range(len(texts)), "text": pa.array(texts, pa.string())}), path, row_group_size=rows)
    return path

"""Doing pieces of a job: read, answer, write. Several are under way at a time, so that packs form across them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from poprt.bulk.columns import Columns
from poprt.bulk.loop_thread import run_in_thread
from poprt.bulk.parts import Parts
from poprt.bulk.rows import RowAnswerer
from poprt.bulk.source import open_source
from poprt.runtime.config import PackRunnerConfig
from poprt.text.model import TextModel

#: Pieces under way: one is answered while the next one is read and the one before is written.
AT_ONCE = 3


@dataclass(frozen=True)
class Job:
    """What is to be done. It can be sent to another machine that sees the same files.

    Attributes:
        source: the rows.
        output: the file that they become.
        model: the path of an executable for embeddings.
        columns: names of columns.
        prompt_name, dimensions: as for ``TextModel.encode``.
    """

    source: Path
    output: Path
    model: Path
    columns: Columns = field(default_factory=Columns)
    prompt_name: str | None = None
    dimensions: int | None = None


@dataclass(frozen=True)
class PieceDone:
    """A piece whose file is on the disk.

    Attributes:
        rows: how many it has.
        errors: how many of them have an error.
    """

    rows: int
    errors: int

    @classmethod
    def of(cls, table: pa.Table, columns: Columns) -> PieceDone:
        """The piece whose rows a table has."""
        return cls(len(table), len(table) - table.column(columns.error).null_count)


#: Does pieces of a job, and calls a function for each that is done.
Execute = Callable[[Job, list[int], Callable[[PieceDone], None]], None]


class Worker:
    """Does pieces of one job, with a model that is its own."""

    def __init__(self, job: Job, model: TextModel) -> None:
        self._columns = job.columns
        self._parts = Parts(job.output)
        self._source = open_source(job.source, job.columns.text)
        self._answerer = RowAnswerer(model, job.prompt_name, job.dimensions)

    async def do(self, piece: int) -> PieceDone:
        """Do a piece.

        Raises:
            PoprtError: the input cannot be read, or the model is closed.
            OSError: the rows cannot be written.
        """
        table, errors = await asyncio.to_thread(self._source.read, piece)
        answered = await self._columns.answered(table, self._answerer, errors)
        await asyncio.to_thread(self._parts.write, piece, answered)
        return PieceDone.of(answered, self._columns)


def here(config: PackRunnerConfig | None = None, **options: Any) -> Execute:
    """Do pieces in this process.

    Args:
        config, options: as for :class:`TextModel`.
    """

    def execute(job: Job, pieces: list[int], advance: Callable[[PieceDone], None]) -> None:
        with _closed_at_once(TextModel(job.model, config, **options)) as model:
            run_in_thread(_all(Worker(job, model), pieces, advance))

    return execute


@contextmanager
def _closed_at_once(model: TextModel) -> Iterator[TextModel]:
    """Drop what waits in the queue when the block ends: after an error nobody asks for it."""
    try:
        yield model
    finally:
        model.close(cancel=True)


async def _all(worker: Worker, pieces: Iterable[int], advance: Callable[[PieceDone], None]) -> None:
    waiting = iter(pieces)
    under_way: set[asyncio.Task[PieceDone]] = set()
    try:
        while True:
            while len(under_way) < AT_ONCE and (piece := next(waiting, None)) is not None:
                under_way.add(asyncio.create_task(worker.do(piece)))
            if not under_way:
                return
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                advance(task.result())
    finally:
        for task in under_way:
            task.cancel()

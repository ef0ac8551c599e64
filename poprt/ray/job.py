"""The job of `poprt embed` on Ray: its pieces are the items of a dataset, and actors do them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from poprt.bulk.work import AT_ONCE, Execute, Job, PieceDone, Worker
from poprt.errors import PoprtError
from poprt.ray.actor import open_model

#: Pieces of a task. An actor that dies costs its task; what the task had done is seen and not done again.
PIECES = 2 * AT_ONCE


class PieceActor:
    """Does pieces of a job, those of a batch at the same time."""

    def __init__(self, job: Job, token_budget: int | None) -> None:
        self._worker = Worker(job, open_model(job.model, token_budget))

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Pieces -> how many rows and errors each has."""
        done = await asyncio.gather(*(self._worker.do(piece) for piece in batch.column("piece").to_pylist()))
        return pa.table({"rows": [piece.rows for piece in done], "errors": [piece.errors for piece in done]})


def on_ray(address: str | None, actors: int | None, num_cpus: int, token_budget: int | None) -> Execute:
    """Do pieces on Ray.

    Args:
        address: of a cluster, as for ``ray.init``; None starts one here, and ends it.
        actors: how many; None takes as many as the cluster has cores for.
        num_cpus: cores of each.
        token_budget: tokens that a pack aims at; None takes the default.
    """

    def execute(job: Job, pieces: list[int], advance: Callable[[PieceDone], None]) -> None:
        with _connected(address):
            count = actors or max(1, int(ray.cluster_resources().get("CPU", 0)) // num_cpus)
            done = (
                ray.data.from_items(
                    [{"piece": piece} for piece in pieces], override_num_blocks=-(-len(pieces) // PIECES)
                )
                .map_batches(
                    PieceActor,
                    fn_constructor_args=(job, token_budget),
                    batch_format="pyarrow",
                    batch_size=1,
                    compute=ActorPoolStrategy(size=count),
                    num_cpus=num_cpus,
                )
                .iter_rows()
            )
            for row in done:
                advance(PieceDone(row["rows"], row["errors"]))

    return execute


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """A connection to a cluster, or a cluster of this machine. One that is there already is used and left."""
    if ray.is_initialized():
        yield
        return
    try:
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody asked for a cluster that tells of itself
            ray.init(include_dashboard=False, logging_level=logging.WARNING)
        else:
            ray.init(address=address, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise PoprtError(f"--ray: {address!r} cannot be reached: {error}") from error
    DataContext.get_current().enable_progress_bars = False  # the caller has its own
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()

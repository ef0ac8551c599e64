"""The one-line form: a dataset in, the same dataset with embeddings out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import ray
from ray.data import ActorPoolStrategy, Dataset

from poprt.bulk.columns import Columns
from poprt.bulk.job import text_facts
from poprt.errors import PoprtError
from poprt.ray.encoder import TextEncoder

logger = logging.getLogger("poprt")

#: Rows of a batch. An actor holds four batches at a time (RAY_DATA_DEFAULT_ASYNC_BATCH_UDF_MAX_CONCURRENCY).
BATCH = 128
#: Rows of a block, which is what an actor has as a task, and what it costs when it dies. Ray's own blocks have 128 MB.
BLOCK = 2048


def embed(
    dataset: Dataset,
    executable: str | Path,
    *,
    column: str = "text",
    output_column: str = "embedding",
    error_column: str = "error",
    task: str | None = None,
    prompt_name: str | None = None,
    dimensions: int | None = None,
    token_budget: int | None = None,
    actors: int | tuple[int, int | None] = (1, None),
    num_cpus: int = 1,
    batch_size: int = BATCH,
    block_rows: int = BLOCK,
    **options: Any,
) -> Dataset:
    """Answer the texts of a dataset with a text model: ``embed(ray.data.read_parquet(...), "model.popef")``.

    Nothing runs until the result is written or read. Order of rows is Ray's: kept where
    ``DataContext.execution_options.preserve_order`` is set.

    Args:
        dataset: has the texts.
        executable: the path of what ``poprt pack`` wrote, on every node.
        column, output_column, error_column, task, prompt_name, dimensions, token_budget: as for :class:`TextEncoder`.
        actors: how many, or the least and the most of them; None is no limit.
        num_cpus: cores of each.
        batch_size: rows that an actor takes at a time.
        block_rows: rows of a task of an actor, and of the blocks that come out; not less than ``batch_size``.
        options: further ones of ``Dataset.map_batches``, such as ``memory`` or ``resources``.

    Raises:
        PoprtError: the executable can be read here, and is none for texts or is for another task; or a column is not
            there or taken, where the dataset knows its columns.
    """
    _check_model(Path(executable), task)
    schema = dataset.schema(fetch_if_missing=False)
    if schema is not None:
        Columns(column, output_column, error_column).check(schema.names)
    least, most = (actors, actors) if isinstance(actors, int) else actors
    _warn_of_no_room(least * num_cpus)
    return dataset.repartition(target_num_rows_per_block=block_rows).map_batches(
        TextEncoder,
        fn_constructor_args=(str(executable), column, output_column, error_column),
        fn_constructor_kwargs={
            "task": task,
            "prompt_name": prompt_name,
            "dimensions": dimensions,
            "token_budget": token_budget,
        },
        batch_format="pyarrow",
        batch_size=batch_size,
        compute=ActorPoolStrategy(min_size=least, max_size=most),
        num_cpus=num_cpus,
        **options,
    )


def _warn_of_no_room(cores: int) -> None:
    """Say that nothing may be read where actors have all cores of the cluster: Ray then waits for ever, in silence."""
    there = int(ray.cluster_resources().get("CPU", 0)) if ray.is_initialized() else 0
    if 0 < there <= cores:
        logger.warning(
            "the actors take %d of the %d CPUs of the cluster: tasks that read and write wait until there are more. "
            "Ask for fewer actors or, on a machine of your own, tell Ray of one more: ray.init(num_cpus=%d)",
            cores, there, cores + 1,
        )  # fmt: skip


def _check_model(path: Path, task: str | None) -> None:
    """Say now what every actor would say later. A file that only the nodes have is left to them."""
    if path.exists() and task not in (None, (facts := text_facts(path)).task):
        raise PoprtError(f"task: expected a model for {task}, and {str(path)!r} is for {facts.task}")

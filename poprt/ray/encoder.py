"""An actor class for ``Dataset.map_batches``: batches of texts in, the same batches with answers out."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from poprt.bulk.columns import Columns
from poprt.bulk.rows import RowAnswerer
from poprt.errors import PoprtError
from poprt.ray.actor import open_model


class TextEncoder:
    """Answers texts with a text model, as in ``dataset.map_batches(TextEncoder, batch_format="pyarrow", ...)``.

    It is asynchronous: Ray gives it several batches at a time, and their texts share packs. A bad row has its error in
    a column of its own and does not end the job.

    Args:
        executable: the path of what ``poprt pack`` wrote, as the actor sees it.
        column: the texts.
        output_column: where answers go: embeddings as ``list<float32>``, or the likeliest label with its score, or
            entities, by what the model is for.
        error_column: why a row has no answer; null where it has one.
        task: what the model must be for; None takes any of :data:`poprt.bulk.rows.TASKS`.
        prompt_name, dimensions: of embeddings, as for ``TextModel.encode``.
        token_budget: tokens that a pack aims at; None takes 512.

    Raises:
        PoprtError: the model cannot be loaded, or is for another task.
    """

    def __init__(
        self,
        executable: str | Path,
        column: str = "text",
        output_column: str = "embedding",
        error_column: str = "error",
        *,
        task: str | None = None,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        token_budget: int | None = None,
    ) -> None:
        self._columns = Columns(column, output_column, error_column)
        model = open_model(executable, token_budget)
        if task not in (None, model.task):
            raise PoprtError(f"task: expected a model for {task}, and {str(executable)!r} is for {model.task}")
        self._answerer = RowAnswerer(model, prompt_name, dimensions)

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """A batch with two more columns."""
        self._columns.check(batch.column_names)
        return await self._columns.answered(batch, self._answerer)

"""How requests of any batch size become batches: along which axes, and of how many rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from poprt.errors import PoprtError
from poprt.executable import Manifest

#: Rows that requests of a graph for any batch size are put together to, if they wait. Larger runs are no faster a row.
MERGED_ROWS = 16
#: Rows of one run at most, unless the model declares more: what a run keeps in memory grows with them.
MOST_ROWS = 64


@dataclass(frozen=True)
class RowBatches:
    """How batches are made of requests.

    Attributes:
        axes: the batch axis of each input and output.
        size: rows of a run where the graph holds its batch size; 0 where the model leaves it open.
        any_size: whether the graph takes any number of rows; then ``size`` is what it declares.
    """

    axes: Mapping[str, int]
    size: int
    any_size: bool

    def most(self) -> int:
        """The most rows that requests are put together to; 0 for no limit."""
        return max(self.size, MERGED_ROWS) if self.any_size else self.size

    def room(self, first: int, waiting: int) -> int:
        """The rows of a batch that begins with a request of ``first`` rows, while ``waiting`` rows wait in all."""
        if self.any_size:
            return max(first, self.most())
        return _whole(first, self.size) if self.size else waiting

    def steps(self, total: int) -> list[tuple[int, int]]:
        """Begin and end of each run, for a batch of ``total`` rows; what lies behind the last row is zero."""
        if self.any_size:
            count = -(-total // max(MOST_ROWS, self.size))
            bounds = [total * number // count for number in range(count + 1)]
            return list(pairwise(bounds))
        step = self.size or total
        return [(at, at + step) for at in range(0, total, step)]


def _whole(size: int, batch_size: int) -> int:
    return -(-size // batch_size) * batch_size


def row_batches(manifest: Manifest, axis: int | None) -> RowBatches | None:
    """How requests of any batch size are run; None where they come in the declared shapes.

    Raises:
        PoprtError: inputs and outputs do not declare one extent along ``axis``.
    """
    if axis is None:
        return None
    open_axes = manifest.batch_axes
    if axis in {open_axes.get(spec.name) for spec in manifest.inputs}:
        first = manifest.inputs[0]
        return RowBatches(open_axes, first.shape[open_axes[first.name]], any_size=True)
    names = [spec.name for spec in (*manifest.inputs, *manifest.outputs)]
    return RowBatches(dict.fromkeys(names, axis), _declared_batch(manifest, axis), any_size=False)


def _declared_batch(manifest: Manifest, axis: int) -> int:
    """Return the extent that every input and output declares along the batch axis; raise PoprtError if they differ."""
    extents: dict[str, int] = {}
    for spec in (*manifest.inputs, *manifest.outputs):
        if spec.any_rank:
            raise PoprtError(
                f"batching_dim={axis}: the model does not say the rank of {spec.name!r}, so its rows cannot be told "
                "apart; declare its shape in the model, or leave batching_dim out"
            )
        if axis < 0 or axis >= len(spec.shape):
            raise PoprtError(f"batching_dim={axis}: {spec.name!r} of shape {list(spec.shape)} has no such axis")
        extents[spec.name] = spec.shape[axis]
    if len(set(extents.values())) > 1:
        raise PoprtError(f"batching_dim={axis}: every input and output needs the same extent there, got {extents}")
    return next(iter(extents.values()), 0)

"""Packs of samples that share rows and never cross one."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from poprt.engine.protocol import Session
from poprt.executable import Manifest, PackingSpec
from poprt.runtime.buffers import Array, with_rows
from poprt.runtime.config import PackAlgorithm
from poprt.runtime.pack_worker import PackRequest, PackWorker
from poprt.runtime.places import Place, place_within_rows, rows_of_a_part, stream_distances
from poprt.runtime.shapes import same_shape, wrong_result
from poprt.runtime.token_axes import clear_padding

#: Gives each sample a place in a run, or None where it has to wait for another run.
Placer = Callable[[Sequence[PackRequest]], "list[Place | None]"]


@dataclass(frozen=True)
class RowOptions:
    """How rows are filled.

    Attributes:
        mask: name of the mask input, whose values number the samples of a row; "" where there is none.
        algorithm: how a row is chosen.
        delimiter: zeros between two samples of a row.
        signed: a token that its own sample masks has the sample's number with a minus; else it has 0.
    """

    mask: str
    algorithm: PackAlgorithm = PackAlgorithm.next_fit
    delimiter: int = 0
    signed: bool = True


class WithinRowsWorker(PackWorker):
    """Samples that share rows and never cross one, with or without a final Unpack.

    Attention within a row multiplies the values of the other samples by zero, and zero times NaN or infinity is NaN.
    So where a result of a shared row is not finite, its samples are run again, each in a row of its own.

    Attributes:
        shares_rows: whether a row may hold several samples. Where it may not, the mask is what requests give.

    Args:
        rows: how rows are filled.
    """

    def __init__(
        self, session: Session, manifest: Manifest, packing: PackingSpec, max_count: int, rows: RowOptions
    ) -> None:
        super().__init__(session, manifest, packing, max_count)
        self.shares_rows = True
        self._options = rows
        #: Whether the engine takes any number of rows. Then a pack has a few, and the lanes share what waits.
        self._any_rows = bool(manifest.batch_axes) and packing.rows_apart
        most_rows = pack_rows(packing, max_count) if self._any_rows else packing.rows
        self.capacity = most_rows * packing.columns
        self._declared = {spec.name: spec.shape for spec in manifest.outputs}
        kinds = {spec.name: np.dtype(spec.engine_dtype).kind for spec in manifest.outputs}
        self._floats = [name for name in packing.outputs if kinds[name] == "f"]
        self._shared = functools.partial(
            place_within_rows,
            rows=most_rows,
            columns=packing.columns,
            max_count=max_count,
            algorithm=rows.algorithm,
            delimiter=rows.delimiter,
        )

    def is_full(self, count: int, size: int) -> bool:
        """Tell whether the waiting samples fill a pack."""
        full_rows = not self.shares_rows and count >= self.capacity // self.packing.columns
        return full_rows or super().is_full(count, size)

    def _place(self, requests: Sequence[PackRequest]) -> list[Place | None]:
        if not self.shares_rows:
            return self._place_alone(requests)
        return self._shared([request.size for request in requests])

    def _place_alone(self, requests: Sequence[PackRequest]) -> list[Place | None]:
        """Give each a row of its own."""
        rows = min(self.capacity // self.packing.columns, self.max_count)
        return [Place(row, 0, request.size) if row < rows else None for row, request in enumerate(requests)]

    def choose(self, window: Sequence[PackRequest]) -> list[PackRequest]:
        """Fill a pack in the order of the queue."""
        window = [request for request in window if request.kind == window[0].kind]
        return [request for request, place in zip(window, self._place(window), strict=True) if place is not None]

    def results(self, batch: Sequence[PackRequest], names: list[str]) -> list[list[Array]]:
        """Run one pack; return for each named output the values of each sample.

        A part of a pack may need more rows than it had in the whole, so there may be several runs.
        """
        # Whole numbers do not show what is not finite: where nothing else is asked for, the floats are read too.
        read = names if set(names) & set(self._floats) else [*names, *self._floats]
        values, doubtful = self._run_all(batch, self._place, read)
        if doubtful:
            again, _ = self._run_all([batch[i] for i in doubtful], self._place_alone, read)
            for i, own in zip(doubtful, again, strict=True):
                values[i] = own
        return [[sample[number] for sample in values] for number in range(len(names))]

    def _run_all(
        self, requests: Sequence[PackRequest], place: Placer, names: list[str]
    ) -> tuple[list[list[Array]], list[int]]:
        """Run requests, in as many runs as the places need.

        Returns:
            For each request its values of each named output, and the positions of those that shared a row in which
            something is not finite.
        """
        values: list[list[Array]] = [[] for _ in requests]
        doubtful: list[int] = []
        waiting = list(range(len(requests)))
        while waiting:
            places = dict(zip(waiting, place([requests[i] for i in waiting]), strict=True))
            placed = {i: where for i, where in places.items() if where is not None}
            waiting = [i for i in waiting if i not in placed]
            ran = self._run_once([requests[i] for i in placed], list(placed.values()), names)
            values_here = dict(zip(placed, ran, strict=True))
            for i, own in values_here.items():
                values[i] = own
            doubtful += self._doubtful(placed, values_here, names)
        return values, doubtful

    def _doubtful(self, placed: dict[int, Place], values: dict[int, list[Array]], names: list[str]) -> list[int]:
        """Return the samples of rows that hold several and a value that is not finite."""
        floats = [number for number, name in enumerate(names) if name in self._floats]
        broken = {place.row for i, place in placed.items() if not all(np.isfinite(values[i][n]).all() for n in floats)}
        rows = [place.row for place in placed.values()]
        return [i for i, place in placed.items() if place.row in broken and rows.count(place.row) > 1]

    def _run_once(self, batch: Sequence[PackRequest], places: Sequence[Place], names: list[str]) -> list[list[Array]]:
        """Run the engine once; return for each sample its values of each named output."""
        starts = [place.row * self.packing.columns + place.start for place in places]
        order = sorted(range(len(batch)), key=starts.__getitem__)
        rows = 1 + max(place.row for place in places) if self._any_rows else self.packing.rows
        feeds = self.feeds(batch, places, rows)
        started = time.perf_counter()
        outputs = self.session.run(feeds, names)
        self.count(batch, started)
        rank = {sample: position for position, sample in enumerate(order)}
        by_name = []
        for name, output in zip(names, outputs, strict=True):
            declared = (rows, *self._declared[name][1:]) if self._any_rows else self._declared[name]
            if not same_shape(output.shape, declared):
                raise wrong_result(name, output.shape, declared)
            if self.packing.outputs[name] == "sample":
                axes = self.packing.token_axes.get(name, ())
                clear_padding(output, axes, [batch[sample].size for sample in order])
            by_name.append(self._values(self.packing.outputs[name], output, batch, starts, rank))
        return [list(sample) for sample in zip(*by_name, strict=True)]

    def feeds(self, batch: Sequence[PackRequest], places: Sequence[Place], rows: int) -> dict[str, Array]:
        """What the engine is given for samples at ``places`` of ``rows`` rows."""
        starts = [place.row * self.packing.columns + place.start for place in places]
        feeds = self._token_feeds(batch, places, starts, rows)
        order = sorted(range(len(batch)), key=starts.__getitem__)
        if self.packing.unpack_info:
            feeds[self.packing.unpack_info] = self._distances([places[i] for i in order])
        for name, values in self.whole_inputs([batch[i] for i in order]).items():
            of_samples = name in self.packing.sample_inputs
            feeds[name] = with_rows(values, self.packing.max_valid_num) if of_samples else values
        return feeds

    def _token_feeds(
        self, batch: Sequence[PackRequest], places: Sequence[Place], starts: Sequence[int], rows: int
    ) -> dict[str, Array]:
        lengths = np.array([request.size for request in batch])
        first = np.cumsum(lengths) - lengths
        where = np.repeat(np.array(starts) - first, lengths) + np.arange(lengths.sum())
        streams = self.streams(batch)
        mask = self._options.mask
        if mask and self.shares_rows:
            numbers = np.repeat(_numbers_in_row(places), lengths)
            # A place that its own sample masks is still the sample's: it has the number with a minus.
            masked = -numbers if self._options.signed else 0
            streams[mask] = np.where(streams[mask] != 0, numbers, masked).astype(self.dtypes[mask])
        feeds: dict[str, Array] = {}
        for name, stream in streams.items():
            flat = np.zeros((rows * self.packing.columns, *stream.shape[1:]), stream.dtype)
            flat[where] = stream
            feeds[name] = flat.reshape(rows, self.packing.columns, *stream.shape[1:])
        return feeds

    def _distances(self, places: Sequence[Place]) -> Array:
        info = np.zeros((self.packing.max_valid_num, 1), self.dtypes[self.packing.unpack_info])
        info[: len(places), 0] = stream_distances(places, self.packing.columns)
        return info

    def _values(
        self, kind: str, output: Array, batch: Sequence[PackRequest], starts: Sequence[int], rank: dict[int, int]
    ) -> list[Array]:
        if kind == "packed":
            flat = output.reshape(-1, *output.shape[2:])
            return [flat[start : start + request.size] for start, request in zip(starts, batch, strict=True)]
        if kind == "sample":
            return [output[rank[i]] for i in range(len(batch))]
        return [output[rank[i], : request.size] for i, request in enumerate(batch)]


def pack_rows(packing: PackingSpec, max_count: int) -> int:
    """Rows of a pack where the engine takes any number: enough to keep a core busy, and room for ``max_count``."""
    return min(packing.rows, max_count, rows_of_a_part(packing.columns))


def _numbers_in_row(places: Sequence[Place]) -> list[int]:
    """Number the samples of each row 1, 2, ... in the order in which they were placed."""
    seen: dict[int, int] = {}
    numbers = []
    for place in places:
        seen[place.row] = seen.get(place.row, 0) + 1
        numbers.append(seen[place.row])
    return numbers

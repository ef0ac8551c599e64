"""Runs samples that are laid end to end, on an engine that takes any number of tokens or one that takes fixed rows.

A *stream* is the tokens of a pack's samples laid end to end, one value or array a token, without rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from poprt.engine.protocol import Session
from poprt.executable import Manifest, PackingSpec
from poprt.runtime.buffers import Array, with_rows
from poprt.runtime.shapes import wrong_result
from poprt.runtime.token_axes import clear_padding, with_places


class AcrossRowsSession:
    """A session over an executable packed across rows, which takes streams and the lengths of the samples.

    Args:
        session: the engine's session.
        manifest: the executable's manifest; its ``packing`` has the layout "across_rows".
    """

    def __init__(self, session: Session, manifest: Manifest, packing: PackingSpec) -> None:
        self._session = session
        self._packing = packing
        self._dtypes = {spec.name: np.dtype(spec.engine_dtype) for spec in manifest.inputs}
        self._declared = {spec.name: spec.shape for spec in manifest.outputs}
        # What the graph says, if the session can tell: an extent that is no number may follow the longest sample.
        self._in_graph: Mapping[str, Sequence[object]] = getattr(session, "output_shapes", {})

    def run(
        self,
        streams: Mapping[str, Array],
        lengths: Array,
        output_names: Sequence[str],
        others: Mapping[str, Array] | None = None,
    ) -> list[Array]:
        """Run one pack.

        Args:
            streams: for each dynamic input its tokens, [T, ...].
            lengths: tokens of each sample by segment, int [n, segments]; no sample has length 0; T in all.
            output_names: outputs to compute.
            others: the sample inputs, [n, ...], the pair inputs, [n, ...] with the longest sample or more on their
                sequence axes, zeros behind each sample's own places, and the run inputs.

        Returns:
            One array an output; row i is sample i. There may be more rows than samples. ``sample_tokens`` finds the
            tokens of a sample in its row.

        Raises:
            ExecutableError: the engine answers with another shape than the executable declares.
        """
        packing = self._packing
        feeds = {packing.unpack_info: lengths, **(others or {})}
        longest = int(lengths.sum(axis=1).max()) if packing.ragged else packing.width
        feeds |= {name: with_places(feeds[name], axes, longest) for name, axes in packing.pair_inputs.items()}
        if packing.ragged:
            feeds |= {name: stream[None] for name, stream in streams.items()}
        else:
            for name in (packing.unpack_info, *packing.sample_inputs, *packing.pair_inputs):
                feeds[name] = with_rows(feeds[name], packing.max_valid_num)
            feeds |= {name: _to_rows(stream, packing.rows, packing.columns) for name, stream in streams.items()}
        cast = {name: np.asarray(array, self._dtypes[name], order="C") for name, array in feeds.items()}
        results = self._session.run(cast, list(output_names))
        for name, result in zip(output_names, results, strict=True):
            self._check(name, result.shape, lengths)
        return results

    def _check(self, name: str, shape: Sequence[int], lengths: Array) -> None:
        """Raise ExecutableError unless a result has the declared shape, or what a ragged graph gives instead."""
        declared = self._declared[name]
        fits = len(shape) == len(declared) > 0 and shape[0] >= len(lengths)
        if not fits or not all(self._axis_fits(name, axis, shape[axis], lengths) for axis in range(1, len(shape))):
            raise wrong_result(name, shape, declared)

    def _axis_fits(self, name: str, axis: int, extent: int, lengths: Array) -> bool:
        declared, sizes = self._declared[name][axis], self._packing.segment_max_size
        if declared in (0, extent):
            return True
        longest = int(lengths.max(axis=0).sum())
        if not self._packing.ragged or longest == sum(sizes):
            return False
        if declared == self._packing.places(sum(sizes)):
            return extent == self._packing.unpacked_width(self._packing.places(longest))
        in_graph = self._in_graph.get(name, ())
        return extent < declared and axis < len(in_graph) and not isinstance(in_graph[axis], int)

    def sample_rows(self, name: str, result: Array, lengths: Array) -> Array:
        """Return the rows of the samples of a "sample" result in the declared shape.

        A sample's row may have token axes of its own (class scores by token, attention weights). The engine makes them
        as long as the longest sample of the pack; what lies behind the sample's own length is zero.
        """
        count = len(lengths)
        if lengths.shape[1] == 1:
            clear_padding(result, self._packing.token_axes.get(name, ()), self._places(lengths))
        row_shape = tuple(want or got for want, got in zip(self._declared[name][1:], result.shape[1:], strict=True))
        if result.shape[1:] == row_shape:
            return result[:count]
        rows = np.zeros((count, *row_shape), result.dtype)
        rows[(slice(None), *map(slice, result.shape[1:]))] = result[:count]
        return rows

    def sample_tokens(self, result: Array, lengths: Array) -> list[Array]:
        """Return each sample's row of a "tokens" result, in the declared columns, up to its last place.

        Args:
            result: [n or more, columns, ...], as ``run`` returned it.
            lengths: the lengths given to ``run``.
        """
        if lengths.shape[1] == 1:
            return [result[i, :places] for i, places in enumerate(self._places(lengths))]
        sizes = np.asarray(self._packing.segment_max_size)
        widths = sizes if result.shape[1] == sizes.sum() else lengths.max(axis=0)
        declared = np.cumsum(sizes) - sizes
        present = np.cumsum(widths) - widths
        return [_join_segments(row, counts, present, declared) for row, counts in zip(result, lengths, strict=False)]

    def _places(self, lengths: Array) -> list[int]:
        """Places of each sample's answer; ``lengths`` [n, 1]."""
        return [self._packing.places(length) for length in lengths[:, 0].tolist()]


def _to_rows(stream: Array, rows: int, columns: int) -> Array:
    return with_rows(stream, rows * columns).reshape(rows, columns, *stream.shape[1:])


def _join_segments(row: Array, counts: Array, present: Array, declared: Array) -> Array:
    """Move each segment of a sample from the column where the engine put it to its declared one."""
    last = int(np.flatnonzero(counts)[-1])
    joined = np.zeros((int(declared[last] + counts[last]), *row.shape[1:]), row.dtype)
    for count, source, target in zip(counts, present, declared, strict=True):
        joined[target : target + count] = row[source : source + count]
    return joined

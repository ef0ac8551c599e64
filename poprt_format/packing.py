"""How a model is packed: the fields that a packed model's metadata and an executable's manifest share.

A field is added here, once. Its name is its key in both files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: The two layouts: samples laid end to end, so that one may cross from a row to the next; or several in a row, none of
#: which crosses.
ACROSS_ROWS, WITHIN_ROWS = "across_rows", "within_rows"

#: Which samples may share a run, the most permissive first.
ANY, SAME_LENGTH, NONE = NEIGHBOURS = ("any", "same_length", "none")

#: Layout -> the layouts that its outputs may have.
OUTPUT_LAYOUTS: dict[str, tuple[str, ...]] = {
    ACROSS_ROWS: ("tokens", "sample"),
    WITHIN_ROWS: ("tokens", "sample", "packed"),
}

_FORMER_LAYOUTS = {"unpack_repack": ACROSS_ROWS, "attention_mask": WITHIN_ROWS}


def from_former_words(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a packing as a file holds them, in the words of today. Both kinds of file are read through this.

    ``layout`` was called ``style``, and its values "unpack_repack" and "attention_mask".
    """
    if "style" not in fields or "layout" in fields:
        return dict(fields)
    renamed = {"layout" if name == "style" else name: value for name, value in fields.items()}
    if isinstance(renamed["layout"], str):
        renamed["layout"] = _FORMER_LAYOUTS.get(renamed["layout"], renamed["layout"])
    return renamed


@dataclass(frozen=True)
class Packing:
    """How requests of many lengths share one run.

    Attributes:
        layout: :data:`ACROSS_ROWS` or :data:`WITHIN_ROWS`.
        rows, columns: declared extents R and C of the packed inputs.
        max_valid_num: most samples in one pack.
        segment_max_size: longest sample, by segment.
        unpack_info: name of the input with the sample lengths, int32 [max_valid_num, segments]; "" where there is none.
        dynamic_inputs: inputs of shape [R, C, ...] that hold one value, or one array of fixed extents, a token.
        sample_inputs: inputs of shape [max_valid_num, ...] that hold one row a sample, in the order of ``unpack_info``.
            A ragged graph takes as many rows as there are samples.
        run_inputs: inputs without a batch axis: one value for all samples of a run.
        pair_inputs: inputs of shape [max_valid_num, ...] with a value for each pair of a sample's places -> their two
            sequence axes, which have the extent of the longest sample: [max_valid_num, heads, width, width] has 2 and
            3. Behind a sample's own places they are zero. A ragged graph takes them as long as the longest sample of
            the run.
        mask: the mask input's name.
        position_ids: the position input's name, "" where the model makes positions itself.
        outputs: output name -> "tokens" ([max_valid_num, sum(segment_max_size), ...]), "sample" ([max_valid_num, ...])
            or "packed" ([R, C, ...], within rows alone).
        neighbours: which samples may share a run: "any", "same_length" (padding would show in an answer, so a run takes
            samples of one length only) or "none" (samples of a run would mix, so each runs by itself).
        isolation: why that is so, for people: the nodes that are not proved to hide padding; "" where all are.
        token_axes: "sample" output -> the axes of its rows' tensor that grow with the sample (attention weights have
            two); what lies behind the sample's own length there is padding, and the runtime gives zeros.
        cell_bytes, pair_bytes: what a run across rows holds in memory at once of the tensors that are padded to the
            longest sample of the pack: bytes a place (samples x longest) and bytes a pair of places of one sample
            (samples x longest²; behind a front end, of the places that it leaves). 0 where that is not known.
        subsampling: window, stride and pad of what a front end (strided convolutions, pooling, a token put in front)
            does to the length of a sample, all its layers together; see :meth:`places`. (1, 1, 0) leaves it as it is.
    """

    layout: str
    rows: int
    columns: int
    max_valid_num: int
    segment_max_size: tuple[int, ...]
    unpack_info: str
    dynamic_inputs: tuple[str, ...]
    mask: str
    position_ids: str
    outputs: dict[str, str]
    neighbours: str = ANY
    isolation: str = ""
    token_axes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    cell_bytes: int = 0
    pair_bytes: int = 0
    sample_inputs: tuple[str, ...] = ()
    run_inputs: tuple[str, ...] = ()
    subsampling: tuple[int, ...] = (1, 1, 0)
    pair_inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def within_rows(self) -> bool:
        """Whether samples share rows; otherwise they are laid end to end."""
        return self.layout == WITHIN_ROWS

    @property
    def rows_apart(self) -> bool:
        """Whether a row is answered by itself: samples share rows, and nothing is unpacked at the end."""
        return self.within_rows and not self.unpack_info

    @property
    def width(self) -> int:
        """Columns of an unpacked row: the longest sample."""
        return sum(self.segment_max_size)

    def pair_shape(self, name: str, shape: Sequence[int], length: int) -> tuple[int, ...]:
        """The shape of a pair input with ``length`` places on its sequence axes: [n, 64, 64, 3] -> [n, 5, 5, 3]."""
        axes = self.pair_inputs[name]
        return tuple(length if axis in axes else extent for axis, extent in enumerate(shape))

    @property
    def subsampled(self) -> bool:
        """Whether answers have other places than the tokens."""
        return tuple(self.subsampling) != (1, 1, 0)

    @property
    def shortest(self) -> int:
        """The fewest tokens of which something is left behind the front end."""
        return self.tokens(1)

    def places(self, tokens: int) -> int:
        """Places of the answer to a sample of ``tokens``: floor((tokens + pad - window) / stride) + 1, at least 0."""
        window, stride, pad = self.subsampling
        return max(0, (tokens + pad - window) // stride + 1)

    def tokens(self, places: int) -> int:
        """The fewest tokens whose answer has as many places."""
        window, stride, pad = self.subsampling
        return max(1, (places - 1) * stride + window - pad)

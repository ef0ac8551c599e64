"""How a model is packed: the fields that a packed model's metadata and an executable's manifest share.

A field is added here, once. Its name is its key in both files.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: The two layouts, as files call them: samples laid end to end, or sharing rows.
ACROSS_ROWS, WITHIN_ROWS = "unpack_repack", "attention_mask"

#: Which samples may share a run, the most permissive first.
ANY, SAME_LENGTH, NONE = NEIGHBOURS = ("any", "same_length", "none")

#: Layout -> the layouts that its outputs may have.
OUTPUT_LAYOUTS: dict[str, tuple[str, ...]] = {
    ACROSS_ROWS: ("tokens", "sample"),
    WITHIN_ROWS: ("tokens", "sample", "packed"),
}


@dataclass(frozen=True)
class Packing:
    """How requests of many lengths share one run.

    Attributes:
        style: :data:`ACROSS_ROWS` or :data:`WITHIN_ROWS`.
        rows, columns: declared extents R and C of the packed inputs.
        max_valid_num: most samples in one pack.
        segment_max_size: longest sample, by segment.
        unpack_info: name of the input with the sample lengths, int32 [max_valid_num, segments]; "" where there is none.
        dynamic_inputs: inputs of shape [R, C] that hold one value a token.
        mask: the mask input's name.
        position_ids: the position input's name, "" where the model makes positions itself.
        outputs: output name -> "tokens" ([max_valid_num, sum(segment_max_size), ...]), "sample" ([max_valid_num, ...])
            or "packed" ([R, C, ...], within rows alone).
        neighbours: which samples may share a run: "any", "same_length" (padding would show in an answer, so a run takes
            samples of one length only) or "none" (samples of a run would mix, so each runs by itself).
        isolation: why that is so, for people: the nodes that are not proved to hide padding; "" where all are.
        token_axes: "sample" output -> the axes of its rows' tensor that grow with the sample (attention weights have
            two); what lies behind the sample's own length there is padding, and the runtime gives zeros.
    """

    style: str
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

    @property
    def within_rows(self) -> bool:
        """Whether samples share rows; otherwise they are laid end to end."""
        return self.style == WITHIN_ROWS

    @property
    def width(self) -> int:
        """Columns of an unpacked row: the longest sample."""
        return sum(self.segment_max_size)

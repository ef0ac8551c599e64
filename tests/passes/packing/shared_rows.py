"""Samples that share rows of a model, which is rewritten for them within rows, and what each must get."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from passes.manager import PassManager
from passes.packing.insert_attention_mask import InsertAttentionMask
from tests.numerics import Arrays, one_by_one, run
from tests.passes.packing.packs import COLUMNS, ROWS, TOLERANCE
from tests.passes.rewrites import copy_of

#: Samples of each row within rows: [rows] of lengths, which sum to COLUMNS at most.
ROW_LENGTHS = ((5, 7), (9, 1, 2), (4,))


def shares_rows(model: onnx.ModelProto) -> onnx.ModelProto:
    shapes = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    before = ("extract_constant_to_initializer", "constant_folding", "eliminate_identity")
    return PassManager([*before, InsertAttentionMask(shapes)]).run(copy_of(model))


def in_rows(batch: Sequence[Arrays], mask: str) -> tuple[Arrays, list[tuple[int, int]]]:
    """The samples in shared rows, numbered by the mask, and where each begins."""
    feeds = {name: np.zeros((ROWS, COLUMNS), np.int64) for name in [*batch[0], "position_ids"]}
    begins, left = [], iter(batch)
    for row, lengths in enumerate(ROW_LENGTHS):
        column = 0
        for number, length in enumerate(lengths, 1):
            place = (row, slice(column, column + length))
            for name, values in next(left).items():
                feeds[name][place] = values
            feeds[mask][place] = number
            feeds["position_ids"][place] = np.arange(length)
            begins.append((row, column))
            column += length
    return feeds, begins


def assert_rows_are_right(model: onnx.ModelProto, batch: Sequence[Arrays], mask: str) -> None:
    feeds, begins = in_rows(batch, mask)
    got = run(shares_rows(model), feeds)
    for (row, column), want in zip(begins, one_by_one(model, batch), strict=True):
        for name, values in want.items():
            own = got[name][row, column : column + len(values)]
            np.testing.assert_allclose(own, values, atol=TOLERANCE, rtol=TOLERANCE, err_msg=name)


def row_lengths() -> list[int]:
    return [length for lengths in ROW_LENGTHS for length in lengths]

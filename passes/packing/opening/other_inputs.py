"""What an input means that holds no value a token: a row a sample, or one value for all samples of a run.

Beside ids [batch, sequence], [batch, 8] and [batch] hold a row a sample, [] and [8] a value a run: the open batch axis
tells. Where every extent is a number, an input whose first one is the batch of the ids holds a row a sample.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.errors import PackingError
from passes.shapes.input_shapes import InputShapes

logger = logging.getLogger("poprt")


class OtherInputs:
    """Tells a row a sample from a value a run.

    Args:
        shapes: what the inputs will be fixed to.
        tokens: the inputs [batch, sequence, ...], at least one.
    """

    def __init__(self, shapes: InputShapes, tokens: Sequence[gs.Variable]) -> None:
        self._shapes, self._tokens, self._first = shapes, tokens, tokens[0]

    def is_row(self, tensor: gs.Variable) -> bool:
        """Whether ``tensor`` holds a row a sample; otherwise it holds one value for all samples of a run.

        Raises:
            PackingError: it holds neither.
        """
        if tensor.shape is None:
            raise PackingError(
                f"the model does not say the rank of input {tensor.name!r}, so it may hold a value a token, a row a "
                "sample or a value a run: give its input_shape"
            )
        declared = self._shapes.fixed(tensor) if tensor.name in self._shapes.by_name else list(tensor.shape)
        is_open = [axis for axis, extent in enumerate(declared or ()) if axis and not is_fixed(extent)]
        if is_open:
            raise self._refused(tensor, self._why_open(tensor, is_open[0]))
        if not tensor.shape:
            return False
        if is_fixed(tensor.shape[0]):
            return self._is_row_of_numbers(tensor)
        if not self._same_batch(tensor):
            raise self._refused(tensor, f"axis 0 is {tensor.shape[0]!r}, and the batch is {self._first.shape[0]!r}")
        return True

    def _is_row_of_numbers(self, tensor: gs.Variable) -> bool:
        batch = self._first.shape[0]
        if not is_fixed(batch) or tensor.shape[0] != batch:
            return False
        row = int(batch) > 1
        reading = "one row a sample" if row else "one value for all samples of a run"
        instead = "a value a run" if row else "a row a sample"
        logger.warning(
            "input %r %s has no open axis, and the batch of %r is fixed to %s: it is read as %s; if it is %s, export "
            "the model with an open batch",
            *(tensor.name, tensor.shape, self._first.name, batch, reading, instead),
        )
        return row

    def _same_batch(self, tensor: gs.Variable) -> bool:
        """Two named batches must have one name, unless the user gave both inputs the same batch."""
        names = [token.shape[0] for token in self._tokens]
        if not isinstance(tensor.shape[0], str) or not all(isinstance(name, str) for name in names):
            return True
        by_name = self._shapes.by_name
        if tensor.name in by_name and self._first.name in by_name:
            return by_name[tensor.name][0] == by_name[self._first.name][0]
        return tensor.shape[0] in names

    def _why_open(self, tensor: gs.Variable, axis: int) -> str:
        extent, sequence = tensor.shape[axis], self._first.shape[1]
        if extent == sequence and isinstance(extent, str):
            return f"it has the sequence {extent!r} on axis {axis}: export the model with it on axis 1"
        named = f"{extent!r}" if isinstance(extent, str) else "open"
        return f"axis {axis} is {named}, which is no number and not the sequence of {self._first.name!r}"

    def _refused(self, tensor: gs.Variable, why: str) -> PackingError:
        return PackingError(
            f"input {tensor.name!r} {tensor.shape} does not have the axes [batch, sequence] of {self._first.name!r} "
            f"{self._first.shape}, and is neither one row a sample [batch, numbers] nor one value a run [numbers]: "
            f"{why}; packing knows one batch and one sequence: give both inputs the same names or the same "
            "--input_shape if they are one, else remove it, or make it a constant before the conversion"
        )


def is_fixed(extent: Any) -> bool:
    """Whether an extent is a number."""
    return isinstance(extent, (int, np.integer)) and int(extent) > 0

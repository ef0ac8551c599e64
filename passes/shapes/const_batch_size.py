"""Fix the batch axis of every input."""

from __future__ import annotations

from passes.registry import register
from passes.shapes.const_input_shape import ConstInputShape


@register("const_batch_size")
class ConstBatchSize(ConstInputShape):
    """Declare the batch size of every input, and infer all other declared shapes again; see ``const_input_shape``.

    Args:
        batch_size: the extent of axis ``batch_axis``.
        batch_axis: the axis that counts samples.
    """

    def __init__(self, batch_size: int = 1, batch_axis: int = 0) -> None:
        super().__init__(batch_size=batch_size, batch_axis=batch_axis)

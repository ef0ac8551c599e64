"""The shapes that inputs are to be fixed to: what ``const_input_shape`` declares and a packing pass goes by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from passes.errors import RewriteError
from passes.shapes.shape_inference import Extent


@dataclass(frozen=True)
class InputShapes:
    """What the user says of the inputs' shapes.

    Attributes:
        by_name: input name -> shape, all extents at least 1.
        batch_size: the extent of axis ``batch_axis`` of every input not named in ``by_name``; None leaves them.
        batch_axis: see ``batch_size``.
    """

    by_name: Mapping[str, Sequence[int]] = field(default_factory=dict)
    batch_size: int | None = None
    batch_axis: int = 0

    @classmethod
    def of(
        cls,
        shapes: InputShapes | Mapping[str, Sequence[int]] | None,
        batch_size: int | None = None,
        batch_axis: int = 0,
    ) -> InputShapes:
        """Shapes by name, and a batch size, as one object; ``shapes`` itself where it is one."""
        if isinstance(shapes, InputShapes):
            return shapes
        by_name = {name: [int(extent) for extent in shape] for name, shape in (shapes or {}).items()}
        return cls(by_name, None if batch_size is None else int(batch_size), int(batch_axis))

    def __bool__(self) -> bool:
        """Whether anything is to be fixed."""
        return bool(self.by_name) or self.batch_size is not None

    def fixed(self, tensor: gs.Variable) -> list[Extent] | None:
        """The shape of an input once it is fixed; its own, which may be None, where nothing says anything of it.

        Raises:
            RewriteError: a known dimension would change, or the rank is wrong; the message names the input.
        """
        if tensor.name in self.by_name:
            return _fixed(tensor, dict(enumerate(self.by_name[tensor.name])), whole=True)
        if self.batch_size is None or tensor.shape == []:  # a scalar has no batch
            return None if tensor.shape is None else list(tensor.shape)
        return _fixed(tensor, {self.batch_axis: self.batch_size}, whole=False)


def _fixed(tensor: gs.Tensor, extents: Mapping[int, int], *, whole: bool) -> list[Extent]:
    """The shape of an input with the ``extents`` axes fixed."""
    if tensor.shape is None and not whole:
        raise RewriteError(f"input {tensor.name!r} declares no rank, so it has no batch axis; give its input_shape")
    declared: list[Extent] = list(tensor.shape) if tensor.shape is not None else [None] * len(extents)
    if whole and len(extents) != len(declared):
        raise RewriteError(
            f"input {tensor.name!r} has {len(declared)} dimensions {declared}; the given shape has {len(extents)}: "
            f"{list(extents.values())}"
        )
    for axis, extent in extents.items():
        if not -len(declared) <= axis < len(declared):
            raise RewriteError(f"input {tensor.name!r} has no axis {axis}; its shape is {declared}: change batch_axis")
        if extent < 1:
            raise RewriteError(f"input {tensor.name!r}, axis {axis}: {extent} is no extent; give at least 1")
        old = declared[axis]
        if isinstance(old, int) and old > 0 and old != extent:
            advice = (
                "only variable dimensions can be fixed" if whole else _instead_of_batch(tensor.name, declared, extent)
            )
            raise RewriteError(
                f"input {tensor.name!r}, axis {axis}: the model fixes it to {old}, it cannot become {extent}; {advice}"
            )
        declared[axis] = extent
    return declared


def _instead_of_batch(name: str, declared: Sequence[Extent], size: int) -> str:
    """What to give in the place of a batch size that the batch axis of an input does not take."""
    still_open = [axis for axis, extent in enumerate(declared) if not (isinstance(extent, int) and extent > 0)]
    if not still_open:
        return (
            f"its whole shape {list(declared)} is fixed: leave out batch_size; where each sample is answered by "
            "itself, the executable of such a model takes any batch size"
        )
    if len(still_open) == 1:
        shape = ",".join(str(size if axis in still_open else extent) for axis, extent in enumerate(declared))
        return f"if axis {still_open[0]} is its batch, add --input_shape {name}={shape}"
    return f"if its batch is another axis, add its shape {list(declared)} in numbers as --input_shape {name}=..."

"""What a model says of inputs that were joined into one: which, and of which shape."""

from __future__ import annotations

from dataclasses import dataclass

#: The key of a JSON object in a model's metadata, or among the texts that the caller keeps with an executable:
#: name of the joined input -> the fields of :class:`JoinedInputs`.
HOST_CONCAT_KEY = "HostConcatRunnerConfig"


@dataclass(frozen=True)
class JoinedInputs:
    """Several inputs of one shape and type that are fed as one.

    They lie side by side along the second axis, so that the first may count samples; along the first where there is no
    second.

    Attributes:
        tensor_name: the joined input.
        input_tensor_names: those that it replaces, in order.
        shape: the extents of each of them.
        data_size_bytes: the bytes of each of them.
    """

    tensor_name: str
    input_tensor_names: tuple[str, ...]
    shape: tuple[int, ...]
    data_size_bytes: int

    @property
    def axis(self) -> int:
        """The axis along which they are joined."""
        return min(1, len(self.shape) - 1)

    def joined_shape(self) -> tuple[int, ...]:
        """The extents of the joined input: sixty of [512, 1] make [512, 60]."""
        extents = list(self.shape)
        extents[self.axis] *= len(self.input_tensor_names)
        return tuple(extents)

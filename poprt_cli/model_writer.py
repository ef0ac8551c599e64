"""Write a model, with its weights in a file beside it where they are many, so that every moment finds a whole pair.

The weights' file is named by its contents. It comes first; the model's rename then changes both at once, as the old
model still names the old weights. Those are removed last.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

import onnx
from onnx.external_data_helper import set_external_data

from passes.node_protos import walk_graphs
from poprt.atomic_file import Draft, draft, one_at_a_time

_ALIGNMENT = 64
_SMALLEST_OUTSIDE = 1024  # bytes; below that a weight stays in the model, as in onnx.save
_DIGITS = 32  # of the sha256


def write_model(model: onnx.ModelProto, path: Path, *, weights_beside: bool) -> None:
    """Write ``model``; a file that is there is replaced once the new one is complete.

    Args:
        model: what to write. With ``weights_beside`` it then holds references to the file of weights.
        path: the file. Its ending chooses the format, as in ``onnx.save``.
        weights_beside: put the weights into ``<name>.<digest>.data`` beside it. Files of that form which the new model
            does not name are removed, unless another model in the folder names them.

    Raises:
        OSError: it cannot be written.
    """
    with ExitStack() as stack:
        data = stack.enter_context(draft(path)) if weights_beside else None
        place = None if data is None else path.with_name(_move_weights(model, data.file, path.name))
        main = stack.enter_context(draft(path))
        main.file.write(_serialised(model, path))
        with one_at_a_time(path):
            if data is not None and place is not None:
                _publish_pair(data, place, main, path)
            else:
                main.publish(path)
            _remove_older_weights(path, place)


def _serialised(model: onnx.ModelProto, path: Path) -> bytes:
    registry = onnx.serialization.registry
    format_name = registry.get_format_from_file_extension(path.suffix) or "protobuf"
    serialised: bytes = registry.get(format_name).serialize_proto(model)
    return serialised


def _move_weights(model: onnx.ModelProto, file: IO[bytes], model_name: str) -> str:
    """Move the large weights to ``file``; give the name that it is to have."""
    tensors = [
        tensor
        for tensor in _initializers(model.graph)
        if tensor.HasField("raw_data") and tensor.ByteSize() >= _SMALLEST_OUTSIDE  # raw_data itself would be a copy
    ]
    digest, position, places = hashlib.sha256(), 0, []
    for tensor in tensors:
        values, gap = tensor.raw_data, -position % _ALIGNMENT
        for piece in (bytes(gap), values):
            digest.update(piece)
            file.write(piece)
        places.append((position + gap, len(values)))
        position += gap + len(values)
    name = f"{model_name}.{digest.hexdigest()[:_DIGITS]}.data"
    for tensor, (offset, length) in zip(tensors, places, strict=True):
        set_external_data(tensor, name, offset, length)
        tensor.ClearField("raw_data")
    return name


def _initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    return (tensor for scope in walk_graphs(graph) for tensor in scope.initializer)


def _publish_pair(data: Draft, place: Path, main: Draft, path: Path) -> None:
    """Both or none: weights that were brought and that no model names are taken away again."""
    is_new = not place.exists()  # otherwise the model in place may name it
    try:
        data.publish(place)
        main.publish(path)
    except BaseException:
        if is_new and main.path.exists():  # the draft has its name until the moment that the model is in place
            place.unlink(missing_ok=True)
        raise


def _remove_older_weights(path: Path, named: Path | None) -> None:
    ours = re.compile(re.escape(path.name) + rf"\.[0-9a-f]{{{_DIGITS}}}\.data")
    with suppress(OSError):  # the model is written; what cannot be removed now may be by the next one
        for other in path.parent.iterdir():
            if ours.fullmatch(other.name) and other != named and not _is_named_beside(other, path):
                other.unlink(missing_ok=True)


def _is_named_beside(weights: Path, path: Path) -> bool:
    """Whether another model in the folder, a renamed copy perhaps, names the file ``weights``."""
    name = weights.name.encode()
    models = (other for other in path.parent.glob("*.onnx*") if other.suffix != ".data" and other != path)
    return any(_contains(other, name) for other in models if other.is_file())


def _contains(path: Path, text: bytes) -> bool:
    with open(path, "rb") as file:
        if not path.stat().st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return mapped.find(text) >= 0

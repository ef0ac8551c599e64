"""What a graph takes and gives."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from poprt.errors import PoprtError

#: The inputs that can be fed from a text.
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
#: Architectures whose table of positions starts behind the padding token's.
OFFSET_TYPES = frozenset(
    (
        *("camembert", "data2vec-text", "ibert", "longformer", "luke", "markuplm", "mpnet", "roberta"),
        *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
    )
)
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)


@dataclass(frozen=True)
class Output:
    """An output of floats.

    Attributes:
        name: the tensor's name.
        rank: number of axes; None where the model does not say.
        width: extent of the last axis; 0 where it is open.
        element: ONNX's number of the type.
    """

    name: str
    rank: int | None
    width: int
    element: int


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs, without the weights that old exporters list among them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def outputs_of(model: onnx.ModelProto) -> list[Output]:
    """The outputs that hold floats."""
    outputs = []
    for value in model.graph.output:
        tensor = value.type.tensor_type
        if tensor.elem_type in _FLOATS:
            extents = [max(dim.dim_value, 0) for dim in tensor.shape.dim]
            rank = len(extents) if tensor.HasField("shape") else None
            outputs.append(Output(value.name, rank, extents[-1] if extents else 0, tensor.elem_type))
    return outputs


def check_inputs(model: onnx.ModelProto, model_type: str) -> None:
    """Refuse a graph that no text can be fed to.

    Raises:
        PoprtError: it has no ``input_ids``, another input than :data:`INPUTS`, or positions that start elsewhere.
    """
    names = [value.name for value in inputs_of(model)]
    unknown = [name for name in names if name not in INPUTS]
    if unknown:
        raise PoprtError(f"the graph has the input {unknown[0]!r}; texts give {', '.join(INPUTS)} alone")
    if "position_ids" in names and model_type in OFFSET_TYPES:
        raise PoprtError(
            f"the graph has the input 'position_ids', and positions of {model_type} start behind the padding token's: "
            "export the model without this input"
        )
    if INPUTS[0] not in names:
        raise PoprtError(f"the graph has no input {INPUTS[0]!r}; it has {', '.join(names) or 'none'}")

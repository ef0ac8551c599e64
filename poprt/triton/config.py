"""``config.pbtxt``: Triton's ModelConfig in protobuf's text form."""

from __future__ import annotations

import json
from collections.abc import Iterable

from poprt.triton.interface import Interface, Port, TritonOptions

_KINDS = {"bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64"}
_KINDS |= {f"{sign}int{bits}": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)}


def model_config(interface: Interface, options: TritonOptions, labels: str = "") -> str:
    """The contents of ``config.pbtxt``.

    Args:
        interface: the model's inputs and outputs.
        options: its name, instances and threads.
        labels: the file of label names beside it, for the first output; "" is none.
    """
    lines = [
        f"name: {_text(options.name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {interface.max_batch_size}",
        *(line for port in interface.inputs for line in _input(port, interface)),
        *(line for source, target in interface.lengths.items() for line in _batch_input(source, target)),
        *(line for number, port in enumerate(interface.outputs) for line in _output(port, "" if number else labels)),
        *(line for port in interface.outputs for line in _batch_output(port, interface)),
        *_batching(interface),
        *_block("instance_group", [f"count: {options.instances}", "kind: KIND_CPU"]),
        *_parameter("intra_op_thread_count", str(options.threads)),
        *(_parameter("share_session_between_instances", "true") if options.instances > 1 else []),
    ]
    return "\n".join(lines) + "\n"


def _input(port: Port, interface: Interface) -> list[str]:
    ragged = ["allow_ragged_batch: true"] if interface.ragged else []
    return _block("input", [*_port(port), *ragged])


def _batch_input(source: str, target: str) -> list[str]:
    """The length of each sample; BATCH_ELEMENT_COUNT would count all samples of a request as one."""
    kind = "kind: BATCH_ITEM_SHAPE"
    names = [f"target_name: {_text(target)}", "data_type: TYPE_INT32", f"source_input: {_text(source)}"]
    return _block("batch_input", [kind, *names])


def _output(port: Port, labels: str) -> list[str]:
    return _block("output", [*_port(port), *([f"label_filename: {_text(labels)}"] if labels else [])])


def _batch_output(port: Port, interface: Interface) -> list[str]:
    """Rows of tokens go back to the request whose tokens they are."""
    if not interface.ragged or port.name not in interface.by_token:
        return []
    source = interface.inputs[0].name
    kind = "kind: BATCH_SCATTER_WITH_INPUT_SHAPE"
    return _block("batch_output", [f"target_name: {_text(port.name)}", kind, f"source_input: {_text(source)}"])


def _batching(interface: Interface) -> list[str]:
    if interface.max_batch_size == 1:
        return []
    return _block("dynamic_batching", [f"preferred_batch_size: [ {interface.max_batch_size} ]"])


def _port(port: Port) -> list[str]:
    """Name, type and extents. A value a sample has no extents of its own; Triton calls that 1, reshaped."""
    extents = [f"dims: [ {', '.join(map(str, port.dims or (1,)))} ]"]
    reshape = [] if port.dims else ["reshape: { shape: [ ] }"]
    return [f"name: {_text(port.name)}", f"data_type: TYPE_{_KINDS[port.dtype]}", *extents, *reshape]


def _parameter(key: str, value: str) -> list[str]:
    return _block("parameters", [f"key: {_text(key)}", f"value: {{ string_value: {_text(value)} }}"])


def _block(field: str, lines: Iterable[str]) -> list[str]:
    return [f"{field} {{", *(f"  {line}" for line in lines), "}"]


def _text(text: str) -> str:
    """A quoted text: protobuf reads the escapes of JSON, but for characters beyond ASCII, which stand as they are."""
    return json.dumps(text, ensure_ascii=False)

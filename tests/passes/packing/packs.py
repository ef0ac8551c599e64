"""What the packing tests share: a small graph around what is tested, packed, run in both forms, judged by sample.

The graph is ``x = hidden state [batch, seq, 8]`` (token embedding times a constant matrix), then the lines under test,
which make ``y``, and a masked sum over the sequence, so that there is a mask.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from passes.graph_io import import_graph
from passes.manager import PassManager
from passes.packed_model import METADATA_KEY
from passes.packing.packed_transformer import PackedTransformer
from passes.packing.tokens.axes import BATCH, SEQ, AxisMap
from passes.packing.tokens.sides import place
from passes.shapes.symbolic import infer_symbolic_shapes
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.runtime.declared import DeclaredSession
from tests.numerics import Arrays, one_by_one, run
from tests.passes.rewrites import copy_of, parse

ROWS, COLUMNS, MOST, LONGEST, HIDDEN = 3, 12, 6, 9, 8
LENGTHS = (5, 9, 1, 7, 2, 9)
PACK_ARGS = {"max_valid_num": MOST, "segment_max_size": LONGEST}
_BEFORE = ("extract_constant_to_initializer", "constant_folding", "eliminate_identity")
TOLERANCE = 1e-5

#: Constants that the lines under test may name: shape, by name. W's are matrices, V's vectors, T's tables.
_WEIGHTS = {
    "W": (HIDDEN, HIDDEN),
    "W1": (HIDDEN, HIDDEN),
    "W4": (HIDDEN, 4),
    "V": (HIDDEN,),
    "V1": (HIDDEN,),
    "K1": (HIDDEN, HIDDEN, 1),
    "K3": (HIDDEN, HIDDEN, 3),
    "P": (1, 32, HIDDEN),
    "T": (64, HIDDEN),
    "M": (1, HIDDEN, HIDDEN),
    "NINE": (1, LONGEST, HIDDEN),
}


def around(body: str, *, opset: int = 17, functions: str = "", head: str = "") -> onnx.ModelProto:
    """The graph with ``body`` in it; ``head`` replaces the masked sum over the sequence."""
    head = head or "masked = Mul (x, column)  pooled = ReduceSum <keepdims = 0> (masked, one)"
    if opset < 13:
        head = "masked = Mul (x, column)  pooled = ReduceSum <keepdims = 0, axes = [1]> (masked)"
    model = parse(
        f"""
        around (int64[batch, seq] ids, int64[batch, seq] mask) => (float y, float pooled) {{
            embedded = Gather (T, ids)
            x = MatMul (embedded, W)
            keep = Cast <to = 1> (mask)
            column = Unsqueeze (keep, last)
            {body}
            {head}
        }}
        {functions}
        """,
        opset=opset,
    )
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")  # the text form says rank 0 where it says nothing
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {name: rng.normal(size=shape).astype(np.float32) for name, shape in _WEIGHTS.items()}
    constants |= {"one": [1], "zero": [0], "two": [2], "last": [-1], "scalar_one": 1, "scalar_zero": 0, "big": [9999]}
    model.graph.initializer.extend(
        numpy_helper.from_array(value if isinstance(value, np.ndarray) else np.array(value, np.int64), name)
        for name, value in constants.items()
        if any(name in node.input for node in _nodes(model.graph))
    )
    return model


def with_constants(model: onnx.ModelProto, constants: Mapping[str, Any]) -> onnx.ModelProto:
    """``model`` with those of ``constants`` that its nodes read."""
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items() if name in read
    )
    return model


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    nodes = list(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                nodes += _nodes(attribute.g)
    return nodes


def packed(model: onnx.ModelProto, **pack_args: Any) -> onnx.ModelProto:
    """The model packed, with the declared shapes of this file, and checked."""
    shapes = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    step = PackedTransformer({**PACK_ARGS, **pack_args}, shapes)
    packed_model = PassManager([*_BEFORE, step]).run(copy_of(model))
    onnx.checker.check_model(packed_model, full_check=True)
    return packed_model


def samples(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> list[Arrays]:
    """Samples of ids and masks of ones."""
    rng = np.random.default_rng(seed)
    return [{"ids": rng.integers(1, 64, n), "mask": np.ones(n, np.int64)} for n in lengths]


def pack(
    batch: Sequence[Mapping[str, np.ndarray[Any, Any]]], rows: int = ROWS, columns: int = COLUMNS, most: int = MOST
) -> Arrays:
    """The samples laid end to end in [rows, columns], and their lengths."""
    feeds: Arrays = {}
    for name in batch[0]:
        stream = np.concatenate([sample[name] for sample in batch])
        feeds[name] = np.pad(stream, (0, rows * columns - len(stream))).reshape(rows, columns)
    info = np.zeros((most, 1), np.int32)
    info[: len(batch), 0] = [len(next(iter(sample.values()))) for sample in batch]
    return {**feeds, "unpack_info": info}


def run_declared(model: onnx.ModelProto, batch: Sequence[Arrays]) -> Arrays:
    """The packed model in stock onnxruntime, in its declared shapes."""
    return run(model, pack(batch))


def run_ragged(model: onnx.ModelProto, batch: Sequence[Arrays]) -> Arrays:
    """The original model converted, compiled and run on the real tokens alone."""
    shapes = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    converted = Converter(input_shape=shapes, pack_args=PACK_ARGS).convert(copy_of(model))
    session = DeclaredSession(Compiler.compile(converted), threads=1)
    names = [value.name for value in converted.graph.output]
    feeds = {name: array.astype(np.int32) for name, array in pack(batch).items()}
    return dict(zip(names, session.run(feeds), strict=True))


def assert_each_is_right(got: Arrays, model: onnx.ModelProto, batch: Sequence[Arrays]) -> None:
    """Row i of each output begins with what the original model gives for sample i alone, unpadded."""
    for row, want in enumerate(one_by_one(model, batch)):
        for name, values in want.items():
            own = got[name][row]
            assert own.ndim == values.ndim, f"{name} of sample {row}: {own.shape} for {values.shape}"
            own = own[tuple(map(slice, values.shape))]
            np.testing.assert_allclose(
                own, values, atol=TOLERANCE, rtol=TOLERANCE, err_msg=f"{name} of sample {row}, {len(values)} long"
            )


def metadata(model: onnx.ModelProto) -> dict[str, Any]:
    """What the packed model says of itself."""
    text = next(item.value for item in model.metadata_props if item.key == METADATA_KEY)
    said: dict[str, Any] = json.loads(text)
    return said


def why_unpacked(model: onnx.ModelProto, tensor: str) -> str | None:
    """Why the node that makes ``tensor`` mixes tokens; None where it treats every token alone."""
    graph = import_graph(PassManager([*_BEFORE]).run(copy_of(model)))
    graph.toposort(mode="nodes")
    shapes: dict[str, list[int | str]] = {name: [str(BATCH), str(SEQ)] for name in ("ids", "mask")}
    axes = AxisMap(graph, infer_symbolic_shapes(graph, shapes))
    placement = place(graph, axes).placement
    node = next(node for node in graph.nodes if any(output.name == tensor for output in node.outputs))
    refusal = placement.reasons.get(id(node))
    return None if refusal is None else refusal.reason

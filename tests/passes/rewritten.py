"""One pass over one small model, judged: valid, the same numbers, nothing left for a second run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from passes import PassManager, get_pass
from passes.base import PassResult
from tests import numerics
from tests.passes.rewrites import copy_of, ops, parse

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Rewritten:
    """What a pass made of a model."""

    model: onnx.ModelProto
    result: PassResult

    @property
    def ops(self) -> list[str]:
        return ops(self.model)

    @property
    def reasons(self) -> list[str]:
        return [str(refusal) for refusal in self.result.refusals]

    @property
    def weights(self) -> dict[str, Array]:
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}


def model_of(text: str, weights: Mapping[str, Array] | None = None, *, opset: int = 17) -> onnx.ModelProto:
    """The graph of ``text`` (onnx's form) with these initializers, which ``text`` may name.

    Outputs that are declared as ``float[] y`` get the shape that they have.
    """
    model = parse(text, opset=opset)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in (weights or {}).items())
    inferred = onnx.shape_inference.infer_shapes(model)
    for declared, output in zip(model.graph.output, inferred.graph.output, strict=True):
        declared.CopyFrom(output)
    return model


def rewrite(
    name: str,
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    *options: Any,
    tolerance: float = 1e-5,
    after_feeds: Mapping[str, Array] | None = None,
) -> Rewritten:
    """Run the pass; the numbers must be those of ``model`` in onnxruntime with its optimiser off."""
    manager = PassManager([get_pass(name, *options)])
    after = manager.run(copy_of(model))
    onnx.checker.check_model(after, full_check=True)
    again = PassManager([get_pass(name, *options)])
    assert again.run(copy_of(model)).SerializeToString() == after.SerializeToString()
    if not options:  # an option may name nodes, which are gone
        assert again.run(copy_of(after)).SerializeToString() == after.SerializeToString()
        assert not again.records[0].result.modified
    expected, actual = numerics.run(model, feeds), numerics.run(after, after_feeds or feeds)
    assert list(actual) == list(expected)
    for output, values in expected.items():
        assert actual[output].dtype == values.dtype, output
        np.testing.assert_allclose(actual[output], values, rtol=tolerance, atol=tolerance, err_msg=output)
    return Rewritten(after, manager.records[0].result)


def refuse(name: str, model: onnx.ModelProto, reason: str, *options: Any) -> None:
    """The pass must leave ``model`` as it is and say ``reason``."""
    manager = PassManager([get_pass(name, *options)])
    after = manager.run(copy_of(model))
    assert sorted(ops(after)) == sorted(ops(model))
    assert not manager.records[0].result.modified
    reasons = [str(refusal) for refusal in manager.records[0].result.refusals]
    assert any(reason in text for text in reasons), reasons


def random(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)

"""Positions stay exact where OpenVINO computes in bfloat16, which has no 257."""

from __future__ import annotations

import openvino

#: What bfloat16 loses little in, or OpenVINO computes in it whatever follows.
_ROUNDED_ANYWAY = frozenset({"MatMul", "Gather", "Convolution"})
_ANGLES = frozenset({"Sin", "Cos"})


def keep_positions_exact(model: openvino.Model) -> None:
    """Keep float32 for what is computed of whole numbers alone, and read as whole numbers or as angles.

    T5 and MPNet find the bucket of a distance so:

        int [L, L] -> Convert (float) -> Log -> Multiply -> Convert (int) -> Gather of the bias

    With the logarithm in bfloat16 distances of 16 and more come into the bucket beside their own. OpenVINO leaves in
    float32 what lies between the last product and an output: each such result is made an output more, that nobody asks
    for, behind those of the graph.
    """
    exact: set[str] = set()
    results = []
    for op in model.get_ordered_ops():
        floats = [value for value in op.input_values() if value.get_element_type().is_real()]
        if not all(value.get_node().get_name() in exact for value in floats) or not _keeps_exact(op):
            continue
        exact.add(op.get_name())
        if floats and (op.get_type_name() in _ANGLES or _is_whole(op)):
            results.append(op.output(0))
    if results:
        model.add_outputs(results)


def _keeps_exact(op: openvino.Node) -> bool:
    kind = op.get_type_name()
    is_float = any(output.get_element_type().is_real() for output in op.outputs())
    return not is_float or kind not in (*_ROUNDED_ANYWAY, "Parameter")


def _is_whole(op: openvino.Node) -> bool:
    """Whether all results of an operator are whole numbers or truths."""
    return bool(op.outputs()) and not any(output.get_element_type().is_real() for output in op.outputs())

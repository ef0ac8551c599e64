"""The built-in passes by name, and the module that each is in. A pass is imported when it is asked for."""

from __future__ import annotations

from typing import Final

#: Pass name -> the module that registers it.
BUILT_IN: Final[dict[str, str]] = {
    "add_checkpoints": "passes.cleanup.graph_outputs",
    "apply_host_concat_split": "passes.fusion.host_concat_split",
    "const_batch_size": "passes.shapes.const_batch_size",
    "const_input_shape": "passes.shapes.const_input_shape",
    "constant_folding": "passes.cleanup.constant_folding",
    "convert_opset": "passes.shapes.convert_opset",
    "eliminate_deadend": "passes.cleanup.eliminate_deadend",
    "eliminate_duplicate_initializer": "passes.cleanup.remove_duplicated_initializer",
    "eliminate_duplicate_nodes": "passes.cleanup.eliminate_duplicate_nodes",
    "eliminate_identity": "passes.cleanup.eliminate_identity",
    "eliminate_nop_cast": "passes.cleanup.eliminate_nop_cast",
    "eliminate_nop_reshape": "passes.cleanup.eliminate_nop_reshape",
    "eliminate_nop_transpose": "passes.cleanup.eliminate_nop_transpose",
    "eliminate_unused_initializer": "passes.cleanup.eliminate_unused_initializer",
    "erf_gelu_pattern": "passes.fusion.erf_gelu_pattern",
    "expand_fused_ops": "passes.fusion.expand_fused_ops",
    "extract_constant_to_initializer": "passes.cleanup.extract_constant_to_initializer",
    "fill_squeeze_axes": "passes.shapes.fill_squeeze_axes",
    "float_to_half": "passes.precision.float_to_half",
    "float_to_int8": "passes.precision.float_to_int8",
    "insert_attention_mask": "passes.packing.insert_attention_mask",
    "int64_to_int32": "passes.precision.int64_to_int32",
    "lift_dynamic_int8": "passes.precision.lift_dynamic_int8",
    "lower_dynamic_int8": "passes.precision.lower_dynamic_int8",
    "packed_transformer": "passes.packing.packed_transformer",
    "remove_duplicated_initializer": "passes.cleanup.remove_duplicated_initializer",
    "remove_initializer_from_input": "passes.cleanup.remove_initializer_from_input",
    "remove_outputs": "passes.cleanup.graph_outputs",
    "shape_inference": "passes.shapes.shape_inference",
    "sort_graph": "passes.cleanup.sort_graph",
    "trace_folding": "passes.shapes.trace_folding",
    "unique_name_for_nodes": "passes.cleanup.unique_name_for_nodes",
}

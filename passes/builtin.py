"""Imports every built-in pass, so that it registers. Importing this module is what `get_registered_passes` does."""
# ruff: noqa: F401

import passes.cleanup.constant_folding
import passes.cleanup.eliminate_deadend
import passes.cleanup.eliminate_duplicate_nodes
import passes.cleanup.eliminate_identity
import passes.cleanup.eliminate_nop_cast
import passes.cleanup.eliminate_nop_reshape
import passes.cleanup.eliminate_nop_transpose
import passes.cleanup.eliminate_unused_initializer
import passes.cleanup.extract_constant_to_initializer
import passes.cleanup.graph_outputs
import passes.cleanup.remove_duplicated_initializer
import passes.cleanup.remove_initializer_from_input
import passes.cleanup.sort_graph
import passes.cleanup.unique_name_for_nodes
import passes.fusion.erf_gelu_pattern
import passes.fusion.expand_fused_ops
import passes.packing.insert_attention_mask
import passes.packing.packed_transformer
import passes.precision.float_to_half
import passes.precision.float_to_int8
import passes.precision.int64_to_int32
import passes.shapes.const_batch_size
import passes.shapes.const_input_shape
import passes.shapes.convert_opset
import passes.shapes.fill_squeeze_axes
import passes.shapes.shape_inference
import passes.shapes.trace_folding

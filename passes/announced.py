"""Names of passes that scripts give and that do nothing here: what each is for, and why nothing is lost.

Asking for one is accepted and announced. A name with a pass of its own is in :mod:`passes.builtin` instead.
"""

from __future__ import annotations

from typing import Final

_WORKAROUND = "it avoids what PopART lacks, and onnxruntime has"
_OPERATOR = "it brings in an operator of the IPU; onnxruntime has the standard one"
_CHECKED = "every converted model is opened in onnxruntime, and --check compares its numbers"

#: Pass name -> why nothing is lost without it: half a sentence, to follow a colon.
ANNOUNCED: Final[dict[str, str]] = {
    "apply_ir_pass": "it runs passes of PopRT's own library; those of its names that mean something are passes here",
    "attention_padding": "it pads attention to the sizes that the IPU likes; onnxruntime takes every size",
    "auto_insert_remap": "it spreads tensors over the tiles of the IPU anew, and a CPU has none",
    "batchnorm_workaround": _WORKAROUND,
    "check_unsupported_attribute": _CHECKED,
    "check_with_fake_data": "--check compares the numbers of both models on sample data",
    "compress_pattern": "it gives Compress a size that is fixed, as the IPU needs; onnxruntime takes any",
    "cumsum_workaround": _WORKAROUND,
    "eight_bits_io": "it moves a normalisation onto the IPU; inputs of uint8 stay uint8 here anyway",
    "final_check": _CHECKED,
    "float_ops_workaround": _WORKAROUND,
    "float_to_fp8": "FP8 needs hardware that onnxruntime does not drive; --precision int8 or bf16 is the thing to use",
    "float_to_mixed": "float_to_half keeps float32 wherever float16 would lose, and --fp16_skip_op_types where you say",
    "fold_periodic_initializer": "it saves memory of the chip; here weights are mapped from the executable's file",
    "fuse_cast_into_onehot": "onnxruntime has OneHot for few types, and the Cast behind it costs next to nothing",
    "indices_workaround": _WORKAROUND,
    "layer_precision_compare": "it is for FP8; --checkpoints makes outputs of tensors, and --check compares them",
    "manual_sharding": "it divides a model between IPUs; here one engine has all of it",
    "matmul_rotary_embedding": "it turns rotations into products, which suit the IPU; on a CPU rotating is cheaper",
    "merge_if_with_same_cond": "it saves code on the IPU; onnxruntime decides each If as it runs, for nothing",
    "merge_moe": "it joins experts that the IPU would run one by one; onnxruntime gives each product all cores",
    "merge_multi_slice": "it joins copies that the IPU plans one by one; onnxruntime's cost what they move, either way",
    "merge_variant_if": "it saves code on the IPU; onnxruntime decides each If as it runs, for nothing",
    "onehot_workaround": _WORKAROUND,
    "overlap_io": "it overlaps transfers to the IPU with its work; a CPU reads its inputs where they are",
    "post_expand": "it saves memory of the chip; onnxruntime broadcasts without a copy where it can",
    "replace_consecutive_cast_with_notzero": _OPERATOR,
    "replace_erf_with_erfv2": _OPERATOR,
    "replace_groupnorm_with_fast_norm": _OPERATOR,
    "replace_half_reducemean": "onnxruntime sums the elements of a mean in float32 on a CPU",
    "replace_isinf": _OPERATOR,
    "replace_nonzero": "it is for an engine without extents that depend on values; onnxruntime has them",
    "replace_round": _OPERATOR,
    "replace_softmax": _OPERATOR,
    "replace_where_mask": "packing reads masks by their values, so one that chooses is as good as one that is added",
    "replace_where_with_mul_add": "it computes both sides, and infinity times zero is NaN; Where is right and cheap",
    "replace_where_with_wherev2": _OPERATOR,
    "serialize_matmul": "it splits products to fit the memory of the IPU",
    "serialize_matmul_add": "it splits products to fit the memory of the IPU",
    "topk_workaround": _WORKAROUND,
}

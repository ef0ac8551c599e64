"""A zoo of tiny encoders that torch exports for the tests. Adding a family is adding a row to FAMILIES.

``export(family, head, exporter, attention, folder=...)`` writes the model once and returns its path; the ``exported``
fixture does that with a folder that all workers of a test run share. Importing this file needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

#: What a model gives: (output name, shape) by head; B batch, S sequence, H hidden, L labels.
HEADS = {
    "qa": "start_logits and end_logits [B, S]",
    "sequence": "logits [B, L]",
    "token": "logits [B, S, L]",
    "mean": "sentence_embedding [B, H], the mean over the mask, of unit length",
    "hidden": "last_hidden_state [B, S, H]",
    "pooled": "pooler_output [B, H]",
}
EXPORTERS = ("torch-old", "torch-new", "transformers-onnx")
#: The opsets that an exporter writes by itself; to others it would have its result converted.
OPSETS = {"torch-old": range(9, 21), "torch-new": range(18, 24), "transformers-onnx": range(9, 21)}
LABELS = 3
VOCAB = 1000
_ALL = ("qa", "sequence", "token", "mean", "hidden", "pooled")
_NO_POOLER = _ALL[:-1]
_BODY = ("mean", "hidden")
_BOTH = ("eager", "sdpa")
_EAGER = ("eager",)
_NEW = ("torch-new",)
_MASK = "the TorchScript exporter cannot trace how transformers makes its causal mask"


@dataclass(frozen=True)
class Family:
    """One architecture of transformers, small.

    Attributes:
        model_type: its name in transformers' CONFIG_MAPPING.
        sizes: config fields beyond the usual ones, or by another name.
        heads: heads that the family has.
        attention: attention implementations that it has.
        exporters: exporters that manage it.
        types: whether token_type_ids is an input.
        without: usual config fields that the family refuses.
        leaks: why padding changes the family's own results; "" where it does not. Packing has no padding to leak.
        note: why something is missing.
    """

    model_type: str
    sizes: dict[str, object] = field(default_factory=dict)
    heads: tuple[str, ...] = _NO_POOLER
    attention: tuple[str, ...] = _EAGER
    exporters: tuple[str, ...] = EXPORTERS[:2]
    types: bool = False
    without: tuple[str, ...] = ()
    leaks: str = ""
    note: str = ""


_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}

# Left out, with transformers 4.57: fnet has no mask input; canine and longformer export the length they were traced
# with, whichever the exporter; funnel halves the sequence between its blocks.
FAMILIES: dict[str, Family] = {
    "bert": Family("bert", heads=_ALL, attention=_BOTH, exporters=EXPORTERS, types=True),
    "roberta": Family("roberta", {"pad_token_id": 1}, heads=_ALL, attention=_BOTH),
    "distilbert": Family("distilbert", {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}, attention=_BOTH),
    "albert": Family("albert", {"embedding_size": 32}, heads=_ALL, attention=_BOTH, types=True),
    "electra": Family("electra", {"embedding_size": 32}, types=True),
    "mpnet": Family("mpnet", {"pad_token_id": 1}, heads=_ALL),
    "xlm-roberta": Family("xlm-roberta", {"pad_token_id": 1}, heads=_ALL, attention=_BOTH),
    "camembert": Family("camembert", {"pad_token_id": 1}, heads=_ALL, attention=_BOTH),
    "deberta": Family(
        "deberta", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
    ),
    "deberta-v2": Family(
        "deberta-v2",
        {
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_buckets": 32,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
        },
    ),
    "t5-encoder": Family("t5", {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}, heads=_BODY),
    "umt5-encoder": Family(
        "umt5", {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}, heads=_BODY
    ),
    "modernbert": Family(
        "modernbert",
        {"global_attn_every_n_layers": 2, "local_attention": 8, "reference_compile": False},
        attention=_BOTH,
    ),
    "ernie": Family("ernie", heads=_ALL, types=True),
    "data2vec-text": Family("data2vec-text", {"pad_token_id": 1}, heads=_ALL),
    "esm": Family(
        "esm",
        {"pad_token_id": 1, "mask_token_id": 4, "token_dropout": False, "position_embedding_type": "rotary"},
        heads=("sequence", "token", "mean", "hidden"),
    ),
    "megatron-bert": Family("megatron-bert", heads=_ALL, types=True),
    "roberta-prelayernorm": Family("roberta-prelayernorm", {"pad_token_id": 1}, heads=_ALL),
    "rembert": Family("rembert", {"input_embedding_size": 32, "output_embedding_size": 32}, heads=_ALL),
    "roformer": Family("roformer", {"embedding_size": 64}),
    "convbert": Family(
        "convbert",
        {"embedding_size": 64, "num_groups": 1, "conv_kernel_size": 5},
        leaks="its convolution reaches over the last token",
    ),
    "mobilebert": Family(
        "mobilebert",
        {"embedding_size": 32, "true_hidden_size": 32, "intra_bottleneck_size": 32},
        heads=_ALL,
        leaks="it joins the embeddings of neighbouring tokens",
    ),
    "squeezebert": Family("squeezebert", {"embedding_size": 64}, heads=_ALL),
    "splinter": Family("splinter", heads=_BODY),
    "layoutlm": Family("layoutlm", heads=_ALL),
    "bert-generation": Family("bert-generation", heads=_BODY),
    "ibert": Family("ibert", {"pad_token_id": 1, "quant_mode": False}, heads=_ALL),
    "nystromformer": Family(
        "nystromformer", {"num_landmarks": 8, "segment_means_seq_len": 8}, leaks="its convolution reads padding"
    ),
    "yoso": Family("yoso", leaks="its convolution reads padding"),
    "xlm": Family("xlm", {"emb_dim": 64, "n_layers": 2, "n_heads": 4, "n_langs": 1, "pad_index": 2}),
    "flaubert": Family("flaubert", {"emb_dim": 64, "n_layers": 2, "n_heads": 4, "pad_index": 2}),
    "xlnet": Family(
        "xlnet",
        {"d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128},
        without=("max_position_embeddings",),
        exporters=("torch-old",),
        note="torch.export refuses its open sequence",
    ),
    "big_bird": Family("big_bird", {"attention_type": "original_full"}, heads=_ALL),
    "gpt2": Family(
        "gpt2",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
        heads=("token", "mean", "hidden"),
        attention=_BOTH,
        exporters=_NEW,
        note=_MASK,
    ),
    "qwen3": Family(
        "qwen3", {"num_key_value_heads": 2, "head_dim": 16}, heads=_BODY, attention=_BOTH, exporters=_NEW, note=_MASK
    ),
    "mistral": Family(
        "mistral", {"num_key_value_heads": 2, "head_dim": 16}, heads=_BODY, attention=_BOTH, exporters=_NEW, note=_MASK
    ),
    "clip-text": Family("clip_text_model", heads=_ALL[3:], attention=_BOTH),
    "xlm-roberta-xl": Family("xlm-roberta-xl", {"pad_token_id": 1}, heads=_ALL),
    "markuplm": Family("markuplm", heads=_ALL),
    "opt": Family("opt", {"ffn_dim": 128, "word_embed_proj_dim": 64}, heads=_BODY, attention=_BOTH),
    "llama": Family("llama", {"num_key_value_heads": 2}, heads=_BODY, attention=_BOTH, exporters=_NEW, note=_MASK),
}


def export(
    family: str,
    head: str = "hidden",
    exporter: str = "torch-old",
    attention: str = "eager",
    *,
    opset: int | None = None,
    folder: Path,
) -> Path:
    """The path of the exported model, made on the first call; several processes may call at once.

    The inputs are int64 [batch, seq]: input_ids, attention_mask, and token_type_ids where the family has segments.
    Both dimensions are open. Weights are random and the same each time. Without an ``opset`` it is the exporter's own.

    Raises:
        ValueError: a combination that the table does not hold.
    """
    row = FAMILIES[family]
    for option, value, choices in (
        ("head", head, row.heads),
        ("exporter", exporter, row.exporters),
        ("attention", attention, row.attention),
    ):
        if value not in choices:
            raise ValueError(f"{family} has no {option} {value!r}, only {', '.join(choices)}. {row.note}")
    from filelock import FileLock  # comes with torch

    path = folder / f"{family}.{head}.{exporter}.{attention}{f'.{opset}' if opset else ''}.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            from tests import torch_export

            torch_export.write(row, head, exporter, attention, path, opset=opset)
    return path


def config_fields(row: Family, head: str) -> dict[str, object]:
    """The fields for the family's config class."""
    fields = {**_SIZES, "num_labels": 2 if head == "qa" else LABELS, **row.sizes}
    return {name: value for name, value in fields.items() if name not in row.without}

"""Front ends that change the length, where they cannot be cut from the encoder, and what is said then."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.errors import PackingError
from passes.graph_io import import_graph
from passes.ops import DOMAIN
from passes.packed_model import PackedModel
from passes.packing.packed_transformer import PackedTransformer
from poprt.converter import Converter
from tests.passes.rewrites import copy_of
from tests.poprt.runtime.subsampled_models import COLUMNS, KINDS, MOST, encoder, shapes_of

STRIDES = "strides, sum of the mask"


def packed(model: onnx.ModelProto, **args: Any) -> onnx.ModelProto:
    return PackedTransformer({"max_valid_num": MOST, "segment_max_size": COLUMNS, **args}).run(copy_of(model))


@pytest.mark.parametrize("kind", KINDS)
def test_the_front_end_runs_on_rows_and_the_encoder_on_what_it_leaves(kind: str) -> None:
    model = packed(encoder(kind))
    said = PackedModel.read(model)
    assert said is not None
    assert said.subsampling == KINDS[kind].subsampling
    assert said.outputs == {"hidden": "tokens", "pooled": "sample"}
    ours = [node for node in model.graph.node if node.domain == DOMAIN]
    lengths = {node.input[-1] for node in ours}
    assert len(lengths) == 2  # those of the samples, and those of their places
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in ("W", "W1", "W2")]
    assert len(products) == 3
    assert all(_comes_packed(model, node.input[0]) for node in products)


def _comes_packed(model: onnx.ModelProto, name: str) -> bool:
    """Whether a Repack is the last crossing before a tensor."""
    maker = next((node for node in model.graph.node if name in node.output), None)
    if maker is None or maker.domain == DOMAIN:
        return maker is not None and maker.op_type == "Repack"
    return any(_comes_packed(model, before) for before in maker.input)


def test_a_run_twice_gives_the_same_bytes() -> None:
    first, second = (packed(encoder(STRIDES)).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_packing_again_does_nothing() -> None:
    once = packed(encoder(STRIDES))
    assert packed(once).SerializeToString() == once.SerializeToString()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"segment_max_size": 6}, "leaves nothing of segment_max_size=6 tokens; use segment_max_size=7 or more"),
        ({"segment_max_size": [20, 28]}, "changes the length of a sample, and samples have several segments"),
    ],
)
def test_packs_that_do_not_go_with_a_front_end_are_refused(args: dict[str, Any], message: str) -> None:
    with pytest.raises(PackingError, match=message):
        packed(encoder(STRIDES), **args)


def test_advice_on_the_length_helps() -> None:
    said = PackedModel.read(packed(encoder(STRIDES), segment_max_size=7))
    assert said is not None
    assert said.places(7) == 1


def test_an_output_made_before_the_encoder_is_named() -> None:
    model = encoder(STRIDES)
    model.graph.output.append(onnx.helper.make_tensor_value_info("c1", onnx.TensorProto.FLOAT, ["batch", 8, "half"]))
    with pytest.raises(PackingError, match=r"output 'c1' .* is made before the encoder.*--remove_outputs"):
        packed(model)


def test_tokens_that_pass_the_front_end_by_are_named() -> None:
    with pytest.raises(PackingError, match="reaches the encoder, which has other places than the inputs"):
        packed(_with_tokens_beside(3))


def test_where_tokens_pass_by_what_packs_without_a_front_end_does() -> None:
    step = PackedTransformer({"max_valid_num": MOST, "segment_max_size": COLUMNS})
    graph = import_graph(_with_tokens_beside(1))  # a product of each token
    reasons = [str(refusal) for refusal in step.apply(graph).refusals]
    assert any("packed by the places of the tokens" in reason and "reaches the encoder" in reason for reason in reasons)
    said = PackedModel.read(graph)
    assert said is not None
    assert said.subsampling == (1, 1, 0)
    assert said.packed_flops


def test_answers_for_each_token_behind_a_token_put_in_front_have_the_tokens_places() -> None:
    model = encoder("a token put in front")
    model.graph.node.append(onnx.helper.make_node("Slice", ["hidden", "one", "far_end", "one"], ["of_tokens"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1 << 40]), "far_end"))
    del model.graph.output[:]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("of_tokens", onnx.TensorProto.FLOAT, ["batch", "n", 8])
    )
    said = PackedModel.read(packed(model))
    assert said is not None
    assert said.outputs == {"of_tokens": "tokens"}
    assert said.places(5) == 5


def test_where_the_encoder_does_not_pack_by_itself_what_packs_without_a_front_end_does() -> None:
    """Behind the encoder stands the number of tokens, which nobody can tell by its places."""
    model = encoder("windows of four pooled")
    hidden = next(node for node in model.graph.node if node.output[0] == "hidden")
    hidden.output[0] = "hidden_alone"
    more = [
        onnx.helper.make_node("Shape", ["features"], ["tokens"], start=1, end=2),
        onnx.helper.make_node("Cast", ["tokens"], ["number"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Mul", ["hidden_alone", "number"], ["hidden"]),
    ]
    model.graph.node.extend(more)
    said = PackedModel.read(packed(_sorted(model)))
    assert said is not None
    assert said.subsampling == (1, 1, 0)
    assert said.packed_flops


def _with_tokens_beside(kernel: int) -> onnx.ModelProto:
    """The places attend to tokens of a convolution over the inputs."""
    model = encoder(STRIDES)
    attend = next(node for node in model.graph.node if node.op_type == "Add" and node.output[0] == "hidden")
    attend.output[0] = "hidden_alone"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((8, 6, kernel), np.float32), "F"))
    model.graph.node.extend(
        [
            onnx.helper.make_node("Conv", ["channels", "F"], ["turned_tokens"], pads=[kernel // 2] * 2),
            onnx.helper.make_node("Transpose", ["turned_tokens"], ["of_tokens"], perm=[0, 2, 1]),
            onnx.helper.make_node("MatMul", ["hidden_alone", "turned_tokens"], ["scores_of_tokens"]),
            onnx.helper.make_node("MatMul", ["scores_of_tokens", "of_tokens"], ["attended"]),
            onnx.helper.make_node("Add", ["attended", "hidden_alone"], ["hidden"]),
        ]
    )
    return _sorted(model)


def _sorted(model: onnx.ModelProto) -> onnx.ModelProto:
    return gs.export_onnx(gs.import_onnx(model).toposort())


def test_rows_that_samples_share_are_refused_with_the_other_layout_as_advice() -> None:
    options = {"used_passes": ["insert_attention_mask"], "disable_progress_bar": True}
    with pytest.raises(PackingError, match="leave out insert_attention_mask and give --pack_args"):
        Converter(input_shape=shapes_of(encoder(STRIDES)), **options).convert(encoder(STRIDES))

"""Executables that do not say how they are packed: a script wrote the operators by hand, or there are none.

The reference is always the model without packing, one sample alone and unpadded.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.errors import PoprtError
from poprt.executable import Executable, PackOperators
from poprt.runtime import PackAlgorithm, PackRunner, PackRunnerConfig
from tests.numerics import Arrays, one_by_one

ROWS, COLUMNS, HIDDEN, MOST = 3, 16, 8, 7
LENGTHS = [5, 9, 1, 16, 7, 3, 3, 12, 2, 11, 4]
SOON = 20
TOKENS = f"int32[{ROWS},{COLUMNS}]"
INFO = f"int32[{MOST},1] unpack_info"

EMBED = """
    words = Gather (table, input_ids)
    places = Gather (positions, position_ids)
    x = Add (words, places)
"""
PROJECT = """
    query = MatMul (x, wq)
    key = MatMul (x, wk)
    value = MatMul (x, wv)
"""
#: From scores [R, C, C] and a bias of the same rank.
ATTEND = """
    turned = Transpose <perm = [0, 2, 1]> (key)
    scores = MatMul (query, turned)
    biased = Add (scores, bias)
    shares = Softmax <axis = -1> (biased)
    context = MatMul (shares, value)
"""
PLAIN_BIAS = """
    float_mask = Cast <to = 1> (mask)
    absent = Sub (one, float_mask)
    flat_bias = Mul (absent, low)
    axes = Constant <value_ints = [1]> ()
    bias = Unsqueeze (flat_bias, axes)
"""
BY_HAND = """
    bias4 = ai.graphcore.AttentionMask <dataType = "FLOAT"> (attention_mask, x)
    heads = Constant <value_ints = [1]> ()
    bias = Squeeze (bias4, heads)
"""
UNPACK = f"<max_valid_num = {MOST}, segment_max_size = [{COLUMNS}]>"
REPACK = f"<segment_max_size = [{COLUMNS}]>"
HIDDEN_OUT = "y = Add (context, x)"
FIRST = "first = Constant <value_int = 0> () y = Gather <axis = 1> (h, first)"
POOLED_HEAD = f"h = Add (context, x) {FIRST}"


def model(body: str, inputs: str, outputs: str) -> onnx.ModelProto:
    """A model of one attention; its weights do not depend on the text."""
    rng = np.random.default_rng(3)
    weights = {
        "table": rng.standard_normal((50, HIDDEN)),
        "positions": rng.standard_normal((COLUMNS, HIDDEN)),
        **{name: rng.standard_normal((HIDDEN, HIDDEN)) * 0.7 for name in ("wq", "wk", "wv")},
        "one": np.array(1.0),
        "low": np.array(-10000.0),
    }
    text = f'<ir_version: 8, opset_import: ["": 17, "ai.graphcore": 1]> g ({inputs}) => ({outputs}) {{ {body} }}'
    proto: onnx.ModelProto = onnx.parser.parse_model(text)
    used = {name for node in proto.graph.node for name in node.input}
    arrays = {name: array.astype(np.float32) for name, array in weights.items() if name in used}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return proto


def three(extents: str) -> str:
    return ", ".join(f"int32[{extents}] {name}" for name in ("input_ids", "attention_mask", "position_ids"))


def original(head: str = HIDDEN_OUT, output: str = "float[n, s, h] y") -> onnx.ModelProto:
    return model(
        EMBED + PROJECT + PLAIN_BIAS.replace("(mask)", "(attention_mask)") + ATTEND + head, three("n, s"), output
    )


def plain(head: str = HIDDEN_OUT, output: str = f"float[{ROWS},{COLUMNS},{HIDDEN}] y", mask: str = PLAIN_BIAS) -> Any:
    body = EMBED + PROJECT + mask.replace("(mask)", "(attention_mask)") + ATTEND + head
    return model(body, three(f"{ROWS}, {COLUMNS}"), output)


def with_attention_mask() -> onnx.ModelProto:
    return plain(mask=BY_HAND)


def with_a_final_unpack() -> onnx.ModelProto:
    head = f"h = Add (context, x) u = ai.graphcore.Unpack {UNPACK} (h, unpack_info) {FIRST.replace('h,', 'u,')}"
    body = EMBED + PROJECT + BY_HAND + ATTEND + head
    return model(body, f"{three(f'{ROWS}, {COLUMNS}')}, {INFO}", f"float[{MOST},{HIDDEN}] y")


def across_rows() -> onnx.ModelProto:
    """Attention unpacked, the residual packed, and unpacked at the end."""
    crossing = "\n".join(
        f"{new} = ai.graphcore.Unpack {UNPACK} ({old}, unpack_info)"
        for old, new in (("q0", "query"), ("k0", "key"), ("v0", "value"), ("attention_mask", "own_mask"))
    )
    project = PROJECT.replace("query", "q0").replace("key", "k0").replace("value", "v0")
    bias = PLAIN_BIAS.replace("(mask)", "(own_mask)")
    tail = f"""
        packed = ai.graphcore.Repack {REPACK} (context, x, unpack_info)
        h = Add (packed, x)
        y = ai.graphcore.Unpack {UNPACK} (h, unpack_info)
    """
    body = EMBED + project + crossing + bias + ATTEND + tail
    return model(body, f"{three(f'{ROWS}, {COLUMNS}')}, {INFO}", f"float[{MOST},{COLUMNS},{HIDDEN}] y")


def samples(lengths: list[int] = LENGTHS) -> list[Arrays]:
    rng = np.random.default_rng(0)
    return [
        {
            "input_ids": rng.integers(1, 50, length).astype(np.int32),
            "attention_mask": np.ones(length, np.int32),
            "position_ids": np.arange(length, dtype=np.int32),
        }
        for length in lengths
    ]


def served(executable: Executable, config: PackRunnerConfig, requests: list[Arrays], like: list[Any]) -> list[Any]:
    """The answers to requests from several threads."""
    outputs = [np.full_like(array, 9) for array in like]
    with PackRunner(executable, config) as runner, ThreadPoolExecutor(5) as pool:
        pairs = zip(requests, outputs, strict=True)
        futures = list(pool.map(lambda pair: runner.execute_async(pair[0], {"y": pair[1]}), pairs))
        for future in futures:
            future.wait(SOON)
    return outputs


def check(proto: onnx.ModelProto, config: PackRunnerConfig, reference: onnx.ModelProto, **options: Any) -> None:
    requests = samples()
    expected = [answer["y"] for answer in one_by_one(reference, requests)]
    fed = options.get("feeds", lambda sample: sample)
    answers = served(Compiler.compile(proto), config, [fed(sample) for sample in requests], expected)
    for got, own in zip(answers, expected, strict=True):
        np.testing.assert_allclose(got, own, rtol=0, atol=options.get("tolerance", 1e-4))


def config(mode: bool = True, **options: Any) -> PackRunnerConfig:
    made_of = PackRunnerConfig(timeout_microseconds=2000, **options)
    if mode:
        made_of.enable_input_single_row_mode("attention_mask")
    return made_of


@pytest.mark.parametrize("algorithm", PackAlgorithm)
@pytest.mark.parametrize("delimiter", [0, 1, 2])
def test_an_attention_mask_by_hand_packs_within_rows(algorithm: PackAlgorithm, delimiter: int) -> None:
    options = PackRunnerConfig(2000, 40, "input_ids")
    options.algorithm = algorithm
    options.enable_input_single_row_mode("attention_mask", "", delimiter)
    check(with_attention_mask(), options, original())


@pytest.mark.parametrize("build", [with_attention_mask, with_a_final_unpack, across_rows, plain])
def test_a_conversion_afterwards_leaves_it_packable(build: Any) -> None:
    converted = Converter(precision="fp16", disable_progress_bar=True).convert(build())
    options = config(build in (with_attention_mask, with_a_final_unpack), dynamic_input_name="input_ids")
    pooled = build is with_a_final_unpack
    reference = original(POOLED_HEAD, "float[n, h] y") if pooled else original()
    check(converted, options, reference, tolerance=2e-2)


def test_the_graph_tells_what_its_operators_are() -> None:
    assert Compiler.compile(with_attention_mask()).manifest.pack_operators == PackOperators(
        True, ("attention_mask",), (), 0, (), ()
    )
    unpacked = Compiler.compile(with_a_final_unpack()).manifest.pack_operators
    assert unpacked == PackOperators(True, ("attention_mask",), ("unpack_info",), MOST, (COLUMNS,), ("y",))
    assert Compiler.compile(plain()).manifest.pack_operators is None


def test_an_executable_from_a_file_packs_the_same(tmp_path: Any) -> None:
    Compiler.compile_and_export(with_a_final_unpack(), ["y"], tmp_path / "m.popef")
    loaded = Executable(tmp_path / "m.popef")
    assert loaded.manifest == Compiler.compile(with_a_final_unpack()).manifest


@pytest.mark.parametrize("delimiter", [0, 1])
def test_an_unpack_by_hand_gives_each_sample_a_row(delimiter: int) -> None:
    options = PackRunnerConfig(2000)
    options.enable_input_single_row_mode("attention_mask", "unpack_info", delimiter)
    lengths = np.zeros(MOST, np.int32)
    check(
        with_a_final_unpack(),
        options,
        original(POOLED_HEAD, "float[n, h] y"),
        feeds=lambda sample: {**sample, "unpack_info": lengths},
    )


@pytest.mark.parametrize(
    "options", [PackRunnerConfig(2000), PackRunnerConfig(2000, 4, "input_ids")], ids=["bare", "named"]
)
def test_unpack_and_repack_by_hand_pack_across_rows(options: PackRunnerConfig) -> None:
    check(across_rows(), options, original())
    with PackRunner(Compiler.compile(across_rows()), options) as runner:
        assert runner.stats().packs == 0  # what was tried does not count


def test_packs_across_rows_hold_several_samples() -> None:
    requests = samples([5, 4, 3])
    with PackRunner(Compiler.compile(across_rows()), PackRunnerConfig(10**6, send_when_idle=False)) as runner:
        for future in runner.submit([(sample, {}) for sample in [*requests, *samples([16, 16, 3])]]):
            future.wait(SOON)
        assert runner.stats().packs == 1


@pytest.mark.parametrize("mode", [False, True])
def test_without_any_operator_of_packing_a_row_takes_one_sample(mode: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "poprt"):
        check(plain(), config(mode, dynamic_input_name="input_ids"), original())
    assert ("changes with its company" in caplog.text) is mode


@pytest.mark.parametrize("mask", [PLAIN_BIAS, BY_HAND], ids=["plain", "by_hand"])
def test_a_pooled_head_without_an_unpack_takes_one_sample_a_row(mask: str) -> None:
    pooled = plain(POOLED_HEAD, f"float[{ROWS},{HIDDEN}] y", mask)
    check(pooled, config(dynamic_input_name="input_ids"), original(POOLED_HEAD, "float[n, h] y"))


@pytest.mark.parametrize("unpacked", [False, True])
def test_a_row_of_as_many_values_as_columns_is_the_samples(unpacked: bool) -> None:
    """Embeddings of as many values as a row has places: nothing in the shape tells them from a value a place."""
    wide = np.random.default_rng(5).standard_normal((HIDDEN, COLUMNS)).astype(np.float32)
    read, unpack = "h", ""
    if unpacked:
        read, unpack = "u", f"u = ai.graphcore.Unpack {UNPACK} (h, unpack_info)"
    first = f"first = Constant <value_int = 0> () p = Gather <axis = 1> ({read}, first) y = MatMul (p, wide)"
    inputs = three(f"{ROWS}, {COLUMNS}") + (f", {INFO}" if unpacked else "")
    head = f"h = Add (context, x) {unpack} {first}"
    output = f"float[{MOST if unpacked else ROWS}, {COLUMNS}] y"
    proto = model(EMBED + PROJECT + BY_HAND + ATTEND + head, inputs, output)
    reference = original(head.replace(unpack, "").replace("(u,", "(h,"), "float[n, w] y")
    for each in (proto, reference):
        each.graph.initializer.append(numpy_helper.from_array(wide, "wide"))
    check(proto, config(), reference)


def test_what_treats_each_token_alone_shares_rows_in_single_row_mode(caplog: pytest.LogCaptureFixture) -> None:
    text = f"g ({TOKENS} ids, {TOKENS} mask) => (int32[{ROWS},{COLUMNS}] y) {{ y = Add (ids, ids) }}"
    options = PackRunnerConfig(10**6, send_when_idle=False, dynamic_input_name="ids")
    options.enable_input_single_row_mode("mask")
    outputs = [np.zeros(length, np.int32) for length in (7, 8, 16, 16)]
    with PackRunner(Compiler.compile(parse(text)), options) as runner:
        requests = [{"ids": np.arange(len(out)), "mask": np.ones(len(out), int)} for out in outputs]
        for future in runner.submit(list(zip(requests, [{"y": out} for out in outputs], strict=True))):
            future.wait(0.5 * SOON)
        assert runner.stats().packs == 1
    assert [out.tolist() for out in outputs] == [list(range(0, 2 * len(out), 2)) for out in outputs]
    assert not caplog.records


def parse(text: str) -> onnx.ModelProto:
    proto: onnx.ModelProto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    return proto


def test_padded_requests_are_cut_to_what_their_mask_marks() -> None:
    options = config(dynamic_input_name="input_ids")
    options.enable_padding_remove_mode("attention_mask", ["input_ids", "position_ids"])
    check(
        with_attention_mask(),
        options,
        original(),
        feeds=lambda sample: {name: np.pad(a, (0, COLUMNS - len(a)))[None] for name, a in sample.items()},
    )


def test_missing_positions_are_counted() -> None:
    check(
        with_attention_mask(),
        config(),
        original(),
        feeds=without_positions,
    )


def without_positions(sample: Arrays) -> Arrays:
    return {name: array for name, array in sample.items() if name != "position_ids"}


def test_a_model_that_counts_positions_by_columns_shares_no_rows(caplog: pytest.LogCaptureFixture) -> None:
    embed = "words = Gather (table, input_ids) x = Add (words, positions)"
    body = embed + PROJECT + BY_HAND + ATTEND + HIDDEN_OUT
    inputs = ", ".join(f"{TOKENS} {name}" for name in ("input_ids", "attention_mask"))
    proto = model(body, inputs, f"float[{ROWS},{COLUMNS},{HIDDEN}] y")
    with caplog.at_level(logging.WARNING, "poprt"):
        check(proto, config(), original(), feeds=without_positions)
    assert "changes with its company" in caplog.text


def test_a_model_whose_padding_shows_is_refused() -> None:
    bare = model(
        EMBED + "s = ReduceMean <axes = [1], keepdims = 0> (x) y = Identity (s)",
        three(f"{ROWS}, {COLUMNS}"),
        f"float[{ROWS},{HIDDEN}] y",
    )
    with pytest.raises(PoprtError, match=r"output 'y' of a sample changes with what stands behind it.*pack_args"):
        PackRunner(Compiler.compile(bare), config(dynamic_input_name="input_ids"))


@pytest.mark.parametrize(
    ("set_up", "message"),
    [
        (lambda: PackRunnerConfig(), "not packed.*dynamic_input_name"),
        (lambda: PackRunnerConfig(dynamic_input_name="ids"), "dynamic_input_name: 'ids' is no input.*input_ids"),
        (lambda: single("mask"), "mask_name: 'mask' is no input"),
        (lambda: single("attention_mask", "lengths"), "unpack_info_name: 'lengths' is no input"),
        (lambda: single("attention_mask", "input_ids"), "'input_ids' holds 16 lengths a sample; expected 1"),
        (lambda: padding("attention_mask", ["types"]), "enable_padding_remove_mode: 'types' is no input"),
    ],
    ids=["nothing", "leader", "mask", "lengths", "no_lengths", "padded"],
)
def test_an_option_that_does_not_fit_is_refused_by_name(set_up: Any, message: str) -> None:
    with pytest.raises(PoprtError, match=message):
        PackRunner(Compiler.compile(plain()), set_up())


def single(*names: str) -> PackRunnerConfig:
    options = PackRunnerConfig()
    options.enable_input_single_row_mode(*names)
    return options


def padding(mask: str, names: list[str]) -> PackRunnerConfig:
    options = PackRunnerConfig()
    options.enable_padding_remove_mode(mask, names)
    return options


def test_a_mask_that_does_not_number_the_samples_is_refused() -> None:
    with pytest.raises(PoprtError, match=r"'position_ids' does not number the samples.*'attention_mask'"):
        PackRunner(Compiler.compile(with_attention_mask()), single("position_ids"))


def test_another_input_of_lengths_than_the_graphs_is_refused() -> None:
    with pytest.raises(PoprtError, match="'input_ids' is not what Unpack reads, which is 'unpack_info'"):
        PackRunner(Compiler.compile(with_a_final_unpack()), single("attention_mask", "input_ids"))


def test_an_input_that_no_sample_has_is_refused_by_name() -> None:
    body = "f = Cast <to = 1> (ids) s = ReduceMax <keepdims = 0> (scale) y = Mul (f, s)"
    text = f"g ({TOKENS} ids, float[4] scale) => (float[{ROWS},{COLUMNS}] y) {{ {body} }}"
    with pytest.raises(PoprtError, match=r"cannot feed 'scale' \[4\].*'ids'"):
        PackRunner(Compiler.compile(parse(text)), PackRunnerConfig(dynamic_input_name="ids"))


def test_an_input_of_open_extents_is_refused_by_name() -> None:
    with pytest.raises(PoprtError, match=r"'input_ids' has open extents.*input_shape"):
        PackRunner(Compiler.compile(original()), PackRunnerConfig(dynamic_input_name="input_ids"))


def test_a_sample_longer_than_a_row_fails_alone() -> None:
    with PackRunner(Compiler.compile(with_attention_mask()), config()) as runner:
        (long, short) = samples([COLUMNS + 1, 3])
        with pytest.raises(PoprtError, match="17 tokens, at most 16"):
            runner.execute(long, {"y": np.zeros((17, HIDDEN), np.float32)})
        runner.execute(short, {"y": np.zeros((3, HIDDEN), np.float32)})

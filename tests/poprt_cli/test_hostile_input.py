"""Options, models and pass files that are wrong in odd ways: one line that names the culprit, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import Result
from onnx import numpy_helper

from models.bert import SIZES, BertConfig, build_bert
from passes.packed_model import METADATA_KEY
from poprt.converter import Converter
from tests.passes.rewrites import parse
from tests.poprt_cli.command import Poprt

NAMES = ("input_ids", "attention_mask", "token_type_ids")
SHAPES = [f"{name}=4,64" for name in NAMES]
PASS_FILE = "from passes import Pass, register\n\n@register('{name}')\nclass Mine(Pass):\n    def run(self, model):\n"


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "bert.onnx"
    sizes = {**SIZES["tiny"], "layers": 1}
    onnx.save(build_bert(BertConfig(**sizes, head="qa")), str(path))
    return path


def assert_one_line(result: Result, *texts: str) -> None:
    assert result.exit_code != 0
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("poprt: error: ")
    assert all(text in lines[0] for text in texts), lines[0]


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["--input_shape", "input_ids=²,64"], ["input_ids=²,64", "positive whole numbers"]),
        (["--input_shape", f"input_ids=4,{2**63}"], ["positive whole numbers up to 2147483647"]),
        (["--input_shape", "input_ids=4," + "9" * 5000], ["positive whole numbers"]),
        (["--batch_size", str(2**63)], ["--batch_size"]),
        (["--convert_version", str(2**40)], ["1099511627776"]),
        (["--pack_args", f"max_valid_num={2**63}", "segment_max_size=64"], ["max_valid_num", "2147483647"]),
        (["--pack_args", "max_valid_num=²", "segment_max_size=64"], ["max_valid_num='²'"]),
        (["--pack_args", "max_valid_num=4", f"segment_max_size=13+{2**64}"], ["segment_max_size"]),
        (["--pack_args", "max_valid_num=1000000000", "segment_max_size=64"], ["[4, 64]", "max_valid_num=256 or less"]),
        (
            ["--pack_args", "max_valid_num=257", "segment_max_size=64", "--passes", "insert_attention_mask"],
            ["[4, 64]", "max_valid_num=256 or less"],
        ),
    ],
    ids=lambda value: value[1][:40] if len(value) > 1 else "",
)
def test_a_number_beyond_sense_is_one_line(poprt: Poprt, model_path: Path, words: list[str], texts: list[str]) -> None:
    shapes = [] if "--input_shape" in words else ["--input_shape", *SHAPES]
    result = poprt("-i", model_path, *shapes, *words)
    assert_one_line(result, *texts)


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"input_shape": {"input_ids": [4, 2**31]}}, "input_shape of 'input_ids'"),
        ({"input_shape": {"input_ids": [True, 4]}}, "input_shape of 'input_ids'"),
        ({"input_shape": {"input_ids": "44"}}, "input_shape of 'input_ids'"),
        ({"batch_size": 2**63}, "batch_size"),
        ({"batch_axis": 2**63}, "batch_axis"),
        ({"convert_version": 2**63}, "convert_version"),
    ],
)
def test_a_keyword_beyond_sense_is_named(keywords: dict[str, object], text: str) -> None:
    with pytest.raises(Exception, match=text) as error:
        Converter(**keywords)  # type: ignore[arg-type]
    assert type(error.value).__name__ == "RewriteError"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = (\n", ["SyntaxError", "line 1"]),
        ("\nimport no_such_module_here\n", ["ModuleNotFoundError", "line 2"]),
        ("\n\nraise ValueError('two\\nlines')\n", ["ValueError: two lines", "line 3"]),
        ("raise SystemExit(0)\n", ["SystemExit", "line 1"]),
    ],
)
@pytest.mark.parametrize("option", ["--custom_pass_config", "--custom_shape_inference"])
def test_a_custom_file_that_raises_is_one_line_with_its_place(
    poprt: Poprt, model_path: Path, option: str, text: str, words: list[str]
) -> None:
    Path("mine.py").write_text(text)
    assert_one_line(poprt("-i", model_path, option, "mine.py"), option.strip("-"), "mine.py", *words)
    debug = poprt("-i", model_path, option, "mine.py", "--logging_level", "DEBUG")
    assert "Traceback" in debug.stderr


def test_a_custom_pass_that_raises_is_one_line_with_its_place(poprt: Poprt, model_path: Path) -> None:
    name = "raising_pass_of_this_test"
    Path("mine.py").write_text(PASS_FILE.format(name=name) + "        return int('x')\n")
    words = ("-i", model_path, "--custom_pass_config", "mine.py", "--passes", name)
    assert_one_line(poprt(*words), f"pass '{name}' failed", "mine.py, line 6: ValueError")
    assert "Traceback" in poprt(*words, "--logging_level", "DEBUG").stderr


@pytest.mark.parametrize("words", [["--show"], ["--check"], []])
def test_an_element_type_that_does_not_exist_is_one_line(poprt: Poprt, words: list[str]) -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    model.graph.input[0].type.tensor_type.elem_type = 99
    onnx.save(model, "typed.onnx")
    assert_one_line(poprt("-i", "typed.onnx", *words), "typed.onnx", "'x'", "element type 99")


def test_duplicate_initializers_are_one_line(poprt: Poprt) -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Add (x, w) }")
    for value in (1, 2):
        model.graph.initializer.append(numpy_helper.from_array(np.full(2, value, np.float32), "w"))
    onnx.save(model, "twice.onnx")
    assert_one_line(poprt("-i", "twice.onnx"), "twice.onnx", "two initializers called 'w'")


def test_string_inputs_are_checked(poprt: Poprt) -> None:
    onnx.save(parse("g (string[n,3] x) => (string[n,3] y) { y = Identity (x) }"), "words.onnx")
    result = poprt("-i", "words.onnx", "--check")
    assert result.exit_code == 0, result.output
    assert "y: pass" in result.stdout
    assert_one_line(poprt("-i", "words.onnx", "--export_popef"), "'x' holds strings")


def test_inputs_that_are_no_tensors_are_shown_and_not_made_up(poprt: Poprt) -> None:
    model = parse("g (float[2] s) => (float[n] y) { y = ConcatFromSequence <axis = 0> (s) }")
    pair = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [2])
    model.graph.input[0].type.CopyFrom(onnx.helper.make_sequence_type_proto(pair))
    model.graph.output[0].ClearField("type")
    onnx.save(model, "sequence.onnx")
    shown = poprt("-i", "sequence.onnx", "--show")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines() == [
        "Input s: dtype - sequence, shape - []",
        "Output y: dtype - unknown, shape - []",
    ]
    assert_one_line(poprt("-i", "sequence.onnx", "--check"), "'s' is no tensor but of the kind sequence")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("g () => (float[2] y) { y = RandomNormal <shape = [2]> () }", "the model has no inputs"),
        (
            "g (float[2] x) => (bfloat16[2] y) { y = Cast <to = 16> (x) }",
            "'y' is of bfloat16; the runtime takes and gives",
        ),
    ],
)
def test_what_no_executable_can_be_fed_or_give_is_named(poprt: Poprt, text: str, says: str) -> None:
    onnx.save(parse(text), "m.onnx")
    assert_one_line(poprt("-i", "m.onnx", "--export_popef"), says)


def test_sample_data_beyond_memory_are_not_made(poprt: Poprt) -> None:
    onnx.save(parse("g (float[n,m] x) => (float[n,m] y) { y = Relu (x) }"), "wide.onnx")
    words = ("-i", "wide.onnx", "--input_shape", "x=2000000000,2000000000")
    for action in ("--check", "--run"):
        assert_one_line(poprt(*words, action), "input 'x'", "would not fit in memory")


@pytest.mark.parametrize("path", ["file", "file/below", "nul\0byte"])
def test_a_cache_path_of_no_use_is_named(poprt: Poprt, path: str) -> None:
    Path("file").write_text("in the way")
    onnx.save(parse("g (float[2] x) => (float[2] y) { y = Relu (x) }"), "small.onnx")
    options = ("--compiler_options", "enable_engine_caching=True", f"cache_path={path}")
    assert_one_line(poprt("-i", "small.onnx", "--export_popef", *options), "'cache_path'", repr(path))


@pytest.fixture(scope="module")
def packed() -> onnx.ModelProto:
    sizes = {**SIZES["tiny"], "layers": 1}
    converter = Converter(
        input_shape={name: [4, 16] for name in NAMES},
        pack_args={"max_valid_num": 16, "segment_max_size": 16},
        disable_progress_bar=True,
    )
    return converter.convert(build_bert(BertConfig(**sizes, head="qa")))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layout", "sideways"),
        ("rows", -1),
        ("columns", 2**40),
        ("max_valid_num", "x"),
        ("segment_max_size", []),
        ("segment_max_size", [None]),
        ("unpack_info", "nowhere"),
        ("dynamic_inputs", ["nowhere"]),
        ("dynamic_inputs", 3),
        ("mask", None),
        ("outputs", {"start_logits": "sideways"}),
        ("shape_agnostic", "yes"),
    ],
    ids=str,
)
def test_damaged_packing_metadata_are_one_line(
    poprt: Poprt, packed: onnx.ModelProto, field: str, value: object
) -> None:
    save_with_metadata(packed, lambda said: json.dumps({**said, field: value}))
    words = (field,) if value not in ("nowhere", ["nowhere"]) else ("'nowhere'",)
    assert_one_line(poprt("-i", "packed.onnx", "--export_popef"), "'poprt.packing' are damaged", *words)
    assert_one_line(poprt("-i", "packed.onnx", "--run"), "'poprt.packing' are damaged", *words)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000], ids=["empty", "open", "list", "null", "deep"])
def test_packing_metadata_that_are_no_object_are_one_line(poprt: Poprt, packed: onnx.ModelProto, text: str) -> None:
    save_with_metadata(packed, lambda _: text)
    assert_one_line(poprt("-i", "packed.onnx", "--export_popef"), "'poprt.packing' are damaged")


def save_with_metadata(packed: onnx.ModelProto, change: Callable[[dict[str, object]], str]) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(packed)
    for item in model.metadata_props:
        if item.key == METADATA_KEY:
            item.value = change(json.loads(item.value))
    onnx.save(model, "packed.onnx")


def test_a_refused_run_leaves_no_folder_that_it_made(poprt: Poprt, model_path: Path, tmp_path: Path) -> None:
    words = ("-i", model_path, "--input_shape", "input_ids=4")  # a wrong rank
    assert_one_line(poprt(*words, "--output_dir", "new/deep"), "input_ids")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    assert_one_line(poprt(*words, "--output_dir", "old/new"), "input_ids")
    assert list(tmp_path.rglob("*")) == [tmp_path / "old"]
    assert_one_line(poprt(*words, "--output_dir", "old"), "input_ids")
    assert (tmp_path / "old").is_dir()

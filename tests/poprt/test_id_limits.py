"""Ids that index a table: which inputs do, and that the runners refuse others at the door."""

import numpy as np
import onnx
import pytest

from models.bert import SIZES, BertConfig, build_bert
from passes.graph_io import import_graph
from poprt.compiler import Compiler
from poprt.compiler.id_limits import id_limits
from poprt.converter import Converter
from poprt.errors import InputError
from poprt.executable import Executable, TensorSpec
from poprt.runtime import DeclaredSession, ModelRunner, PackRunner, PackRunnerConfig, RuntimeConfig, pack_data
from tests.numerics import one_by_one, random_samples

SOON = 60
ROWS, COLUMNS, MOST = 3, 16, 8
VOCAB = BertConfig(**SIZES["tiny"]).vocab


def limits(body: str, inputs: str = "int64[n] ids") -> dict[str, int]:
    opsets = '"" : 19, "ai.graphcore" : 1, "com.microsoft" : 1'
    model = onnx.parser.parse_model(f"<ir_version: 9, opset_import: [{opsets}]> g ({inputs}) => (float y) {{ {body} }}")
    tables = {"table": np.zeros((7, 2), np.float32), "small": np.zeros((5, 2), np.int8), "wide": np.zeros((2, 4))}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in tables.items())
    return id_limits(import_graph(model))


@pytest.mark.parametrize(
    "body",
    [
        "y = Gather (table, ids)",
        "i = Cast <to = 6> (ids) y = Gather (table, i)",
        "i = Identity (ids) j = Cast <to = 7> (i) y = Gather (table, j)",
        "i = Reshape (ids, shape) y = Gather (table, i)",
        "i = ai.graphcore.Unpack (ids, info) y = Gather (table, i)",
        "t = Cast <to = 10> (table) y = Gather (t, ids)",
        "t = Constant <value = float[7] {1, 2, 3, 4, 5, 6, 7}> () y = Gather (t, ids)",
        "y = com.microsoft.GatherBlockQuantized <gather_axis = 0> (table, ids, scale)",
    ],
)
def test_an_input_that_indexes_a_table_is_limited_to_its_rows(body):
    assert limits(body) == {"ids": 7}


def test_the_smallest_table_counts_along_the_axis_that_is_indexed():
    assert limits("a = Gather (table, ids) b = DequantizeLinear (small, scale) y = Gather (b, ids)") == {"ids": 5}
    assert limits("y = Gather <axis = 1> (wide, ids)") == {"ids": 4}
    assert limits("y = Gather <axis = -1> (wide, ids)") == {"ids": 4}


@pytest.mark.parametrize(
    "body",
    [
        "i = Add (ids, ids) y = Gather (table, i)",  # a model that takes negative ids computes with them
        "i = Cast <to = 9> (ids) j = Cast <to = 7> (i) y = Gather (table, j)",  # every number is True
        "t = Mul (table, table) y = Gather (t, ids)",
        "y = GatherElements (table, ids)",
        "y = com.microsoft.Gather (table, ids)",
        "y = Gather (x, ids)",
    ],
)
def test_other_inputs_have_no_limit(body):
    assert limits(body, "int64[n] ids, float[3, 2] x") == {}


def test_floats_have_no_limit():
    assert limits("i = Cast <to = 7> (ids) y = Gather (table, i)", "float[n] ids") == {}


@pytest.fixture(scope="module")
def model():
    return build_bert(BertConfig(**SIZES["tiny"], head="mean", position_ids=True))


def convert(model, **options):
    shapes = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    return Compiler.compile(Converter(input_shape=shapes, disable_progress_bar=True, **options).convert(copy))


@pytest.fixture(scope="module")
def packed(model):
    return convert(model, pack_args={"max_valid_num": MOST, "segment_max_size": COLUMNS})


@pytest.mark.parametrize("options", [{}, {"used_passes": ["insert_attention_mask"]}, {"precision": "int8"}])
def test_a_converted_encoder_knows_its_tables(model, options):
    executable = convert(model, pack_args={"max_valid_num": MOST, "segment_max_size": COLUMNS}, **options)
    limited = {spec.name: spec.id_limit for spec in executable.inputs if spec.id_limit}
    assert limited == {"input_ids": VOCAB, "token_type_ids": 2, "position_ids": SIZES["tiny"].get("positions", 512)}


def test_the_limit_is_kept_in_the_file_and_files_without_it_have_none(packed, tmp_path):
    packed.save(tmp_path / "executable.popef")
    assert Executable(tmp_path / "executable.popef").inputs == packed.inputs
    assert TensorSpec("ids", (1,), "int32", "int32").id_limit == 0


@pytest.mark.parametrize("bad", [VOCAB, -1, 10**9, 2**40, -(2**40)])
def test_a_pack_runner_refuses_a_bad_id_in_its_own_request_before_it_runs(model, packed, bad):
    samples = random_samples([4, 6, 5], position_ids=True)
    samples[1]["input_ids"][2] = bad
    with PackRunner(packed, PackRunnerConfig(token_budget=512), threads=1) as runner:
        outs = [{"embedding": np.zeros(packed.outputs[0].shape[1:], np.float32)} for _ in samples]
        futures = [runner.execute_async(*pair) for pair in zip(samples, outs, strict=True)]
        message = f"'input_ids': the value {bad} in place 2 is no row of the model's table; expected 0 to {VOCAB - 1}"
        with pytest.raises(InputError, match=message):
            futures[1].wait(SOON)
        for number in (0, 2):
            futures[number].wait(SOON)
            (want,) = one_by_one(model, [samples[number]])
            np.testing.assert_allclose(outs[number]["embedding"], want["embedding"], atol=1e-5)
        assert runner.stats().samples == 2


def test_padding_that_is_removed_is_not_judged(packed):
    config = PackRunnerConfig(token_budget=512)
    config.enable_padding_remove_mode("attention_mask", ["input_ids", "token_type_ids"])
    padded = {
        "input_ids": np.array([5, 6, -100]),
        "attention_mask": np.array([1, 1, 0]),
        "token_type_ids": np.array([0, 0, -100]),
    }
    with PackRunner(packed, config, threads=1) as runner:
        runner.execute(padded, {})


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint64, np.dtype(">i4")])
def test_ids_of_any_integer_type_are_judged(packed, dtype):
    inputs = random_samples([3], position_ids=True)[0]
    with PackRunner(packed, PackRunnerConfig(token_budget=512), threads=1) as runner:
        runner.execute(inputs | {"input_ids": np.array([1, 2, 3], dtype)}, {})
        with pytest.raises(InputError, match="token_type_ids': the value 2 in place 1"):
            runner.execute(inputs | {"token_type_ids": np.array([1, 2, 0], dtype)}, {})
        if np.dtype(dtype).kind == "i":
            with pytest.raises(InputError, match="'input_ids': the value -1 in place 0"):
                runner.execute(inputs | {"input_ids": np.array([-1, 2, 3], dtype)}, {})


def test_a_model_runner_refuses_bad_ids_where_samples_are_and_reads_nothing_behind_them(packed):
    samples = random_samples([4, 6], position_ids=True)
    pack = pack_data(samples, 0, ROWS, COLUMNS, MOST, 1, across_rows=True)
    feeds = {**pack.data, "unpack_info": pack.unpack_info}
    feeds["input_ids"].flat[10:] = -1
    session = DeclaredSession(packed, threads=1)
    session.run(feeds)
    feeds["input_ids"].flat[9] = -1
    with pytest.raises(InputError, match="'input_ids': the value -1 in place 9"):
        session.run(feeds)
    with ModelRunner(packed, threads=1) as runner:
        future = runner.execute_async(feeds, {})
        with pytest.raises(InputError, match="'input_ids': the value -1 in place 9"):
            future.wait(SOON)


@pytest.mark.parametrize("axis", [None, 0])
def test_a_model_runner_refuses_a_bad_id_in_its_own_request(model, axis):
    executable = convert(model)
    feeds = {spec.name: np.ones(spec.shape, np.int64) for spec in executable.inputs}
    bad = feeds | {"input_ids": np.full((ROWS, COLUMNS), VOCAB)}
    with ModelRunner(executable, RuntimeConfig(batching_dim=axis), threads=1) as runner:
        futures = [runner.execute_async(each, {}) for each in (feeds, bad, feeds)]
        with pytest.raises(InputError, match=f"'input_ids': the value {VOCAB} in place 0"):
            futures[1].wait(SOON)
        for number in (0, 2):
            futures[number].wait(SOON)

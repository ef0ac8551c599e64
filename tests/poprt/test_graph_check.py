"""The look at a graph before the engine sees it: what is refused, by name, and what is not."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.bert import SIZES, BertConfig, build_bert
from poprt import graph_reader
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.engine.session import EngineSession
from poprt.errors import ExecutableError, UnsafeGraphError
from poprt.executable import Executable, Manifest, TensorSpec
from poprt.graph_check import check_graph
from poprt.manifest import WeightSpec
from tests.fuzz.files import sealed

WEIGHT = WeightSpec("w", (300,), "float16", "float32", 0, 600)


def info(name: str, kind: int = TensorProto.FLOAT, shape: Sequence[int] | None = (4,)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    *nodes: onnx.NodeProto, kind: int = TensorProto.FLOAT, tensors: Any = (), functions: Any = ()
) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "g", [info("x", kind)], [info("y", kind, None)], list(tensors))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    return helper.make_model(graph, functions=list(functions), opset_imports=imports, ir_version=8)


def external(name: str = "w", location: str = "weights.bin", kind: int = TensorProto.FLOAT) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=[300], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def constant(name: str, values: Any, dtype: Any = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def identity(name: str = "x") -> onnx.NodeProto:
    return helper.make_node("Identity", [name], ["y"])


def refused(proto: onnx.ModelProto, text: str, weights: Sequence[WeightSpec] = (WEIGHT,)) -> None:
    with pytest.raises(UnsafeGraphError, match=text):
        check_graph(proto.SerializeToString(), weights)


def branch(*nodes: onnx.NodeProto, tensors: Any = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "b", [], [helper.make_empty_tensor_value_info("b")], list(tensors))


def test_weights_of_the_executable_may_be_external() -> None:
    check_graph(model(identity("w"), tensors=[external()]).SerializeToString(), [WEIGHT])


def test_external_data_that_is_not_ours_is_refused_wherever_it_stands() -> None:
    other = external("secret", "passwords")
    attribute = helper.make_node("Constant", [], ["y"], value=other)
    inner = branch(helper.make_node("Identity", ["secret"], ["b"]), tensors=[other])
    condition = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    function = helper.make_function("f", "F", ["a"], ["y"], [attribute], [helper.make_opsetid("", 17)])
    sparse = model(identity())
    sparse.graph.sparse_initializer.add().values.CopyFrom(other)
    several = helper.make_node("Custom", ["x"], ["y"], domain="d")
    several.attribute.add(name="a", type=onnx.AttributeProto.TENSORS).tensors.append(other)
    for proto in (
        model(identity("secret"), tensors=[other]),
        model(attribute),
        model(condition, tensors=[constant("c", True, bool)]),
        model(helper.make_node("F", ["x"], ["y"], domain="f"), functions=[function]),
        sparse,
        model(several),
    ):
        refused(proto, "secret.*passwords")


def test_a_weight_may_be_external_once_in_its_place_as_it_is() -> None:
    refused(model(identity("w"), tensors=[external(location="other")]), "'w'.*other")
    refused(model(identity("w"), tensors=[external(), external()]), "'w'.*once")
    refused(model(identity("w"), tensors=[external(kind=TensorProto.DOUBLE)]), "'w'.*ONNX type 11")
    refused(model(identity("w"), tensors=[external()]), "'w'.*weights that the manifest lists", weights=[])
    wrong = external()
    wrong.dims[0] = 299
    refused(model(identity("w"), tensors=[wrong]), "'w' .*299")
    marked = onnx.TensorProto(name="m", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    refused(model(identity("m"), tensors=[marked]), "'m'")


def test_a_file_cannot_read_files_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret").write_bytes(bytes(1200))
    proto = model(identity("w"), tensors=[external(location="secret")])
    spec = TensorSpec("x", (4,), "float32", "float32")
    manifest = Manifest((spec,), (TensorSpec("y", (300,), "float32", "float32"),), ())
    Path("m.popef").write_bytes(sealed(dataclasses.asdict(manifest), proto.SerializeToString()))
    with pytest.raises(UnsafeGraphError, match=r"m\.popef.*'w'.*'secret'"):
        Executable("m.popef")


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_whole_numbers_divided_by_minus_one(dtype: Any) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    divide = helper.make_node("Div", ["x", "d"], ["y"], name="division")
    refused(model(divide, kind=kind, tensors=[constant("d", [-1], dtype)]), "division.*-1")
    unpacked = helper.make_tensor("d", kind, [2], [3, -1])
    refused(model(divide, kind=kind, tensors=[unpacked]), "division.*-1")
    node = helper.make_node("Constant", [], ["d"], value=constant("", [2, -1], dtype))
    refused(model(node, divide, kind=kind), "division.*-1")
    check_graph(model(divide, kind=kind, tensors=[constant("d", [2], dtype)]).SerializeToString(), ())
    check_graph(model(divide, tensors=[constant("d", [-1], np.float32)]).SerializeToString(), ())


def test_the_divisor_is_looked_for_where_the_name_means_it() -> None:
    divide = helper.make_node("Div", ["x", "d"], ["b"])
    inner = branch(divide)
    condition = helper.make_node("If", ["c"], ["y"], name="if", then_branch=inner, else_branch=inner)
    tensors = [constant("c", True, bool), constant("d", -1)]
    refused(model(condition, kind=TensorProto.INT64, tensors=tensors), "-1")
    shadowed = branch(divide, tensors=[constant("d", 2)])
    condition = helper.make_node("If", ["c"], ["y"], name="if", then_branch=shadowed, else_branch=shadowed)
    check_graph(model(condition, kind=TensorProto.INT64, tensors=tensors).SerializeToString(), ())


def test_split_and_loop_name_their_outputs_and_other_nodes_need_not() -> None:
    refused(model(helper.make_node("Split", ["x"], ["", "y"], name="s")), "Split node 's'.*name all outputs")
    refused(model(helper.make_node("Loop", ["m", "", "x"], ["", "y"], name="l")), "Loop node 'l'.*name all outputs")
    check_graph(model(helper.make_node("LSTM", ["x", "w", "r"], ["", "y"])).SerializeToString(), ())
    check_graph(model(helper.make_node("Split", ["x"], ["", "y"], domain="other")).SerializeToString(), ())


def loop(count: str, condition: str, *, said: str = "go") -> onnx.NodeProto:
    nodes = [
        helper.make_node("Identity", ["going"], ["go"]),
        helper.make_node("Identity", ["v"], ["next"]),
        helper.make_node("Less", ["i", "limit"], ["less"]),
    ]
    inputs = [info("i", TensorProto.INT64, []), info("going", TensorProto.BOOL, []), info("v")]
    body = helper.make_graph(
        nodes, "body", inputs, [info(said, TensorProto.BOOL, []), info("next")], [constant("always", True, bool)]
    )
    return helper.make_node("Loop", [count, condition, "x"], ["y"], name="turns", body=body)


def test_a_loop_that_cannot_end_is_refused_and_others_are_not() -> None:
    tensors = [constant("five", 5), constant("huge", 2**62), constant("true", True, bool), constant("limit", 3)]
    for endless in (
        loop("", ""),
        loop("huge", ""),
        loop("", "true"),
        loop("huge", "true"),
        loop("", "true", said="always"),
    ):
        refused(model(endless, tensors=tensors), "turns.*never ends")
    for other in (
        loop("five", ""),
        loop("five", "true"),
        loop("", "true", said="less"),
        loop("huge", "true", said="less"),
        loop("computed", "true"),
        loop("", "computed"),
    ):
        check_graph(model(other, tensors=tensors).SerializeToString(), ())


def nested(depth: int, calls: int) -> onnx.ModelProto:
    """Functions that each call the next one ``calls`` times."""
    functions = []
    for level in range(depth):
        operator, domain = ("Relu", "") if level == 0 else (f"F{level - 1}", "f")
        names = ["a", *(f"t{i}" for i in range(calls))]
        nodes = [
            helper.make_node(operator, [source], [target], domain=domain)
            for source, target in itertools.pairwise(names)
        ]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
        functions.append(helper.make_function("f", f"F{level}", ["a"], [names[-1]], nodes, imports))
    return model(helper.make_node(f"F{depth - 1}", ["x"], ["y"], domain="f"), functions=functions)


def test_local_functions_are_counted_as_often_as_they_are_called() -> None:
    check_graph(nested(10, 2).SerializeToString(), ())
    check_graph(nested(90, 1).SerializeToString(), ())
    for depth in (20, 25, 60):
        refused(nested(depth, 2), "local functions grow to .* nodes")


def test_what_a_function_holds_is_counted_as_often_too() -> None:
    big = helper.make_node("Constant", [], ["b"], value=constant("", np.zeros(1 << 17)))
    function = helper.make_function("f", "F", ["a"], ["b"], [big], [helper.make_opsetid("", 17)])
    calls = [helper.make_node("F", ["x"], [f"y{i}"], domain="f") for i in range(200)]
    refused(model(*calls, identity("y1"), functions=[function]), "bytes when each call")


def test_a_function_that_calls_itself_is_refused_also_by_way_of_another() -> None:
    imports = [helper.make_opsetid("f", 1)]

    def calls(name: str, other: str) -> onnx.FunctionProto:
        return helper.make_function(
            "f", name, ["a"], ["b"], [helper.make_node(other, ["a"], ["b"], domain="f")], imports
        )

    node = helper.make_node("F", ["x"], ["y"], domain="f")
    refused(model(node, functions=[calls("F", "F")]), "'F' calls itself")
    refused(model(node, functions=[calls("F", "G"), calls("G", "F")]), "calls itself")
    refused(model(node, functions=[calls("F", "G"), calls("F", "G")]), "'F' is defined twice")


def test_graphs_within_graphs_are_bounded() -> None:
    graph = b""
    for depth in range(40):
        if depth == 30:
            check_graph(_field(7, graph), ())
        graph = _field(1, _field(5, _field(6, graph)))  # a graph's node's attribute's graph
    with pytest.raises(UnsafeGraphError, match="graphs within graphs"):
        check_graph(_field(7, graph), ())


def _field(number: int, data: bytes) -> bytes:
    size = len(data)
    return bytes([number << 3 | 2, size & 127 | 128, size >> 7]) + data


@pytest.mark.parametrize(
    "data",
    [
        b"no graph",
        b"\xff" * 20,
        b"\x3a\x05\x0a\x02",
        b"\x0b\x0c",
        b"\x08",
        b"\x00\x00\x00\x00ORTM",
        b"\x3a\xff\xff\x7f",
    ],
)
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(UnsafeGraphError):
        check_graph(data, ())


def test_a_graph_of_more_nodes_than_any_model_has_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_reader, "_MOST_ITEMS", 1000)
    check_graph(_field(7, b"\x0a\x00" * 1000), ())  # empty nodes
    with pytest.raises(UnsafeGraphError, match="more than 1000 nodes"):
        check_graph(_field(7, b"\x0a\x00" * 1001), ())


def test_an_ordinary_model_passes(tmp_path: Path) -> None:
    shape = {name: [2, 12] for name in ("input_ids", "attention_mask", "token_type_ids")}
    converter = Converter(
        input_shape=shape, pack_args={"max_valid_num": 4, "segment_max_size": 12}, disable_progress_bar=True
    )
    converted = converter.convert(build_bert(BertConfig(**SIZES["tiny"], head="qa")))
    check_graph(converted.SerializeToString(), ())
    Compiler.compile_and_export(converted, None, tmp_path / "m.popef")
    Executable(tmp_path / "m.popef")


def test_the_graph_has_to_take_and_give_what_the_manifest_says() -> None:
    def spec(name: str, dtype: str = "float32") -> TensorSpec:
        return TensorSpec(name, (4,), dtype, dtype)

    graph = model(identity()).SerializeToString()
    EngineSession(Executable.build(Manifest((spec("x"),), (spec("y"),), ()), graph))
    for inputs, outputs in (
        ([], [spec("y")]),
        ([spec("x"), spec("z")], [spec("y")]),
        ([spec("x", "int32")], [spec("y")]),
        ([spec("x")], [spec("z")]),
        ([spec("x")], [spec("y", "float64")]),
    ):
        with pytest.raises(ExecutableError, match="not those of the graph"):
            EngineSession(Executable.build(Manifest(tuple(inputs), tuple(outputs), ()), graph))


def test_constants_that_would_grow_are_not_computed_while_loading() -> None:
    shape = constant("shape", [1 << 29])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["z"]),
        helper.make_node("ReduceSum", ["z"], ["r"]),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    spec = TensorSpec("x", (4,), "float32", "float32")
    manifest = Manifest((spec,), (TensorSpec("y", (4,), "float32", "float32"),), ())
    script = (
        "import sys, re, pickle; from poprt.engine.session import EngineSession\n"
        "executable = pickle.loads(sys.stdin.buffer.read()); EngineSession(executable)\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) >> 10)"
    )
    built = Executable.build(manifest, model(*nodes, tensors=[shape]).SerializeToString())
    ended = subprocess.run([sys.executable, "-c", script], input=pickle.dumps(built), capture_output=True, check=True)
    # Computed, the constant alone takes 2048 MiB. (The peak in getrusage begins with that of the starting process.)
    assert int(ended.stdout) < 2000

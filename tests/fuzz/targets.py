"""What is fuzzed: for each target a fixed corpus, made in code, and a function that takes any bytes.

The function returns or raises an error that is the caller's to mend (``ALLOWED``); anything else is a finding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from models.bert import SIZES, BertConfig, build_bert
from passes.errors import RewriteError
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.errors import PoprtError, UnsafeGraphError
from poprt.executable import TEXT, TOKENIZER, Executable
from poprt.graph_check import check_graph
from poprt.runtime import ModelRunner, PackRunner, PackRunnerConfig
from poprt.text.facts import QUESTION_ANSWERING, TextFacts, read_facts
from poprt.text.tokens import TextTokenizer
from poprt_cli.main import cli
from tests.fuzz.files import head, resealed, sealed
from tests.text_folders import byte_pairs, wordpiece

ALLOWED = (PoprtError, RewriteError, click.ClickException)

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PACK_ARGS = {"max_valid_num": 3, "segment_max_size": 6}


@dataclass(frozen=True)
class Target:
    """One target.

    Attributes:
        corpus: well-formed inputs and known bad ones.
        run: takes any bytes.
        traced: whether Python's own allocations are all that matter; elsewhere the growth of the process is measured.
    """

    corpus: Callable[[], list[bytes]]
    run: Callable[[bytes], None]
    traced: bool


@cache
def small_model() -> onnx.ModelProto:
    """An encoder of one layer with a few hundred weights."""
    sizes = {**SIZES["tiny"], "layers": 1}
    return build_bert(BertConfig(**sizes, head="qa"))


@cache
def executables() -> tuple[Executable, ...]:
    """A packed one, one packed within rows, and a plain one."""
    logging.getLogger("poprt").setLevel(logging.CRITICAL)
    shape = {name: [2, 6] for name in INPUTS}
    converters = [
        Converter(input_shape=shape, pack_args=PACK_ARGS, disable_progress_bar=True),
        Converter(input_shape=shape, used_passes=["insert_attention_mask"], disable_progress_bar=True),
        Converter(input_shape=shape, disable_progress_bar=True),
    ]
    return tuple(Compiler.compile(converter.convert(small_model()), None) for converter in converters)


@contextlib.contextmanager
def _written(data: bytes) -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(suffix=".popef") as file:
        file.write(data)
        file.flush()
        yield Path(file.name)


def _parts(executable: Executable) -> tuple[dict[str, object], bytes, bytes]:
    manifest = json.loads(json.dumps(dataclasses.asdict(executable.manifest)))
    return manifest, executable.graph, b"".join(map(bytes, executable._weight_chunks()))


def _container_corpus() -> list[bytes]:
    """Small files: what is mutated then hits a header more often than a weight."""
    tensors = [helper.make_tensor("w", TensorProto.FLOAT, [300], [0.5] * 300)]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [300]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", value[:1], value[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    small = sealed(*_parts(Compiler.compile(model.SerializeToString())))
    packed = sealed(*_parts(executables()[0]))
    texts = sealed(*_parts(executables()[0]), extra=dict(zip((TEXT, TOKENIZER), _text_corpus()[:2], strict=True)))
    return [small, packed, texts, small[:-30], b"", b"PK\x05\x06" + bytes(18)]


def _load_container(data: bytes) -> None:
    """Load the file as it is, and again with the digest of its frame made right."""
    for version, check_hash in ((data, True), (resealed(data), False)):
        with contextlib.suppress(*ALLOWED), _written(version) as path:
            loaded = Executable(path, check_hash=check_hash)
            for spec in loaded.manifest.weights:
                loaded.weight(spec.name)
            if loaded.texts:
                read_facts(loaded.texts[TEXT], loaded.manifest)


def _text_corpus() -> list[bytes]:
    """What a text model says of itself, and tokenizers of several kinds."""
    facts = TextFacts("m", QUESTION_ANSWERING, ("start_logits", "end_logits"), 6, unk_token="[UNK]", cls_token="[CLS]")
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("\u2581the", -1.5), ("\u2581", -2.0), ("b", -3.0)], 0, True))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("x", "b")])
    unigram.decoder = decoders.Metaspace()
    tokenizers = (wordpiece(), byte_pairs(), unigram)
    return [facts.to_json(), *(tokenizer.to_str().encode() for tokenizer in tokenizers)]


def _read_texts(data: bytes) -> None:
    """Take the data for what a text model says of itself, and for its tokenizer; tokenise with what can be read."""
    manifest = executables()[0].manifest
    facts, tokenizer, *_ = _text_corpus()
    for members in ((data, tokenizer), (facts, data)):
        with contextlib.suppress(*ALLOWED):
            _tokenise(TextTokenizer(members[1], read_facts(members[0], manifest)))


def _tokenise(tokenizer: TextTokenizer) -> None:
    texts = ["the bank 3.5 \u00fcn\u00ef \U0001f642", "", ("who", "anna sold bread"), "b" * 3000]
    for offsets in (False, True):
        with contextlib.suppress(*ALLOWED):
            for tokens in tokenizer.tokenize(texts, offsets=offsets):
                tokenizer.decode(tokens.ids.tolist())
                tokenizer.words(tokens.encoding.tokens)
    tokenizer.windows("who", "anna sold the old house by the river", 6, 1)


def _manifest_corpus() -> list[bytes]:
    manifests = [_parts(executable)[0] for executable in executables()]
    # Short ones: what is mutated then hits a field more often than the name of a weight.
    short = [{**manifest, "weights": manifest["weights"][:1]} for manifest in manifests]  # type: ignore[index]
    return [json.dumps(manifest).encode() for manifest in [*manifests, *short]]


def _load_manifest(data: bytes) -> None:
    """Put the manifest into a sealed file, load it, and open a runner on what loads."""
    _, graph, weights = _parts(executables()[0])
    manifest: object = data
    with contextlib.suppress(ValueError, RecursionError):
        parsed = json.loads(data)
        manifest = (
            {**head({"model.onnx": graph, "weights.bin": weights}), **parsed} if isinstance(parsed, dict) else data
        )
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    with _written(sealed(text, graph, weights)) as path:
        loaded = Executable(path)
        with ModelRunner(loaded, threads=1):
            pass
        if loaded.packing is not None:
            with PackRunner(loaded, PackRunnerConfig(lanes=1), threads=1):
                pass


def _graph_corpus() -> list[bytes]:
    models = [small_model(), *_small_graphs()]
    graphs = [executable.graph for executable in executables()]
    return [*(model.SerializeToString() for model in models), *graphs]


def _small_graphs() -> list[onnx.ModelProto]:
    """Subgraphs, functions, sparse and external tensors: what the encoder has not."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["b"])], "b", [], [helper.make_empty_tensor_value_info("b")]
    )
    flag = helper.make_tensor("flag", TensorProto.BOOL, [], [True])
    function = helper.make_function(
        "f", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    nodes = {
        "if": helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch),
        "call": helper.make_node("F", ["x"], ["y"], domain="f"),
        "split": helper.make_node("Split", ["x"], ["y", "z"], axis=1),
        "cast": helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT64),
    }
    models = [
        helper.make_model(
            helper.make_graph([node], name, [x], [y], [flag]), functions=[function], opset_imports=imports, ir_version=8
        )
        for name, node in [*nodes.items(), ("weights", helper.make_node("Add", ["x", "w"], ["y"]))]
    ]
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [0.5, 1])
    places = helper.make_tensor("w_places", TensorProto.INT64, [2], [0, 3])
    models[-1].graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4]))
    outside = onnx.TensorProto(name="v", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    onnx.helper.set_model_props(models[-1], {"key": "text"})
    return [*models, _with_initializer(models[0], outside)]


def _with_initializer(model: onnx.ModelProto, tensor: onnx.TensorProto) -> onnx.ModelProto:
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    extended.graph.initializer.append(tensor)
    extended.graph.initializer[-1].external_data.add(key="location", value="v.data")
    return extended


_CONVERTERS: tuple[dict[str, object], ...] = (
    {},
    {"input_shape": {name: [2, 6] for name in INPUTS}, "pack_args": PACK_ARGS},
    {"input_shape": {name: [2, 6] for name in INPUTS}, "used_passes": ["insert_attention_mask"]},
    {"precision": "fp16"},
)


def _convert(data: bytes) -> None:
    """Look at the model as the loader does, and convert it; its last byte says how."""
    with contextlib.suppress(UnsafeGraphError):
        check_graph(data, ())
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        return
    options = _CONVERTERS[data[-1] % len(_CONVERTERS)] if data else {}
    Converter(**options, disable_progress_bar=True).convert(model)  # type: ignore[arg-type]


def _cli_corpus() -> list[bytes]:
    lines = [
        "--input_model model.onnx --show",
        "--input_model model.onnx --input_shape input_ids=2,6 attention_mask=2,6 token_type_ids=2,6",
        "--input_model model.onnx --input_shape input_ids=2,6 --pack_args max_valid_num=3 segment_max_size=6",
        "--input_model model.onnx --precision fp16 --skip_passes constant_folding --convert_version 17",
        "--input_model model.onnx --passes insert_attention_mask --batch_size 2 --checkpoints x --remove_outputs y",
        "--list_all_passes --logging_level ERROR",
        "--input_model model.onnx --output_model out.onnx --compiler_options num_io_tiles=3 --export_popef",
        "--config_yaml c.yaml --fp16_skip_op_types Gelu --max_tensor_size -1 --batch_axis 0 --print_completion bash",
    ]
    return ["\n".join(line.split()).encode() for line in lines]


def _command_line(data: bytes) -> None:
    """Run the command in a folder of its own; each line of ``data`` is a word."""
    words = [word for word in data.decode("utf-8", "replace").split("\n") if "/" not in word and "\0" not in word]
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(small_model(), Path(folder, "model.onnx"))
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                cli(words, prog_name="poprt")
        except SystemExit:
            pass
        finally:
            os.chdir(before)


TARGETS = {
    "container": Target(_container_corpus, _load_container, traced=True),
    "text": Target(_text_corpus, _read_texts, traced=False),
    "manifest": Target(_manifest_corpus, _load_manifest, traced=True),
    "graph": Target(_graph_corpus, _convert, traced=False),
    "cli": Target(_cli_corpus, _command_line, traced=False),
}

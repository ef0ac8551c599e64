"""A folder in, an executable out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from passes.parted import PartedModel
from passes.precision.int8_observation import SampleData
from poprt.atomic_file import check_target
from poprt.compiler import Compiler, CompilerOptions
from poprt.converter import Converter
from poprt.engine.choice import CHOICES
from poprt.errors import PoprtError
from poprt.executable import TEXT, TOKENIZER, Executable
from poprt.manifest import ONNXRUNTIME
from poprt.option_kinds import PRECISION
from poprt.text.facts import BY_TOKEN, EMBEDDING, QUESTION_ANSWERING, RERANKING, TASKS, TextFacts
from poprt.text.folder.describe import describe
from poprt.text.folder.dimensions import read_dimensions
from poprt.text.folder.files import ModelFolder
from poprt.text.folder.graph import check_inputs, outputs_of
from poprt.text.folder.head import add_head, keep_outputs, normalise
from poprt.text.folder.limits import PACK_TEXTS, input_shapes, max_length
from poprt.text.folder.modules import POOLINGS, Head, read_head
from poprt.text.folder.samples import read_sample_texts, text_data
from poprt.text.folder.task import Answer, find_answer
from poprt.text.folder.tokenizer import check_vocabulary, read_tokenizer
from poprt.text.tokens import TextTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger("poprt")


@dataclass(frozen=True)
class PackedText:
    """What came of a folder.

    Attributes:
        executable: in memory; its weights are those of the converted model.
        facts: what it says of itself.
        converter: what was done to the graph, with the trial of packed samples.
    """

    executable: Executable
    facts: TextFacts
    converter: Converter


@dataclass(frozen=True)
class PackOptions:
    """What the caller says instead of the folder.

    Attributes:
        precision: "fp32", "fp16", "bf16" or "int8".
        max_length: most tokens of a text; None takes the folder's.
        pooling: one of :data:`poprt.text.folder.modules.POOLINGS`; None takes the folder's.
        task: one of :data:`poprt.text.facts.TASKS`; None takes what config and graph say.
        dimensions: sizes to which embeddings may be cut; None takes what the folder declares.
        progress: whether progress is shown on a terminal.
        engine: what to compile for, as ``CompilerOptions.engine``.
        sample_texts: a file of texts, one a line, that int8 is measured on; None takes a list of the package's own.
    """

    precision: str = "fp32"
    max_length: int | None = None
    pooling: str | None = None
    task: str | None = None
    progress: bool = True
    dimensions: tuple[int, ...] | None = None
    sample_texts: str | Path | None = None
    engine: str = ONNXRUNTIME

    def __post_init__(self) -> None:
        choices = (("precision", PRECISION.words), ("pooling", POOLINGS), ("task", TASKS), ("engine", CHOICES))
        for name, words in choices:
            value = getattr(self, name)
            if value is not None and value not in words:
                raise PoprtError(f"{name} is {value!r}, expected one of {', '.join(words)}")
        if self.max_length is not None and (type(self.max_length) is not int or self.max_length < 1):
            raise PoprtError(f"max_length is {self.max_length!r}, expected a whole number of 1 or more")
        if any(type(size) is not int or size < 1 for size in self.dimensions or ()):
            raise PoprtError(f"dimensions is {self.dimensions!r}, expected whole numbers of 1 or more")
        if self.sample_texts is not None and self.precision != "int8":
            raise PoprtError(f"sample_texts: int8 alone is measured on texts, and precision is {self.precision!r}")


def pack(folder: str | Path, output: str | Path | None = None, options: PackOptions | None = None) -> PackedText:
    """Pack the model of a folder, and write the executable.

    Args:
        folder: what transformers or sentence-transformers saved, with ``model.onnx`` or ``onnx/model.onnx`` beside it.
        output: where the executable goes; None writes nothing.
        options: what to do otherwise than the folder says.

    Raises:
        PoprtError: a file is missing or says what cannot be, or the model cannot be packed; nothing was written.
    """
    options = options or PackOptions()
    if output is not None:
        _check_output(Path(output))
    texts = read_sample_texts(options.sample_texts) if options.precision == "int8" else []
    files = ModelFolder(folder)
    tokenizer = read_tokenizer(files)
    source = repr(str(files.path / "tokenizer.json"))
    check_vocabulary(tokenizer, files.whole(files.config, "vocab_size", "config.json"), source)
    model, facts = _prepared(files, options)
    if options.dimensions is not None and facts.task != EMBEDDING:
        raise PoprtError(f"dimensions: the model is for {facts.task}, and gives no embeddings to cut")
    _check_room(tokenizer, facts)
    data = text_data(texts, TextTokenizer(tokenizer.to_str().encode(), facts), facts) if texts else None
    executable, converter = _compiled(model, facts, options, data)
    check_places(executable, facts.task)
    limits = {spec.name: spec.id_limit for spec in executable.inputs}
    check_vocabulary(tokenizer, limits["input_ids"], source)
    if facts.task == EMBEDDING:
        dimension = _dimension(executable, facts)
        sizes = read_dimensions(files, dimension, options.dimensions)
        facts = replace(facts, dimension=dimension, dimensions=sizes)
    members = {TEXT: facts.to_json(), TOKENIZER: tokenizer.to_str().encode()}
    packed = PackedText(executable.with_texts(members), facts, converter)
    if output is not None:
        packed.executable.save(output)
    return packed


def check_places(executable: Executable, task: str) -> None:
    """Raise PoprtError where a task tells of each token, and the answers have other places than the tokens."""
    packing = executable.packing
    if task in BY_TOKEN and packing is not None and packing.subsampled:
        raise PoprtError(
            f"{task} tells of each token, and the graph gives {packing.places(packing.width)} places for "
            f"{packing.width} tokens: pack it by `poprt --input_model` and serve it on tensors"
        )


def _check_output(path: Path) -> None:
    if not path.parent.is_dir():
        raise PoprtError(f"{str(path)!r} cannot be written: there is no folder {str(path.parent)!r}")
    check_target(path)


def _check_room(tokenizer: Tokenizer, facts: TextFacts) -> None:
    frame = tokenizer.num_special_tokens_to_add(facts.task in (RERANKING, QUESTION_ANSWERING))
    if facts.max_length <= frame:
        raise PoprtError(f"max_length {facts.max_length}: the tokenizer frames a text with {frame} tokens; give more")


def _prepared(files: ModelFolder, options: PackOptions) -> tuple[onnx.ModelProto, TextFacts]:
    """The graph with its answer as the only output, and what is said of it."""
    model = files.model()
    check_inputs(model, str(files.config.get("model_type")))
    answer = find_answer(files, outputs_of(model), options.task, options.pooling is not None)
    longest = max_length(files, model, options.max_length)
    facts = describe(files, answer, longest)
    if answer.task != EMBEDDING:
        if options.pooling:
            raise PoprtError(f"--pooling: the model is for {answer.task}, which pools nothing")
        keep_outputs(model, answer.outputs, [len(facts.labels)] * len(answer.outputs))
        return model, facts
    head = _head(files, answer, options.pooling)
    model = _with_head(model, answer, head, files)
    pooling = "+".join(head.poolings) or "in the graph"
    output = model.graph.output[0].name
    return model, replace(facts, outputs=(output,), pooling=pooling, normalised=head.normalise)


def _head(files: ModelFolder, answer: Answer, pooling: str | None) -> Head:
    """What to add to the graph of an embedding model.

    Raises:
        PoprtError: nothing says how to pool.
    """
    said = read_head(files) or Head()
    if answer.pooled:
        return Head(normalise=said.normalise)
    if pooling:
        said = replace(said, poolings=(pooling,))
    if not said.poolings:
        raise PoprtError(
            f"{str(files.path)!r} does not say how the vectors of tokens become one (no modules.json with a pooling): "
            f"--pooling says it, one of {', '.join(POOLINGS)}"
        )
    return said


def _with_head(model: onnx.ModelProto, answer: Answer, head: Head, files: ModelFolder) -> onnx.ModelProto:
    output = answer.outputs[0]
    if not answer.pooled:
        width = output.width or files.whole(files.config, "hidden_size", "config.json")
        return add_head(model, output, head, width, files)
    keep_outputs(model, [output], [0])
    return normalise(model, output) if head.normalise else model


def _compiled(
    model: onnx.ModelProto, facts: TextFacts, options: PackOptions, sample_data: SampleData | None
) -> tuple[Executable, Converter]:
    """Convert, try and compile. What was compiled for the trial is not compiled again."""
    converter = Converter(
        input_shape=input_shapes(model, facts.max_length),
        precision=options.precision,
        pack_args={"max_valid_num": PACK_TEXTS, "segment_max_size": facts.max_length},
        disable_progress_bar=not options.progress,
        logger=logger,
    )
    compiled: list[Executable] = []
    compiling = CompilerOptions(engine=options.engine)

    def compile_model(parted: PartedModel) -> Executable:
        compiled.append(Compiler.compile(parted, options=compiling))
        return compiled[-1]

    converted = converter.convert_in_place(model, compile_model=compile_model, sample_data=sample_data)
    if compiled and converter.isolation is not None and not converter.isolation.fell_back:
        return compiled[-1], converter
    return Compiler.compile(converted, options=compiling), converter


def _dimension(executable: Executable, facts: TextFacts) -> int:
    width = next(spec.shape[-1] for spec in executable.outputs if spec.name == facts.outputs[0])
    if not width:
        raise PoprtError(f"the graph does not say how long an embedding is: {facts.outputs[0]!r} has an open last axis")
    return width
